"""Coverage of the intervals of a comparison, and how often a study says "helps" where nothing does.

    python -m kdtune.search --name coverage --keep all --repeats 40     # the default study
    apt-get install dataset-fashion-mnist
    python experiments/coverage.py --study runs/coverage                # or --part simulated

    python -m kdtune.search experiments/whole_fashion.py --name draws --keep all --repeats 40
    python experiments/coverage.py --study runs/draws --part real    # each repeat draws its images

Two intervals of 95 % are compared: over repeats alone, and over repeats and images (two-way,
`kdtune.statistics.intervals`). The truth is the difference for new repeats and new images.

simulated: correctness of two configurations, R repeats x N images, from a probit model: a latent
    score is 0.9 + image (SD 1.2, common to all configurations) + image x configuration (SD 0.38) +
    repeat x configuration (three sizes) + noise (SD 0.6), and the image is classified correctly if
    the score is positive. The truth follows from the normal distribution.
null: the same model without any difference between the configurations. "Helps" is the verdict's
    rule: Holm p < 0.05 and the simultaneous interval is above 0, for any of the configurations.
groups: the probit model with groups (patients, speakers) of 1 to 19 images, which share a common
    part (SD 0.8) and one of each configuration (SD 0.3). The two-way interval by images,
    and that by groups.
metrics: balanced accuracy, the recall of a class of 30 images on average and macro AUC, by their
    values per image (`kdtune.config.task.find_metric`), and balanced accuracy as a function of
    the user's own, by the jackknife. Labels are drawn with the images, and repeat x
    configuration varies by class. Bootstrap: Owen's (2007) of the balanced accuracy, repeats and
    images drawn with replacement, 2.5 and 97.5 % quantiles.
real: the students of a study, evaluated on Fashion-MNIST's 10,000 test images without those of the
    embedded data. Repeats and images are drawn with replacement, so the population is exactly
    these students and images. Null tables are made by permuting the labels of the configurations,
    once per repeat (for all images) or once per image (for all repeats).
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import norm

from kdtune.config.task import find_metric
from kdtune.data.sources import load_data
from kdtune.statistics.intervals import Estimate, by_group, crossed, over_repeats
from kdtune.statistics.tests import holm
from kdtune.training.epoch import compute_metric, values_of_metric

REPEATS, IMAGES = (4, 8, 16), (153, 500, 2000, 5000)
NOISE = (0.02, 0.08, 0.2)
"""SD of repeat x configuration on the latent scale."""
GROUPS, GROUP_SIZE = (10, 20, 40, 100), 10
SD_GROUP, SD_GROUP_OWN = 0.8, 0.3
MEAN, SD_IMAGE, SD_OWN, SD_REST = 0.9, 1.2, 1.2 * math.sqrt(0.1), 0.6
CHUNK = 4_000_000
"""Simulated predictions that are held in memory at a time."""


def spread(noise: float) -> float:
    """Return the SD of the latent score."""
    return math.hypot(SD_IMAGE, SD_OWN, noise, SD_REST)


def tables(
    rng: np.random.Generator, draws: int, shape: tuple[int, int], noise: float, shifts: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield correctness of C configurations, [C, R, N], drawn from the probit model.

    Args:
        rng: generator.
        draws: number of tables.
        shape: R, N.
        noise: SD of repeat x configuration.
        shifts: of each configuration on the latent scale, [C].
    """
    (r, n), c = shape, len(shifts)
    size = max(1, CHUNK // (c * r * n))
    for begin in range(0, draws, size):
        b = min(size, draws - begin)
        image = MEAN + SD_IMAGE * rng.standard_normal((b, 1, 1, n), np.float32)
        image = image + SD_OWN * rng.standard_normal((b, c, 1, n), np.float32)
        repeat = noise * rng.standard_normal((b, c, r, 1), np.float32)
        rest = SD_REST * rng.standard_normal((b, c, r, n), np.float32)
        shift = shifts.astype(np.float32)[:, None, None]
        yield from (rest + image + repeat + shift > 0).astype(np.float64)


def covers(estimate: Estimate, truth: float) -> tuple[float, float]:
    """Return whether the 95 % interval holds the truth, and its half width."""
    low, high = estimate.interval()
    # where nothing varies there is no interval; only an exact estimate counts as covering then
    inside = low <= truth <= high if estimate.error > 0 else estimate.mean == truth
    return float(inside), (high - low) / 2


def coverage(differences: Iterator[np.ndarray], truth: float) -> np.ndarray:
    """Return coverage and mean half width of both intervals over tables [R, N], [2, 2]."""
    rows = [
        [covers(over_repeats(d.mean(1)), truth), covers(crossed(d), truth)] for d in differences
    ]
    return np.array(np.nanmean(rows, axis=0))


def says_helps(table: np.ndarray) -> bool:
    """Return the verdict's rule for correctness [C, R, N]; the last one is the baseline."""
    estimates = [crossed(own - table[-1]) for own in table[:-1]]
    adjusted = holm([1.0 if math.isnan(e.p) else e.p for e in estimates])
    level = 1 - 0.05 / len(estimates)
    return any(
        p < 0.05 and e.interval(level)[0] > 0 for e, p in zip(estimates, adjusted, strict=True)
    )


def cell(values: np.ndarray) -> str:
    """Return coverage and half width of both intervals, in percent and points."""
    (one, half_one), (two, half_two) = 100 * values
    return f"{one:.1f} → {two:.1f} (±{half_one:.1f} → ±{half_two:.1f})"


def repeat_sd(noise: float) -> str:
    """Return the SD over repeats of the true difference of two configurations, in points."""
    slope = norm.pdf(MEAN / spread(noise)) / spread(noise)
    return f"{100 * slope * noise * math.sqrt(2):.1f}"


def heading(*columns: str) -> None:
    """Print the first two lines of a Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def simulated(draws: int) -> None:
    """Print coverage and half width of both intervals in simulation."""
    rng = np.random.default_rng(1)
    heading("SD of repeats", "true difference", "R", *(f"N = {n:,}" for n in IMAGES))
    found = []
    for noise in NOISE:
        for shift in (0.0, 0.15):
            truth = float(np.diff(norm.cdf((MEAN + np.array([0, shift])) / spread(noise)))[0])
            for r in REPEATS:
                print(f"| {repeat_sd(noise)} | {100 * truth:.1f} | {r} |", end="")
                for n in IMAGES:
                    drawn = tables(rng, draws, (r, n), noise, np.array([shift, 0.0]))
                    own = coverage((a - b for a, b in drawn), truth)
                    found.append(own[:, 0])
                    print(f" {cell(own)} |", end="", flush=True)
                print()
    one, two = 100 * np.array(found).T
    print(f"\n{len(found)} cells x {draws} draws: repeats alone → two-way, % covered (half widths)")
    print(
        f"Repeats alone {one.min():.1f} to {one.max():.1f} %, two-way {two.min():.1f} to", end=" "
    )
    outside = int(((two < 94) | (two > 98)).sum())
    print(f"{two.max():.1f} %, mean {two.mean():.1f} %; {outside} cells outside 94 to 98 %.")


def null(draws: int) -> None:
    """Print how often simulated studies without any difference say "helps"."""
    rng = np.random.default_rng(2)
    heading("SD of repeats", "R", *(f"N = {n:,}" for n in IMAGES[:3]))
    for noise in NOISE:
        for r in REPEATS:
            print(f"| {repeat_sd(noise)} | {r} |", end="")
            for n in IMAGES[:3]:
                shares = []
                for configs in (4, 26):
                    drawn = tables(rng, draws, (r, n), noise, np.zeros(configs + 1))
                    shares.append(np.mean([says_helps(table) for table in drawn]))
                print(f" {100 * shares[0]:.1f}, {100 * shares[1]:.1f} |", end="", flush=True)
            print()
    print(f'\n{draws} draws a cell: % of studies that say "helps", 4 and 26 configurations.')


def grouped(draws: int) -> None:
    """Print coverage and half width of the two-way intervals by images and by groups."""
    rng, noise = np.random.default_rng(4), 0.08
    heading("true difference", "R", *(f"{g} groups" for g in GROUPS))
    for shift in (0.0, 0.15):
        total = math.hypot(spread(noise), SD_GROUP, SD_GROUP_OWN)
        truth = float(np.diff(norm.cdf((MEAN + np.array([0, shift])) / total))[0])
        for r in REPEATS:
            print(f"| {100 * truth:.1f} | {r} |", end="")
            for g in GROUPS:
                rows = []
                for _ in range(draws):
                    sizes = rng.integers(1, 2 * GROUP_SIZE, g)
                    group = np.repeat(np.arange(g), sizes)
                    n = len(group)
                    latent = MEAN + SD_IMAGE * rng.standard_normal(n)
                    latent = latent + SD_GROUP * rng.standard_normal(g)[group]
                    own = SD_GROUP_OWN * rng.standard_normal((2, g))[:, group]
                    latent = latent + own + SD_OWN * rng.standard_normal((2, n))
                    latent = latent[:, None] + noise * rng.standard_normal((2, r, 1))
                    latent = latent + SD_REST * rng.standard_normal((2, r, n))
                    a, b = (latent + np.array([shift, 0])[:, None, None] > 0).astype(float)
                    both = crossed(a - b), crossed(by_group(a - b, group))
                    rows.append([covers(estimate, truth) for estimate in both])
                print(f" {cell(np.nanmean(rows, axis=0))} |", end="", flush=True)
            print()
    print(f"\n{draws} draws a cell, {GROUP_SIZE} images a group on average: by images → by groups.")


RARE, SHARES, MEANS = 30, np.array([0.4, 0.6]), np.array([0.2, 0.9, 1.2])
"""Images of the rare class, shares of the others among the rest, and mean scores by class."""
RESAMPLES = 400


def classes(
    rng: np.random.Generator, r: int, n: int, noise: float, shift: np.ndarray, labels: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels [N] and latent scores [2, R, N] of images of two or three classes."""
    shares = np.array([RARE / n, *(1 - RARE / n) * (SHARES if labels == 3 else np.ones(1))])
    label = rng.choice(labels, n, p=shares)
    score = SD_IMAGE * rng.standard_normal(n) + SD_OWN * rng.standard_normal((2, 1, n))
    score = score + (noise * rng.standard_normal((2, r, labels)))[:, :, label]
    score = score + SD_REST * rng.standard_normal((2, r, n))
    score[0] += shift[:labels][label]
    return label, score


def balanced(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Return the balanced accuracy, as a user's own function does."""
    right = probabilities.argmax(1) == label
    return float((np.bincount(label, right) / np.bincount(label)).mean())


def bootstrap(
    rng: np.random.Generator, right: np.ndarray, label: np.ndarray
) -> tuple[float, float]:
    """Return the ends of Owen's interval of the difference in balanced accuracy, [2, R, N]."""
    _, r, n = right.shape
    repeats = rng.multinomial(r, np.ones(r) / r, RESAMPLES) / r
    images = rng.multinomial(n, np.ones(n) / n, RESAMPLES)
    of_class = [images * (label == k) for k in np.unique(label)]
    recalls = [(w @ (right[0] - right[1]).T) / w.sum(1, keepdims=True) for w in of_class]
    low, high = np.nanquantile((repeats * np.mean(recalls, 0)).sum(1), (0.025, 0.975))
    return float(low), float(high)


def metrics(draws: int) -> None:
    """Print coverage and half width of both intervals for metrics that are no mean over images."""
    names = ["rare", "b", "c"]
    by_label = [find_metric(name, names) for name in ("balanced_acc", "recall:rare")]
    area, own = find_metric("auc"), replace(by_label[0], of_outputs=balanced)
    heading("SD of repeats", "R", "N", *(m.label for m in (*by_label, area)), "own", "bootstrap")
    for number, (noise, r, n) in enumerate(itertools.product((0.08, 0.3), (4, 8), (200, 1000))):
        rng = np.random.default_rng([5, number])
        shift, rows = np.array([0.4, 0.1, 0.0]), []
        recalls = norm.cdf((MEANS + np.array([shift, 0 * shift])) / spread(noise))
        recall = recalls[0] - recalls[1]
        wide = math.hypot(spread(noise), spread(noise))
        auc = norm.cdf((1 + shift[0] - shift[1]) / wide) - norm.cdf(1 / wide)
        truths = [recall.mean(), recall[0], auc, recall.mean()]
        for _ in range(draws):
            label, score = classes(rng, r, n, noise, shift)
            right = score + MEANS[label] > 0
            outputs = np.eye(3)[np.where(right, label, (label + 1) % 3)]
            values = [
                [[compute_metric(metric, p, label) for p in arm] for arm in outputs]
                for metric in by_label
            ]
            two, score = classes(rng, r, n, noise, shift, labels=2)
            first = norm.cdf(score + (two == 0))
            both = np.stack([first, 1 - first], -1)
            values.append([[compute_metric(area, p, two) for p in arm] for arm in both])
            values.append([[values_of_metric(own, p, label, False) for p in a] for a in outputs])
            tables = [np.subtract(*np.array(arms, dtype=float)) for arms in values]
            row = [
                (covers(over_repeats(d.mean(1)), t), covers(crossed(d), t))
                for d, t in zip(tables, truths, strict=True)
            ]
            low, high = bootstrap(rng, right.astype(float), label)
            inside = float(low <= truths[0] <= high), (high - low) / 2
            rows.append([*row, (row[0][0], inside)])
        cells = " | ".join(map(cell, np.nanmean(rows, axis=0)))
        print(f"| {repeat_sd(noise)} | {r} | {n:,} | {cells} |", flush=True)
    print(
        f"\n{draws} draws a cell: repeats alone → two-way (or bootstrap), % covered (half widths)."
    )


def predictions(study: Path, source: Path) -> tuple[np.ndarray, list[str]]:
    """Return correctness [C, R, M] of a study's students on new images, baseline last; labels [C].

    Repeats that all configurations have completed count. The result is kept in STUDY/coverage.npz.
    Raises AssertionError if a student's accuracy on val is not the recorded one.
    """
    cache = study / "coverage.npz"
    if not cache.exists():
        np.savez_compressed(cache, **evaluate(study, source))  # type: ignore[arg-type]
    with np.load(cache) as kept:
        return kept["correct"], list(kept["labels"])


def evaluate(study: Path, source: Path) -> dict[str, np.ndarray]:
    """Return correctness and labels of `predictions`."""
    import torch
    from build_fashion import read_idx

    import kdtune
    from kdtune.models.weights import fill, load_weights
    from kdtune.results.comparison import by_repeat
    from kdtune.training.run import make_student

    images = read_idx(source / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(source / "t10k-labels-idx1-ubyte.gz")
    with np.load(Path(kdtune.__file__).parent / "assets" / "fashion.npz") as embedded:
        parts = [embedded[f"{split}_images"] for split in ("train", "val", "test")]
        val = torch.from_numpy(embedded["val_images"])[:, None]
        val_labels = torch.from_numpy(embedded["val_labels"])
    seen = {image.tobytes() for part in parts for image in part}
    new = [i for i, image in enumerate(images) if image.tobytes() not in seen]
    views, target = torch.from_numpy(images[new])[:, None], torch.from_numpy(labels[new])

    results = kdtune.load(study)
    recorded = results.trials.set_index("trial_id")["val/acc@last"]
    configs = sorted(results.study.runs(), key=lambda run: run.alpha == 1)
    repeats = by_repeat(results.trials, "acc", "last").dropna().index
    correct = np.empty((len(configs), len(repeats), len(new)), bool)
    for c, config in enumerate(configs):
        for r, repeat in enumerate(repeats):
            run = replace(config, repeat=int(repeat))
            student = make_student(run, load_data(run))
            file = study / "trials" / run.trial_id / "student.safetensors"
            fill(student.net, load_weights(run.student, str(file)), "", str(file), False)
            student.eval()
            with torch.inference_mode():
                acc = (student(val).argmax(1) == val_labels).float().mean().item()
                correct[c, r] = (student(views).argmax(1) == target).numpy()
            if not abs(acc - recorded[run.trial_id]) < 0.003:
                raise ValueError(f"{run.trial_id} has {acc}, not {recorded[run.trial_id]}")
    names = [f"alpha {run.alpha:g}, T {run.config['temperature'] or '-'}" for run in configs]
    return {"correct": correct, "labels": np.array(names)}


def real(draws: int, study: Path, source: Path) -> None:
    """Print coverage and false "helps" on the students of a study."""
    correct, labels = predictions(study, source)
    configs, repeats, images = correct.shape
    differences = correct[:-1].astype(np.float64) - correct[-1]
    truth = differences.mean((1, 2))
    print(f"\n{repeats} repeats, {images} images. Difference from {labels[-1]}, points:", end=" ")
    print("; ".join(f"{n}: {100 * d:+.2f}" for n, d in zip(labels, truth, strict=False)))
    heading("R", "N", "coverage", "helps, permuted per repeat", "per image")
    rng = np.random.default_rng(3)
    for r in REPEATS:
        for n in IMAGES[:3]:
            index = [
                np.ix_(rng.integers(repeats, size=r), rng.integers(images, size=n))
                for _ in range(draws)
            ]
            own = [
                coverage((d[i] for i in index), t) for d, t in zip(differences, truth, strict=True)
            ]
            shares = []
            for shape in ((configs, r, 1), (configs, 1, n)):
                drawn = (correct[:, i[0], i[1]] for i in index)
                order = (rng.random(shape).argsort(0) for _ in index)
                nulls = (
                    np.take_along_axis(table.astype(np.float64), o, 0)
                    for table, o in zip(drawn, order, strict=True)
                )
                shares.append(np.mean([says_helps(table) for table in nulls]))
            cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
            print(f"| {r} | {n:,} | {cell(np.mean(own, 0))} | {cells} |", flush=True)
    print(f"\n{draws} draws a row; coverage is the mean over {configs - 1} configurations.")


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ["simulated", "null", "groups", "metrics", "real"]
    parser.add_argument("--part", nargs="+", default=parts)
    parser.add_argument("--draws", type=int, default=2000, help="tables per cell")
    parser.add_argument("--study", type=Path, default=Path("runs/coverage"))
    parser.add_argument(
        "--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist")
    )
    args = parser.parse_args()
    if "simulated" in args.part:
        simulated(args.draws)
    if "null" in args.part:
        null(args.draws)
    if "groups" in args.part:
        grouped(args.draws)
    if "metrics" in args.part:
        metrics(args.draws)
    if "real" in args.part:
        real(args.draws, args.study, args.fashion_mnist)


if __name__ == "__main__":
    main()

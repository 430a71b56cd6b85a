"""What is a teacher worth in labels? Fashion-MNIST with 100 to 6,000 of its 60,000 images.

    apt-get install dataset-fashion-mnist
    python -m kdtune.search experiments/label_curve.py      # the study
    python -m experiments.label_curve                       # table, figure, and both checks below

subsets: the interval that 4 of the repeats and the sizes 100, 300 and 1,000 give, for every choice
    of the repeats, against the equivalent number of labels that all repeats and sizes give, among
    them sizes close to it (600 and 1,400) that the intervals do not see.
simulated: coverage of the interval of `equivalent_size` and of percentiles of Owen's bootstrap, in
    which repeats and images are drawn with replacement, the same for all sizes and arms. The truth
    is known: accuracy without a teacher is 0.80 - c n^-b and 0.66 with 100 labels, and correctness
    has effects of the repeat, the image and both, and those of each size.
"""

import argparse
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression
from scipy.stats import norm

import kdtune
from kdtune.config.study import fashion
from kdtune.reporting.canvas import figure_style
from kdtune.reporting.figures import label_curve_plot
from kdtune.results.comparison import label_curve
from kdtune.results.formatting import label_curve_rows, markdown
from kdtune.statistics.intervals import equivalent_size

sys.path.insert(0, str(Path(__file__).parent))
from build_fashion import SOURCE, read_idx

SIZES, VAL = (100, 300, 600, 1000, 1400, 3000, 6000), 2000
PART, OF_REPEATS = (100, 300, 1000), 4
"""Sizes and repeats of the parts of a study; of fewer repeats, all but one."""


def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return Fashion-MNIST: 58,000 images of train, 2,000 of val and 10,000 of test."""
    (pixels, classes), test = map(read, ("train", "t10k"))
    val = (pixels[-VAL:], classes[-VAL:])
    return {"train": (pixels[:-VAL], classes[:-VAL]), "val": val, "test": test}


def read(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 [N, 1, 28, 28], and classes of a part of the original."""
    pixels = read_idx(SOURCE / f"{part}-images-idx3-ubyte.gz")[:, None]
    return pixels, read_idx(SOURCE / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)


RUN = kdtune.Run(
    **{name: getattr(fashion().run, name) for name in ("teacher", "student")},
    data="experiments.label_curve:images",
    augment="crop",
    teacher_weights="none",
    teacher_epochs=5,
    teacher_lr=0.02,
    teacher_train_images=20_000,
    student_weights="none",
    optimizer="adamw",
    lr=0.02,
    weight_decay=0.01,
    schedule="onecycle",
    epochs=12,
    batch_size=64,
    alpha=0.1,
    temperature=4.0,
)
study = kdtune.Study(
    name="label-curve",
    run=RUN,
    space={"train_images": SIZES, "alpha": (0.1, 1.0)},
    repeats=8,
    gpus=0,
)


def subsets(results: kdtune.Results) -> str:
    """Return how many intervals of a part of the data hold the equivalent number of all."""
    whole = results.label_curve().set_index(["arm", "n"]).loc["distilled"].equivalent
    trials = results.search_trials[results.search_trials["config/train_images"].isin(PART)]
    criterion = results.default_criterion
    held = dict.fromkeys(PART, 0)
    repeats = sorted(trials["repeat"].unique())
    part = min(OF_REPEATS, len(repeats) - 1)
    choices = list(itertools.combinations(repeats, part))
    for chosen in choices:
        some = trials[trials["repeat"].isin(chosen)]
        table = label_curve(replace(results.judged(criterion), trials=some))
        for row in table[table.arm == "distilled"].itertuples():
            held[row.n] += row.equivalent_low <= whole[row.n] <= row.equivalent_high
    shares = ", ".join(f"{n:,}: {count} of {len(choices)}" for n, count in held.items())
    return f"intervals of {part} repeats and the sizes {PART} that hold it: {shares}"


def owen(plain: np.ndarray, distilled: np.ndarray, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Return the 2.5 and 97.5 % quantiles of the equivalent size over 400 bootstraps."""
    rng, (_, repeats, count) = np.random.default_rng(seed), plain.shape
    stacked = np.concatenate([plain, distilled[None]])
    rows = rng.multinomial(repeats, np.full(repeats, 1 / repeats), size=400)
    columns = rng.multinomial(count, np.full(count, 1 / count), size=400)
    drawn = np.einsum("sri,br,bi->bs", stacked, rows, columns, optimize=True) / (repeats * count)
    found = [inverse(sizes, means[:-1], means[-1]) for means in drawn]
    return np.quantile(found, [0.025, 0.975], method="inverted_cdf")


def inverse(sizes: tuple[int, ...], means: np.ndarray, height: float) -> float:
    """Return the size at which the isotonic curve of means is as high; 0 and inf outside."""
    curve = isotonic_regression(means).x
    if height > curve[-1]:
        return math.inf
    above = int(np.searchsorted(curve, height))
    if above == 0:
        return 0.0
    share = (height - curve[above - 1]) / (curve[above] - curve[above - 1])
    return float(sizes[above - 1] * (sizes[above] / sizes[above - 1]) ** share)


def simulated(
    repeats: int, count: int, noise: float, exponent: float, draws: int
) -> dict[str, float]:
    """Return the coverage of both intervals where distilled labels are worth 600 without.

    Args:
        repeats: of each size and arm.
        count: images.
        noise: SD of the effect of a repeat on a size and arm, on the latent scale.
        exponent: b of the accuracy without a teacher.
        draws: studies.
    """
    sizes, rng = (100, 300, 1000), np.random.default_rng(0)
    spread = math.sqrt(1 + 1.2**2 + noise**2 + 0.4**2)
    accuracy = 0.80 - 0.14 * (np.array([*sizes, 600]) / 100) ** -exponent
    levels = norm.ppf(accuracy) * spread  # of a latent score, before its noise
    inside = {"two-way t, inverted": 0, "Owen's bootstrap": 0}
    for draw in range(draws):
        score = levels[:, None, None] + rng.normal(0, 1.2, (1, 1, count))
        score = score + rng.normal(0, noise, (4, repeats, 1)) + rng.normal(0, 0.4, (4, 1, count))
        table = (score + rng.normal(size=(4, repeats, count)) > 0).astype(float)
        ours = equivalent_size(sizes, table[:3], table[3])
        inside["two-way t, inverted"] += ours.low <= 600 <= ours.high
        low, high = owen(table[:3], table[3], sizes, draw)
        inside["Owen's bootstrap"] += low <= 600 <= high
    return {name: n / draws for name, n in inside.items()}


def main() -> None:
    """Print what the study has found, and both checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=Path("runs/label-curve"))
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--part", choices=("study", "simulated"))
    parser.add_argument("--figure", type=Path, default=Path("experiments/label-curve.svg"))
    options = parser.parse_args()
    if options.part != "simulated":
        results = kdtune.load(options.study)
        criterion = results.default_criterion
        print(markdown(*label_curve_rows(results.label_curve(), criterion)))
        print(results.label_curve_text())
        print(subsets(results))
        with figure_style():
            figure = label_curve_plot(results, criterion)
        if figure is not None:
            options.figure.write_text(figure.svg, encoding="utf-8")
    if options.part != "study":
        rows = [
            {"repeats": r, "images": n, "noise": x, "exponent": b}
            | simulated(r, n, x, b, options.draws)
            for b in (0.35, 1.0)
            for r in (4, 8)
            for n, x in ((500, 0.08), (2000, 0.08), (2000, 0.3))
        ]
        print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()

"""Answers to the starting repository's question, from a study of ants and bees.

    python experiments/hymenoptera_answers.py --study runs/hymenoptera-lite runs/hymenoptera-folds \
        --published seed_results.csv

The study is that of hymenoptera_lite.py. --published is a table of the starting repository's twelve
result files: rep, alpha, epoch, epoch_loss_l, epoch_acc_l, diff_t_s. All differences are percentage
points of validation accuracy at the last epoch.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import levene, norm, t

import kdtune
from kdtune.results.comparison import Criterion, by_repeat
from kdtune.statistics.intervals import MIN_REPEATS, Components, unpaired_difference
from kdtune.statistics.selection import variance_shares

POWER = float(norm.ppf(0.975) + norm.ppf(0.8))
"""True difference in standard errors that a two-sided test of 5 % detects with 80 % power."""


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def points(low: float, high: float) -> str:
    """Return an interval in percentage points."""
    return "-" if math.isnan(low) else f"{100 * low:+.1f} to {100 * high:+.1f}"


def compared(results: kdtune.Results, lr: float | None = None) -> pd.DataFrame:
    """Return the comparison with the best plain training, or within one learning rate."""
    if lr is None:
        return results.compare()
    table = results.compare(Criterion(baseline={"alpha": 1, "lr": lr}))
    return table[table["config/lr"] == lr] if len(table) else table


def does_it_help(results: kdtune.Results) -> None:
    """Print the verdict, and the best distilled student against plain training at each lr."""
    print(f"\n{results.verdict()}\n")
    print(
        row("baseline", "best distilled", "difference", "95 % CI, new repeats and images"), end=""
    )
    print(" these images | p (Holm) |\n|---|---|--:|---|---|--:|")
    rates = sorted(results.trials["config/lr"].unique())
    for lr in (None, *rates):
        table = compared(results, lr)
        for best in table.head(1).itertuples():
            names = ("alpha = 1, best lr" if lr is None else f"alpha = 1, lr {lr:g}", best.label)
            ends = points(best.low, best.high), points(best.low_here, best.high_here)
            print(row(*names, f"{100 * best.diff:+.1f}", *ends, f"{best.p_holm:.2g}"))


def ratio_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Return SD(a) / SD(b) of two paired samples, (n,), with its 95 % interval.

    The interval inverts the test of Pitman and Morgan (1939), that a + b and a - b are
    uncorrelated; it holds for normal pairs.
    """
    n, ratio = len(a), a.var(ddof=1) / b.var(ddof=1)
    free = 1 - np.corrcoef(a, b)[0, 1] ** 2
    k = 1 + 2 * free * t.ppf(0.975, n - 2) ** 2 / (n - 2)
    width = math.sqrt(k * k - 1)
    return math.sqrt(ratio), math.sqrt(ratio * (k - width)), math.sqrt(ratio * (k + width))


def is_it_less_stable(results: kdtune.Results) -> None:
    """Print the SD over repeats of alpha = 1 against 0 and 0.5, at equal and at the best lr."""
    trials = results.search_trials[results.search_trials["config/loss"].fillna("mse") == "mse"]
    scores = by_repeat(trials, "acc", "last").dropna()
    configs = trials.drop_duplicates("config_id").set_index("config_id")
    alpha, lr = configs["config/alpha"], configs["config/lr"]
    print("\nSD over repeats, percentage points; ratio with its 95 % CI (Pitman and Morgan);")
    print("p of Brown and Forsythe's test, not adjusted.\n")
    print(row("lr", "alpha", "mean", "SD", "SD at alpha 1", "ratio, alpha 1 to alpha", "p"))
    print("|---|--:|--:|--:|--:|---|--:|")

    def pick(value: float, rate: float | None) -> str | None:
        """Return the best such configuration; None if all of its runs diverged."""
        own = alpha.index[(alpha == value) & ((lr == rate) if rate else True)]
        known = scores[own.intersection(scores.columns)]
        return str(known.mean().idxmax()) if known.shape[1] else None

    for rate in (*sorted(lr.unique()), None):
        plain = scores[pick(1, rate)].to_numpy()
        for value in (0.0, 0.5):
            if (config := pick(value, rate)) is None:
                print(row(rate, f"{value:g}", "diverged", "-", "-", "-", "-"))
                continue
            own = scores[config].to_numpy()
            head = f"{rate:g}" if rate else "best of each"
            sds = [f"{100 * x.std(ddof=1):.2f}" for x in (own, plain)]
            ratio = "-"
            if min(own.std(), plain.std()) > 0:
                ratio = "{:.2f} ({:.2f} to {:.2f})".format(*ratio_interval(plain, own))
            p = levene(plain, own, center="median").pvalue
            print(row(head, f"{value:g}", f"{100 * own.mean():.1f}", *sds, ratio, f"{p:.2g}"))


def how_many_images(results: kdtune.Results) -> None:
    """Print what differences the study could have shown, and the images that 1 point needs."""
    if compared(results).n_images.isna().all():
        print(
            "\nWith folds each repeat has other val images: repeats and images are not told apart."
        )
        return
    print(
        "\nDetectable on these images, and images that detect 1 point: power 80 %, one comparison,"
    )
    print("two-sided 5 %, normal approximation; SD and differences in percentage points.\n")
    head = (
        "alpha = 1 against",
        "SD of repeats, images, rest",
        "4 repeats",
        "8 repeats",
        "any number",
    )
    print(row(*head, "images: 4 repeats", "8 repeats", "any number"))
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    published = compared(results, 1e-3)
    published = published[(published["config/alpha"] == 0) & (published["config/loss"] == "mse")]
    for name, table in (("the best", compared(results)), ("as published", published)):
        for own in table.head(1).itertuples():
            parts = Components(own.var_repeat, own.var_image, own.var_rest)
            numbers = (4, 8, math.inf)
            shown = [f"{100 * POWER * parts.error(r, own.n_images):.1f}" for r in numbers]
            needed = [images_needed(parts, r, 0.01) for r in numbers]
            images = [f"{n:,}" if math.isfinite(n) else "none suffices" for n in needed]
            sds = [f"{100 * math.sqrt(x):.1f}" for x in (parts.repeat, parts.image, parts.rest)]
            print(row(f"{name} ({own.label})", ", ".join(sds), *shown, *images))


def images_needed(parts: Components, repeats: float, difference: float) -> float:
    """Return the number of images that show a difference with 80 % power; inf if none does."""
    room = (difference / POWER) ** 2 - parts.repeat / repeats
    need = parts.image + parts.rest / repeats
    return math.ceil(need / room) if room > 0 else math.inf


def print_shares(blocks: dict[tuple[float, str], np.ndarray]) -> None:
    """Print what the spread over all epochs of all runs consists of.

    Args:
        blocks: values [R, E] of R runs and E epochs, by alpha and metric.
    """
    print("\nShares of the sum of squares over all epochs of all runs; last: SD over runs alone.\n")
    print(row("alpha", "metric", "runs", "SD", "between runs", "epochs", "rest", "SD, last epoch"))
    print("|--:|---|--:|--:|--:|--:|--:|--:|")
    for (alpha, name), block in blocks.items():
        s = variance_shares(block[None])
        shares = (f"{100 * x:.1f} %" for x in (s.repeat, s.epoch, s.residual))
        sds = block.std(ddof=1), block[:, -1].std(ddof=1)
        print(row(f"{alpha:g}", name, len(block), f"{sds[0]:.4f}", *shares, f"{sds[1]:.4f}"))


def spread(results: kdtune.Results) -> None:
    """Print the shares of epochs in the spread at the published learning rate, mse."""
    trials = results.search_trials[results.search_trials["config/lr"] == 1e-3]
    trials = trials[trials["config/loss"].fillna("mse") == "mse"]
    epochs = results.epochs[results.epochs.split == "val"]
    blocks = {}
    for alpha, own in trials.groupby("config/alpha"):
        rows = epochs[epochs.trial_id.isin(own.trial_id)]
        for name in ("acc", "ce"):
            block = rows.pivot(index="trial_id", columns="epoch", values=name).dropna()
            blocks[float(alpha), name] = block.to_numpy(float)
    print_shares(blocks)


def what_was_published(file: Path) -> None:
    """Print the same of the published values, and their difference at the last epoch."""
    frame = pd.read_csv(file)
    last = frame.epoch.max()
    whole = frame[frame.groupby(["alpha", "rep"]).epoch.transform("max") == last]
    names = ("epoch_acc_l", "epoch_loss_l", "diff_t_s")
    tables = {
        (a, n): x.pivot(index="rep", columns="epoch", values=n)
        for n in names
        for a, x in whole.groupby("alpha")
    }
    print("\n## Published values; runs of which not all epochs were published are left out")
    print_shares({key: table.to_numpy() for key, table in tables.items()})
    at_end = whole[whole.epoch == last].groupby("alpha").epoch_acc_l.apply(list)
    d = unpaired_difference(at_end[1.0], at_end[0.0])
    print(f"\nLast epoch, alpha 1 - alpha 0: {100 * d.mean:+.2f} points,", end=" ")
    print(f"Welch's 95 % CI {points(*d.interval())}, p = {d.p:.2g}: over runs alone, on these")
    print(f"153 images; one image is {100 / 153:.2f} points. Predictions were not published.")


def main() -> None:
    """Print the answers as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--study", type=Path, nargs="+", default=[])
    parser.add_argument("--published", type=Path)
    args = parser.parse_args()
    for folder in args.study:
        results = kdtune.load(folder)
        print(f"\n## {folder.name}: {results.status}")
        if len(by_repeat(results.search_trials, "acc", "last").dropna()) < MIN_REPEATS:
            print(f"No answers before all configurations have completed {MIN_REPEATS} repeats.")
            continue
        does_it_help(results)
        is_it_less_stable(results)
        spread(results)
        how_many_images(results)
    if args.published:
        what_was_published(args.published)


if __name__ == "__main__":
    main()

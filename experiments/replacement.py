"""How often a verdict "non-inferior" is wrong, and what the intervals of flips cover.

    python experiments/replacement.py --part simulated
    python -m kdtune.search                                         # the default study
    python experiments/replacement.py --part replayed --study runs/fashion

In each draw the true difference of student and teacher is exactly minus the margin, where
"non-inferior" is wrong. A draw is judged by `kdtune.results.design.judge_rows`, as
`python -m kdtune.analysis STUDY --against teacher` does: as a recipe, for new repeats and images,
and as a file, the first repeat alone, for new images. The truth of a file is its own difference.

simulated: the probit model of coverage.py. The teacher is one run with a higher mean, whose images
    are those of the students. The truths follow from the normal distribution.
replayed: the students and the teacher of a study on its val and test images together. Repeats and
    images are drawn with replacement, so the population is exactly these runs and images.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from coverage import IMAGES, MEAN, NOISE, REPEATS, SD_IMAGE, SD_OWN, SD_REST, heading, repeat_sd
from scipy.stats import multivariate_normal, norm

import kdtune
from kdtune.results import design
from kdtune.results.design import ONE_TEACHER, Pair, judge_rows

# not asked for here, and 0.1 s for each study
design.units_needed = lambda *_: math.nan  # type: ignore[attr-defined]
COLUMNS = ("recipe non-inferior", "inferior", "flips covered", "file non-inferior", "inferior")


class Draw(NamedTuple):
    """Correctness in one drawn study, and what is true of the population."""

    students: np.ndarray
    """[R, N]."""
    teacher: np.ndarray
    """[N]."""
    difference: float
    """Of the recipe, below 0."""
    negative: float
    """Share of images on which the teacher alone is right."""
    of_file: float
    """The difference of the first repeat."""


def print_row(start: str, draws: Iterable[Draw]) -> np.ndarray:
    """Print and return shares of the draws in percent, as `COLUMNS`."""
    rows = []
    for draw in draws:
        teacher = np.broadcast_to(draw.teacher, draw.students.shape)
        row = []
        for margin, n, is_file in ((-draw.difference, None, False), (-draw.of_file, 1, True)):
            make = partial(Pair.of, repeats=(), design=ONE_TEACHER, is_one_run=is_file)
            sides = (list(draw.students[:n]), list(teacher[:n]))
            judged = judge_rows(*sides, make, (margin, 1, 1.0), True)
            row += [judged["outcome"] == outcome for outcome in ("non-inferior", "inferior")]
            low, high = judged["negative_flips_low"], judged["negative_flips_high"]
            row += [low <= draw.negative <= high] if not is_file else []
        rows.append(row)
    shares: np.ndarray = 100 * np.mean(np.array(rows, float), axis=0)
    print(f"| {start} | {' | '.join(f'{share:.1f}' for share in shares)} |", flush=True)
    return shares


def print_mean(rows: list[np.ndarray]) -> None:
    """Print the means and the ranges of the rows of a table."""
    table = np.array(rows)
    for name, values in zip(COLUMNS, table.T, strict=True):
        print(f"{name}: mean {values.mean():.2f}, {values.min():.1f} to {values.max():.1f}")


def simulate(
    rng: np.random.Generator, draws: int, shape: tuple[int, int], noise: float, better: float
) -> Iterator[Draw]:
    """Yield draws of the probit model; the teacher's latent mean is higher by `better`."""
    r, n = shape
    alone, spread = (
        math.hypot(SD_IMAGE, SD_OWN, SD_REST),
        math.hypot(SD_IMAGE, SD_OWN, SD_REST, noise),
    )
    right = norm.cdf((MEAN + better) / alone)
    means = [(MEAN + better) / alone, MEAN / spread]
    rho = SD_IMAGE**2 / (alone * spread)
    both = multivariate_normal(cov=[[1, rho], [rho, 1]]).cdf(means)
    for _ in range(draws):
        image = MEAN + SD_IMAGE * rng.standard_normal(n)
        teacher = image + better + math.hypot(SD_OWN, SD_REST) * rng.standard_normal(n)
        repeat = noise * rng.standard_normal((r, 1))
        latent = image + SD_OWN * rng.standard_normal(n) + repeat
        latent = latent + SD_REST * rng.standard_normal((r, n))
        of_file = float(norm.cdf((MEAN + repeat[0, 0]) / alone) - right)
        truth = float(norm.cdf(means[1]) - right)
        yield Draw(1.0 * (latent > 0), 1.0 * (teacher > 0), truth, float(right - both), of_file)


def simulated(draws: int) -> None:
    """Print the shares for each size of a study."""
    heading("SD of repeats", "true difference", "R", "N", *COLUMNS)
    rows, rng = [], np.random.default_rng(1)
    for noise in NOISE:
        for better in (0.05, 0.3):
            for r in REPEATS[:2]:
                for n in IMAGES[1:3]:
                    first = next(simulate(rng, 1, (r, n), noise, better))
                    start = f"{repeat_sd(noise)} | {100 * first.difference:.1f} | {r} | {n:,}"
                    rows.append(print_row(start, simulate(rng, draws, (r, n), noise, better)))
    print_mean(rows)


def replayed(draws: int, study: Path) -> None:
    """Print the shares for draws from the students of each configuration of a study."""
    results, rng = kdtune.load(study), np.random.default_rng(2)
    frame = pd.concat([results.predictions("val"), results.predictions("test")])
    heading("configuration", "true difference", "R", "N", *COLUMNS)
    shares = []
    for label, rows in frame.sort_values(["repeat", "split", "example"]).groupby("configuration"):
        repeats = rows["repeat"].nunique()
        students = rows.correct.to_numpy(float).reshape(repeats, -1)
        right = (rows.teacher == rows.label).to_numpy(float).reshape(repeats, -1)[0]
        of_each = students.mean(1) - right.mean()
        negative = float((right * (1 - students)).mean())
        for r in REPEATS[:2]:
            for n in IMAGES[:2]:
                drawn = (
                    (rng.integers(repeats, size=r), rng.integers(len(right), size=n))
                    for _ in range(draws)
                )
                truth = float(of_each.mean())
                each = (
                    Draw(students[np.ix_(i, j)], right[j], truth, negative, float(of_each[i[0]]))
                    for i, j in drawn
                )
                shares.append(print_row(f"{label} | {100 * truth:.1f} | {r} | {n}", each))
    print_mean(shares)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", nargs="+", default=["simulated", "replayed"])
    parser.add_argument("--draws", type=int, default=2000, help="studies per row")
    parser.add_argument("--study", type=Path, default=Path("runs/fashion"))
    args = parser.parse_args()
    if "simulated" in args.part:
        simulated(args.draws)
    if "replayed" in args.part:
        replayed(args.draws, args.study)
    error = 100 * math.sqrt(0.025 * 0.975 / args.draws)
    print(f"\n{args.draws} draws a row: % of studies; the standard error at 2.5 % is {error:.2f}.")


if __name__ == "__main__":
    main()

"""Which configurations may be the best: how often the set holds it, and what P(best) is worth.

    python experiments/choice.py                # some minutes
    python experiments/choice.py --part race --draws 2000

The set is that of multiple comparisons with the best (`selection.may_be_best`), P(best) that of
`selection.probability_best`. "Of P" is the share of draws in which the configuration with the
largest P(best) is truly the best, by that P(best).

table: studies are drawn from the 60 configurations x 20 repeats of search_efficiency.csv: so many
    configurations without replacement, repeats with replacement. The truth are the means of the
    table. There are no values by image, so only repeats vary.
simulated: R repeats x N images of K configurations with the effects of the crossed model: repeats
    and images that all configurations share, own effects of each configuration with repeats and
    images, and noise; the SD over repeats differs by a factor of four between configurations. Their
    true means are normal with the SD of the first column; 0: all are equally good, and a set that
    misses the first one errs.
race: races of kdtune's plan, replayed from the same table. Configurations that the race has stopped
    are out, and the others are compared at the level for all 60.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from search_efficiency import STUDY, Replay, play

from kdtune.statistics.selection import Means, may_be_best, probability_best

BINS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01))
"""Of P(best)."""
SHARED_REPEAT, SHARED_IMAGE, OWN_IMAGE, REST = 0.01, 0.4, 0.15, 0.25
"""SDs of the effects in the simulation, of values between 0 and 1."""
OWN_REPEAT = (0.004, 0.016)
"""Of configuration x repeat, of the steadiest and of the least steady configuration."""

Draw = tuple[Means, np.ndarray]
"""Scores of a study, and the true means of its configurations."""


def from_table(rng: np.random.Generator, configs: int, repeats: int) -> Draw:
    """Return a study drawn from the table."""
    last = STUDY.cube[:, :, -1]
    rows = rng.choice(len(last), configs, replace=False)
    columns = rng.integers(last.shape[1], size=repeats)
    return Means.of(last[rows][:, columns]), STUDY.truth[rows]


def simulated(rng: np.random.Generator, configs: int, sd: float, shape: tuple[int, int]) -> Draw:
    """Return a study of the crossed model with true means of this SD."""
    (r, n), truth = shape, rng.normal(0, sd, configs)
    x = SHARED_REPEAT * rng.standard_normal((1, r, 1))
    x = x + SHARED_IMAGE * rng.standard_normal((1, 1, n)) + truth[:, None, None]
    steady = rng.permutation(np.geomspace(*OWN_REPEAT, configs))
    x = x + steady[:, None, None] * rng.standard_normal((configs, r, 1))
    x = x + OWN_IMAGE * rng.standard_normal((configs, 1, n))
    return Means.of(x + REST * rng.standard_normal((configs, r, n))), truth


def measure(name: str, draws: Iterator[Draw]) -> None:
    """Print how often the set holds the best, its size, and how often the largest P is right."""
    held, sizes, said, right = [], [], [], []
    for means, truth in draws:
        in_set, p, best = may_be_best(means), probability_best(means, 2000), int(truth.argmax())
        held.append(in_set[best])
        sizes.append(in_set.sum())
        said.append(p.max())
        right.append(p.argmax() == best)
    cells = [f"{100 * np.mean(held):.1f} %", f"{np.mean(sizes):.1f}"]
    for low, high in BINS:
        inside = (np.array(said) >= low) & (np.array(said) < high)
        share = 100 * np.mean(np.array(right)[inside]) if inside.any() else np.nan
        cells.append(f"{share:.0f} % ({inside.sum()})" if inside.sum() >= 20 else "-")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def race(draws: int, repeats: int) -> None:
    """Print how often the survivors of a race, and the set among them, hold the best."""
    survived, held, sizes = [], [], []
    for seed in range(draws):
        plan = play(Replay(seed), policy="race", repeats=repeats)
        configs, best = plan.ledger.configs.values(), int(STUDY.truth.argmax())
        runs = {c.run.config_id: sum(r < repeats for r in c.scores) for c in configs}
        arm = {c: bool(STUDY.is_baseline[STUDY.rows[c]]) for c in runs}
        most = {arm[c]: max(n for d, n in runs.items() if arm[d] == arm[c]) for c in runs}
        left = [c for c in configs if runs[c.run.config_id] == most[arm[c.run.config_id]]]
        rows = np.array([STUDY.rows[c.run.config_id] for c in left])
        compared = [c for c in left if runs[c.run.config_id] > max(runs.values()) / 2]
        common = range(min(runs[c.run.config_id] for c in compared))
        means = Means.of([[c.scores[r] for r in common] for c in compared])
        is_out = ~may_be_best(means, others=len(STUDY.cube) - 1)
        out = [STUDY.rows[c.run.config_id] for c, o in zip(compared, is_out, strict=True) if o]
        in_set = rows[~np.isin(rows, out)]
        survived.append(best in rows)
        held.append(best in in_set)
        sizes.append(len(in_set))
    print(
        f"race x {repeats}, {draws} replays: the best survives in {100 * np.mean(survived):.1f} %, "
        f"the set holds it in {100 * np.mean(held):.1f} % and has {np.mean(sizes):.1f} of 60"
    )


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ["table", "simulated", "race"]
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument(
        "--draws", type=int, default=1000, help="studies of each row; of a race a fifth"
    )
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    names = [f"of P {low:g} to {min(high, 1):g}" for low, high in BINS]
    if "table" in args.part or "simulated" in args.part:
        print(f"| study | set holds the best | size | {' | '.join(names)} |")
        print("|---|--:|--:|" + "--:|" * len(BINS))
    if "table" in args.part:
        for configs in (5, 20, 60):
            for repeats in (4, 8, 16):
                name = f"table, {configs} configurations x {repeats} repeats"
                drawn = (from_table(rng, configs, repeats) for _ in range(args.draws))
                measure(name, drawn)
    if "simulated" in args.part:
        for sd in (0.0, 0.005, 0.01, 0.03):
            for configs, shape in ((5, (8, 500)), (20, (8, 500)), (20, (4, 153))):
                name = f"SD {100 * sd:g} points, {configs} x {shape[0]} x {shape[1]} images"
                drawn = (simulated(rng, configs, sd, shape) for _ in range(args.draws))
                measure(name, drawn)
    if "race" in args.part:
        race(args.draws // 5, 5)


if __name__ == "__main__":
    main()

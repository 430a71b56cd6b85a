"""Quality of search strategies against their cost, replayed from a table of recorded trials.

    python experiments/search_efficiency.py                 # about ten minutes; writes the figure
    python experiments/search_efficiency.py --simulate      # scheduling only, 1,000 simulated GPUs

The table search_efficiency.csv holds the default study with a larger search space, 60
configurations with 20 repeats of 30 epochs. It was made by

    python -m kdtune.search --alpha 0.1 0.5 0.9 1 --temperature 1 4 8 \
        --lr 0.001 0.003 0.01 0.02 0.05 0.1 --repeats 20 --epochs 30 --gpus 0 --name table

A replay draws repeats from the table with replacement, the same for all configurations. (Without
replacement, held-out repeats would be those that the search did not draw, and lower on average.)
The true accuracy of a configuration is its mean in the table. Each strategy selects a configuration
with distillation and reports an accuracy for it:

    regret           best true accuracy minus true accuracy of the selection, in percentage points
    optimism         reported minus true accuracy of the selection, in percentage points
    false positives  share of null tables on which the strategy concludes that distillation improves
                     accuracy; a null table permutes the configurations in each repeat, so that all
                     are equally good
"""

import argparse
import heapq
import math
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from play import rest_of, round_before, start_of

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.planning.ledger import final_test, finalists, is_decided
from kdtune.planning.plan import Plan
from kdtune.statistics.intervals import paired_difference
from kdtune.statistics.selection import rank_by_common_mean, rungs
from kdtune.statistics.tests import holm

FILE = Path(__file__).with_suffix(".csv")
EPOCHS = 30
VAL = 500
"""Images of val; the table holds the number of correct predictions."""
LEVEL = 0.05

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """Result of one replay of a strategy."""

    chosen: int
    reported: float
    epochs: int
    improves: bool | None
    """Whether it concludes that distillation improves accuracy; None if it has no test."""


class Replay:
    """One draw of repeats from the table."""

    def __init__(self, seed: int, null: bool = False):
        self.rng, self.null = np.random.default_rng(seed), null
        self.seed = seed
        self.drawn: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def curve(self, config: int, repeat: int) -> Scores:
        """Return val accuracy by epoch; the first request for a repeat draws it."""
        if repeat not in self.drawn:
            configs = np.arange(len(STUDY.cube))
            order = self.rng.permutation(configs) if self.null else configs
            self.drawn[repeat] = (int(self.rng.integers(STUDY.cube.shape[1])), order)
        column, order = self.drawn[repeat]
        curve: Scores = STUDY.cube[order[config], column]
        return curve

    def scores(self, repeats: int) -> Scores:
        """Return the final accuracies, [configurations, repeats]."""
        every = range(len(STUDY.cube))
        return np.array([[self.curve(c, r)[-1] for r in range(repeats)] for c in every])


class Recorded:
    """The table and its grid of configurations."""

    @cached_property
    def study(self) -> Study:
        """The study whose `runs()` are the rows."""
        frame = pd.read_csv(FILE)
        space = {
            name: tuple(float(v) for v in sorted(frame[name].dropna().unique()))
            for name in ("alpha", "temperature", "lr")
        }
        return Study(run=Run(epochs=EPOCHS, optimizer="adamw"), space=space)

    @cached_property
    def cube(self) -> Scores:
        """Val accuracy, [configurations, repeats, epochs]."""
        columns = [f"e{epoch + 1}" for epoch in range(EPOCHS)]
        rows: dict[str, list[Scores]] = {}
        for row in pd.read_csv(FILE).sort_values("repeat").to_dict("records"):
            live = {n: row[n] for n in ("alpha", "temperature", "lr") if row[n] == row[n]}
            config_id = replace(self.study.run, **live).config_id
            rows.setdefault(config_id, []).append(np.array([row[c] for c in columns]) / VAL)
        return np.array([rows[config_id] for config_id in self.rows])

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each configuration."""
        return {run.config_id: row for row, run in enumerate(self.study.runs())}

    @cached_property
    def is_baseline(self) -> NDArray[np.bool_]:
        """Mask of the rows without distillation."""
        return np.array([run.alpha == 1 for run in self.study.runs()])

    @cached_property
    def truth(self) -> Scores:
        """Mean final accuracy of each row."""
        means: Scores = self.cube[:, :, -1].mean(axis=1)
        return means


STUDY = Recorded()


# -- strategies ------------------------------------------------------------------------------------


def full(replay: Replay, repeats: int) -> Outcome:
    """Run all configurations with the same number of repeats and report the best mean."""
    scores = replay.scores(repeats)
    return by_means(scores, scores.size * EPOCHS)


def by_means(scores: Scores, epochs: int) -> Outcome:
    """Select the best mean among the configurations with distillation; NaN is a missing repeat."""
    means = np.where(STUDY.is_baseline, -1, np.nan_to_num(mean_of(scores), nan=-1))
    chosen = int(means.argmax())
    return Outcome(chosen, float(means[chosen]), epochs, improves(scores))


def mean_of(scores: Scores) -> Scores:
    """Return the means of the rows without their NaN; NaN for a row of NaN."""
    with warnings.catch_warnings(action="ignore"):
        means: Scores = np.nanmean(scores, axis=1)
        return means


def improves(scores: Scores) -> bool | None:
    """Return True if a configuration is significantly better than the best baseline.

    The test is that of kdtune's analysis: paired t tests with Holm's correction.
    """
    complete = ~np.isnan(scores).any(axis=1)
    baselines = np.flatnonzero(STUDY.is_baseline & complete)
    distilled = np.flatnonzero(~STUDY.is_baseline & complete)
    if scores.shape[1] < 2 or not len(baselines) or not len(distilled):
        return None
    baseline = scores[rank_by_common_mean(scores, list(baselines))[0]]
    differences = [paired_difference(scores[row], baseline) for row in distilled]
    adjusted = holm([d.p for d in differences])
    significant = [d for d, p in zip(differences, adjusted, strict=True) if p < LEVEL]
    return any(d.interval.mean > 0 for d in significant)


def play(replay: Replay, **changes: object) -> Plan:
    """Run kdtune's own plan, the code that schedules a search, to its end."""
    study = replace(STUDY.study, **changes)  # type: ignore[arg-type]
    study = replace(study, run=replace(study.run, seed=replay.seed))
    plan = Plan(study)

    def curve(run: Any) -> list[float]:
        return [float(acc) for acc in replay.curve(STUDY.rows[run.config_id], run.repeat)]

    while (run := plan.next_run()) is not None:
        for line in (*round_before(run, plan), start_of(run)):
            plan.add_record(line)
        for line in rest_of(run, plan, curve):
            plan.add_record(line)
    return plan


def planned(replay: Replay, **changes: object) -> Outcome:
    """Run kdtune's own plan and name the finalist with distillation."""
    plan = play(replay, **changes)
    study = plan.study
    (pair,) = finalists(plan.ledger)
    baseline, distilled = pair.states
    row, epochs = STUDY.rows[distilled.run.config_id], plan.ledger.cost.epochs
    final = final_test(plan.ledger, pair).differences
    if study.until_decided:
        return Outcome(row, math.nan, epochs, is_decided(plan.ledger) and float(np.mean(final)) > 0)
    if not final:
        scores = np.full((len(STUDY.cube), study.repeats), math.nan)
        for config in plan.ledger.configs.values():
            for repeat, score in config.scores.items():
                scores[STUDY.rows[config.run.config_id], repeat] = score
        return by_means(scores, epochs)
    reported = [score for repeat, score in distilled.scores.items() if repeat >= 2000]
    others = [score for repeat, score in baseline.scores.items() if repeat >= 2000]
    test = paired_difference(reported, others)
    is_better = test.p < LEVEL and test.interval.mean > 0
    return Outcome(row, float(np.mean(reported)), epochs, is_better)


def repeater(replay: Replay, samples: int, repeats: int) -> Outcome:
    """Run Ray's Repeater around Optuna: separate seeds for each configuration, which sees means."""
    scores = np.full((len(STUDY.cube), repeats), math.nan)
    study = replace(STUDY.study, search="tpe", samples=samples, repeats=repeats, plain_share=0.25)
    plan = Plan(replace(study, run=replace(study.run, seed=replay.seed)))
    while (run := plan.next_run()) is not None:
        row = STUDY.rows[run.config_id]
        score = float(replay.curve(row, 100 * (row + 1) + run.repeat)[-1])
        scores[row, run.repeat] = score
        plan.add_record(start_of(run))
        for line in rest_of(run, plan, partial(only, score)):
            plan.add_record(line)
    outcome = by_means(scores, samples * repeats * EPOCHS)
    return replace(outcome, improves=None)  # nothing is paired


def only(score: float, _: Any) -> list[float]:
    """Return a learning curve of one epoch."""
    return [score]


def confirmed(replay: Replay, best: int, repeats: int) -> Outcome:
    """Run all configurations once, confirm the best and evaluate finalists on held-out repeats.

    This has no tests before the final one, so it is the reference for racing.
    """
    first = replay.scores(1)
    order = rank_by_common_mean(first, list(np.flatnonzero(~STUDY.is_baseline)))
    baseline = rank_by_common_mean(first, list(np.flatnonzero(STUDY.is_baseline)))[0]
    rivals = order[:best]
    again = {c: [replay.curve(c, 1000 + r)[-1] for r in range(repeats)] for c in rivals}
    chosen = max(rivals, key=lambda c: float(np.mean([*again[c], first[c, 0]])))
    final, others = (
        [replay.curve(c, 2000 + r)[-1] for r in range(repeats)] for c in (chosen, baseline)
    )
    test = paired_difference(final, others)
    runs = len(first) + best * repeats + 2 * repeats
    is_better = test.p < LEVEL and test.interval.mean > 0
    return Outcome(chosen, float(np.mean(final)), runs * EPOCHS, is_better)


def asha(replay: Replay, repeats: int, eta: int = 3) -> Outcome:
    """Run ASHA with the repeats of all configurations as competing trials."""
    trials = [(c, r) for c in range(len(STUDY.cube)) for r in range(repeats)]
    replay.rng.shuffle(trials)
    marks = [math.ceil(EPOCHS / eta**2), math.ceil(EPOCHS / eta)]
    reached: dict[int, list[float]] = {mark: [] for mark in marks}
    epochs, ends = 0, {}
    for config, repeat in trials:
        curve, last = replay.curve(config, repeat), EPOCHS
        for mark in marks:
            reached[mark].append(curve[mark - 1])
            if sum(x > curve[mark - 1] for x in reached[mark]) >= len(reached[mark]) / eta:
                last = mark
                break
        epochs += last
        if last == EPOCHS and not STUDY.is_baseline[config]:
            ends[config, repeat] = float(curve[-1])
    best = max(ends, key=lambda trial: ends[trial])
    return Outcome(best[0], ends[best], epochs, None)


def wilcoxon(replay: Replay, repeats: int) -> Outcome:
    """Run Optuna's WilcoxonPruner over the grid with one repeat per step and p < 0.1."""
    with warnings.catch_warnings(action="ignore"):  # experimental
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    scores = np.full((len(STUDY.cube), repeats), math.nan)
    for config in replay.rng.permutation(len(STUDY.cube)):
        trial = study.ask()
        for repeat in range(repeats):
            scores[config, repeat] = replay.curve(config, repeat)[-1]
            trial.report(scores[config, repeat], repeat)
            if trial.should_prune():
                break
        study.tell(trial, mean_of(scores[[config]])[0])
    outcome = by_means(scores, int((~np.isnan(scores)).sum()) * EPOCHS)
    return replace(outcome, improves=None)  # pruned configurations have no test


RACE = {"policy": "race", "repeats": 5}
AUTO = {"until_decided": True, "budget": "400runs"}
STRATEGIES: dict[str, Callable[[Replay], Outcome]] = {
    "one seed": lambda replay: full(replay, 1),
    "all x 3": lambda replay: full(replay, 3),
    "all x 5": lambda replay: full(replay, 5),
    "all x 8": lambda replay: full(replay, 8),
    "TPE, 30 x 5": lambda replay: planned(replay, search="tpe", samples=30, repeats=5),
    "Repeater(TPE), 30 x 5": lambda replay: repeater(replay, 30, 5),
    "ASHA a seed, 60 x 5": lambda replay: asha(replay, 5),
    "WilcoxonPruner, 60 x 5": lambda replay: wilcoxon(replay, 5),
    "one seed, best 3 x 5, final 5": lambda replay: confirmed(replay, 3, 5),
    "one seed, best 6 x 5, final 5": lambda replay: confirmed(replay, 6, 5),
    "race x 5, no confirmation": lambda replay: planned(replay, **RACE, confirm=0),
    "race x 5": lambda replay: planned(replay, **RACE),
    "race x 5, stop early": lambda replay: planned(replay, **RACE, stop_early=True),
    "race x 8, stop early": lambda replay: planned(
        replay, policy="race", repeats=8, stop_early=True
    ),
    "race x 5, stop early, TPE 30": lambda replay: planned(
        replay, **RACE, stop_early=True, search="tpe", samples=30
    ),
    "race x 5, stop early, auto": lambda replay: planned(replay, **RACE, **AUTO, stop_early=True),
}
"""The strategies by their names in experiments/README.md."""


@dataclass(frozen=True)
class Row:
    """Means of a strategy over replays, with their standard errors."""

    strategy: str
    epochs: float
    regret: float
    regret_se: float
    optimism: float
    optimism_se: float
    power: float
    """Share of replays in which it concludes that distillation improves accuracy, which is true."""
    false_positives: float
    """The same share on null tables, where it is false."""


def measure(name: str, count: int, nulls: int) -> Row:
    """Return the means of a strategy over replays of the table and of null tables."""
    strategy = STRATEGIES[name]
    got = [strategy(Replay(seed)) for seed in range(count)]
    null = [strategy(Replay(seed, null=True)).improves for seed in range(nulls)]
    truth = STUDY.truth
    regret = [100 * float(truth[~STUDY.is_baseline].max() - truth[o.chosen]) for o in got]
    optimism = [100 * float(o.reported - truth[o.chosen]) for o in got]
    means = [float(np.mean(values)) for values in (regret, optimism)]
    errors = [float(np.std(values, ddof=1)) / math.sqrt(count) for values in (regret, optimism)]
    shares = [
        math.nan if None in answers else float(np.mean([a for a in answers if a is not None]))
        for answers in ([o.improves for o in got], null)
    ]
    epochs = float(np.mean([o.epochs for o in got]))
    return Row(name, epochs, means[0], errors[0], means[1], errors[1], *shares)


def markdown(row: Row) -> str:
    """Return a row of the table in experiments/README.md."""

    def share(value: float) -> str:
        return "-" if math.isnan(value) else f"{100 * value:.1f} %"

    optimism = f"{row.optimism:+.2f} ± {row.optimism_se:.2f}"
    return (
        f"| {row.strategy} | {row.epochs:,.0f} | {row.regret:.2f} ± {row.regret_se:.2f} | "
        f"{'-' if math.isnan(row.optimism) else optimism} | {share(row.power)} | "
        f"{share(row.false_positives)} |"
    )


def draw(rows: list[Row], file: Path) -> None:
    """Plot regret and optimism against cost."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharex=True, layout="constrained")
    for axis, name in zip(axes, ("regret", "optimism"), strict=True):
        for number, row in enumerate(rows, 1):
            y, error = getattr(row, name), getattr(row, f"{name}_se")
            color = "C0" if row.strategy.startswith("race") else "C7"
            axis.errorbar(
                row.epochs, y, error, fmt="o", color=color, label=f"{number} {row.strategy}"
            )
            axis.annotate(str(number), (row.epochs, y), (4, 4), textcoords="offset points")
        axis.set(
            xlabel="epochs spent",
            ylabel=f"{name} (percentage points of val accuracy)",
            xscale="log",
        )
        axis.axhline(0, color="black", linewidth=0.5)
    axes[1].legend(fontsize=7)
    figure.savefig(file, dpi=110)


# -- large searches --------------------------------------------------------------------------------


def simulate(gpus: int, trials: int) -> None:
    """Print time and memory of scheduling decisions and GPU use of a simulated search.

    A trial takes 100 units of simulated time (log-normal, sigma 0.2) and can be pruned.
    """
    space = {"alpha": Range(0, 0.9), "lr": Range(1e-4, 1, log=True), "temperature": Range(1, 20)}
    run = Run(epochs=EPOCHS, optimizer="adamw")
    for policy, stop_early, repeats in (("all", False, 5), ("race", False, 5), ("race", True, 5)):
        samples = trials // repeats if policy == "all" else int(trials / 1.4)
        study = Study(run=run, space=space, search="random", samples=samples, repeats=repeats)
        study = replace(study, policy=policy, stop_early=stop_early)  # type: ignore[arg-type]
        print(f"{policy}, stop early {stop_early}: {_simulate(study, gpus)}", flush=True)


def _simulate(study: Study, gpus: int) -> str:
    rng, before = random.Random(0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # noqa: S311 - no secret
    plan, clock, busy, number = Plan(study, concurrency=gpus), 0.0, 0.0, 0
    spent, worst = 0.0, 0.0
    full_until, busy_then = 0.0, 0.0
    flights: list[tuple[float, int, Any]] = []
    pending: dict[str, list[dict[str, Any]]] = {}

    def curve(run: Any) -> list[float]:
        end = 0.8 - 0.05 * abs(math.log10(run.lr) + 2) + rng.gauss(0, 0.01)
        return [end * (1 - 0.5 ** (epoch + 1)) for epoch in range(run.epochs)]

    while True:
        while len(flights) < gpus:
            started = time.perf_counter()
            run = plan.next_run()
            took = time.perf_counter() - started
            spent, worst = spent + took, max(worst, took)
            if run is None:
                break
            plan.add_record(start_of(run))
            number += 1
            lines = list(rest_of(run, plan, curve))
            share = (len(lines) - 1) / EPOCHS  # a pruned run is shorter
            length = 100 * share * rng.lognormvariate(0, 0.2)
            heapq.heappush(flights, (clock + length, number, run))
            pending[run.trial_id] = lines
        if len(flights) == gpus:
            full_until, busy_then = clock, busy
        if not flights:
            break
        end, _, run = heapq.heappop(flights)
        busy += (end - clock) * (len(flights) + 1)
        clock = end
        ended = pending.pop(run.trial_id)
        ended = [
            x for x in ended if x["kind"] == "end" or x["epoch"] + 1 in (*rungs(EPOCHS), EPOCHS)
        ]
        started = time.perf_counter()
        for line in ended:
            plan.add_record(line)
        spent += time.perf_counter() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return (
        f"{number:,} trials, {1000 * spent / number:.2f} ms per scheduling decision (longest "
        f"{worst:.2f} s), {memory:.0f} MiB of memory, GPUs busy {100 * busy / clock / gpus:.0f}% "
        f"of the time, {100 * busy_then / full_until / gpus:.0f}% while trials were left to start"
    )


def main() -> None:
    """Replay the strategies, or simulate a large search."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replays", type=int, default=400, help="replays of the table")
    parser.add_argument("--nulls", type=int, default=400, help="replays of null tables")
    parser.add_argument(
        "--only", nargs="*", default=list(STRATEGIES), help="names of the strategies to replay"
    )
    parser.add_argument("--simulate", action="store_true", help="simulate a large search instead")
    parser.add_argument("--figure", type=Path, default=FILE.with_suffix(".png"), help="output file")
    flags = parser.parse_args()
    if flags.simulate:
        simulate(gpus=1000, trials=10_000)
        return
    print("| strategy | epochs | regret | optimism | power | false positives on null tables |")
    print("|---|---|---|---|---|---|")
    rows = []
    for name in flags.only:
        rows.append(measure(name, flags.replays, flags.nulls))
        print(markdown(rows[-1]), flush=True)
    draw(rows, flags.figure)


if __name__ == "__main__":
    main()

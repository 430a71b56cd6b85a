"""How good is a search for what it costs? Strategies replayed against a table of real runs.

    python experiments/search_efficiency.py                 # about ten minutes; writes the figure
    python experiments/search_efficiency.py --simulate      # the plan alone, on 1,000 logical GPUs

The table (search_efficiency.csv): the default study widened to 60 configurations, each run in 20
repeats of 30 epochs, made by

    python -m kdtune.search --alpha 0.1 0.5 0.9 1 --temperature 1 4 8 \
        --lr 0.001 0.003 0.01 0.02 0.05 0.1 --repeats 20 --epochs 30 --gpus 0 --name table

A replay draws its repeats from the table's with replacement (without, fresh repeats would be those
that the search did not draw, and lower), the same for all configurations; the truth is the
table's mean. Each strategy names the distilled configuration it takes for the best and reports an
accuracy for it:

    regret          best true accuracy minus that of the configuration named, in points
    optimism        accuracy reported minus true, in points
    false verdicts  share of "distillation helps" on null tables, whose configurations are permuted
                    afresh in each repeat, so that all are equally good
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
from play import rest_of, start_of

from kdtune.config.hyperparameters import Range
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.plan import Plan
from kdtune.planning.standing import final_differences, finalists, is_decided
from kdtune.statistics.early_stopping import rungs
from kdtune.statistics.intervals import paired_difference
from kdtune.statistics.multiplicity import holm
from kdtune.statistics.racing import rank_by_common_mean

FILE = Path(__file__).with_suffix(".csv")
EPOCHS = 30
VAL = 500
"""Images of val: the table holds how many of them were right."""
LEVEL = 0.05

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What one replay of a strategy gave."""

    chosen: int
    reported: float
    epochs: int
    helps: bool | None
    """Whether it would say that distillation helps; None: it has no test."""


class Replay:
    """One draw of repeats from the table."""

    def __init__(self, seed: int, null: bool = False):
        self.rng, self.null = np.random.default_rng(seed), null
        self.seed = seed
        self.drawn: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def curve(self, config: int, repeat: int) -> Scores:
        """Val accuracy by epoch; a repeat is drawn when it is first asked for."""
        if repeat not in self.drawn:
            configs = np.arange(len(STUDY.cube))
            order = self.rng.permutation(configs) if self.null else configs
            self.drawn[repeat] = (int(self.rng.integers(STUDY.cube.shape[1])), order)
        column, order = self.drawn[repeat]
        curve: Scores = STUDY.cube[order[config], column]
        return curve

    def scores(self, repeats: int) -> Scores:
        """Final accuracies, [configurations, repeats]."""
        every = range(len(STUDY.cube))
        return np.array([[self.curve(c, r)[-1] for r in range(repeats)] for c in every])


class Recorded:
    """The table and the grid it is of."""

    @cached_property
    def study(self) -> Study:
        """The grid, as `Study` lists it."""
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
    def plain(self) -> NDArray[np.bool_]:
        """Which rows are plain training."""
        return np.array([run.alpha == 1 for run in self.study.runs()])

    @cached_property
    def truth(self) -> Scores:
        """Mean final accuracy of each row."""
        means: Scores = self.cube[:, :, -1].mean(axis=1)
        return means


STUDY = Recorded()


# -- strategies ------------------------------------------------------------------------------------


def full(replay: Replay, repeats: int) -> Outcome:
    """Every configuration in so many repeats; the best mean is named and reported."""
    scores = replay.scores(repeats)
    return by_means(scores, scores.size * EPOCHS)


def by_means(scores: Scores, epochs: int) -> Outcome:
    """The best of the distilled by its mean over its repeats, NaN where it has none."""
    means = np.where(STUDY.plain, -1, np.nan_to_num(mean_of(scores), nan=-1))
    chosen = int(means.argmax())
    return Outcome(chosen, float(means[chosen]), epochs, helps(scores))


def mean_of(scores: Scores) -> Scores:
    """Row means over what is there; NaN for none."""
    with warnings.catch_warnings(action="ignore"):
        means: Scores = np.nanmean(scores, axis=1)
        return means


def helps(scores: Scores) -> bool | None:
    """The verdict of a table: Holm over all distilled against the best plain, as in `analysis`."""
    whole = ~np.isnan(scores).any(axis=1)
    plain, distilled = np.flatnonzero(STUDY.plain & whole), np.flatnonzero(~STUDY.plain & whole)
    if scores.shape[1] < 2 or not len(plain) or not len(distilled):
        return None
    baseline = scores[rank_by_common_mean(scores, list(plain))[0]]
    differences = [paired_difference(scores[row], baseline) for row in distilled]
    adjusted = holm([d.p for d in differences])
    found = [d for d, p in zip(differences, adjusted, strict=True) if p < LEVEL]
    return any(d.interval.mean > 0 for d in found)


def planned(replay: Replay, **changes: object) -> Outcome:
    """The plan of kdtune itself, the very code that searches."""
    study = replace(STUDY.study, **changes)  # type: ignore[arg-type]
    study = replace(study, run=replace(study.run, seed=replay.seed))
    plan = Plan(study)

    def curve(run: Run) -> list[float]:
        return [float(acc) for acc in replay.curve(STUDY.rows[run.config_id], run.repeat)]

    while (run := plan.next_run()) is not None:
        plan.add_record(start_of(run))
        for line in rest_of(run, plan, curve):
            plan.add_record(line)
    plain, distilled = finalists(plan.ledger)
    row, epochs = STUDY.rows[distilled.run.config_id], plan.ledger.cost.epochs
    final = final_differences(plan.ledger)
    if study.until_decided:
        return Outcome(row, math.nan, epochs, is_decided(plan.ledger) and float(np.mean(final)) > 0)
    if not final:
        scores = np.full((len(STUDY.cube), study.repeats), math.nan)
        for tried in plan.ledger.configs.values():
            for repeat, score in tried.scores.items():
                scores[STUDY.rows[tried.run.config_id], repeat] = score
        return by_means(scores, epochs)
    reported = [score for repeat, score in distilled.scores.items() if repeat >= 2000]
    test = paired_difference(reported, [plain.scores[r] for r in plain.scores if r >= 2000])
    says = test.p < LEVEL and test.interval.mean > 0
    return Outcome(row, float(np.mean(reported)), epochs, says)


def repeater(replay: Replay, samples: int, repeats: int) -> Outcome:
    """Ray's Repeater around Optuna: every configuration on repeats of its own, told the mean."""
    scores = np.full((len(STUDY.cube), repeats), math.nan)
    study = replace(STUDY.study, search="tpe", samples=samples, repeats=repeats)
    plan = Plan(replace(study, run=replace(study.run, seed=replay.seed)))
    while (run := plan.next_run()) is not None:
        row = STUDY.rows[run.config_id]
        score = float(replay.curve(row, 100 * (row + 1) + run.repeat)[-1])
        scores[row, run.repeat] = score
        plan.add_record(start_of(run))
        for line in rest_of(run, plan, partial(only, score)):
            plan.add_record(line)
    outcome = by_means(scores, samples * repeats * EPOCHS)
    return replace(outcome, helps=None)  # nothing is paired


def only(score: float, _: Run) -> list[float]:
    """A curve of one point."""
    return [score]


def confirmed(replay: Replay, best: int, repeats: int) -> Outcome:
    """One seed for all; the best few and plain again on fresh repeats; final numbers on others.

    Without any test on the way: what a race must beat.
    """
    first = replay.scores(1)
    order = rank_by_common_mean(first, list(np.flatnonzero(~STUDY.plain)))
    baseline = rank_by_common_mean(first, list(np.flatnonzero(STUDY.plain)))[0]
    rivals = order[:best]
    again = {c: [replay.curve(c, 1000 + r)[-1] for r in range(repeats)] for c in rivals}
    chosen = max(rivals, key=lambda c: float(np.mean([*again[c], first[c, 0]])))
    final, plain = (
        [replay.curve(c, 2000 + r)[-1] for r in range(repeats)] for c in (chosen, baseline)
    )
    test = paired_difference(final, plain)
    runs = len(first) + best * repeats + 2 * repeats
    says = test.p < LEVEL and test.interval.mean > 0
    return Outcome(chosen, float(np.mean(final)), runs * EPOCHS, says)


def asha(replay: Replay, repeats: int, eta: int = 3) -> Outcome:
    """ASHA in which the repeats of all configurations compete as trials of their own."""
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
        if last == EPOCHS and not STUDY.plain[config]:
            ends[config, repeat] = float(curve[-1])
    best = max(ends, key=lambda trial: ends[trial])
    return Outcome(best[0], ends[best], epochs, None)


def wilcoxon(replay: Replay, repeats: int) -> Outcome:
    """Optuna's WilcoxonPruner over the grid, a repeat a step, p < 0.1."""
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
    return replace(outcome, helps=None)  # what was pruned has no test


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
"""What is compared; names as in experiments/README.md."""


@dataclass(frozen=True)
class Row:
    """A strategy's means over replays, with their standard errors."""

    strategy: str
    epochs: float
    regret: float
    regret_se: float
    optimism: float
    optimism_se: float
    says_helps: float
    """Share of the replays in which it finds that distillation helps, which is so."""
    false_helps: float
    """The same on null tables."""


def measure(name: str, count: int, nulls: int) -> Row:
    """Replay a strategy on the table and on null tables."""
    strategy = STRATEGIES[name]
    got = [strategy(Replay(seed)) for seed in range(count)]
    null = [strategy(Replay(seed, null=True)).helps for seed in range(nulls)]
    truth = STUDY.truth
    regret = [100 * float(truth[~STUDY.plain].max() - truth[o.chosen]) for o in got]
    optimism = [100 * float(o.reported - truth[o.chosen]) for o in got]
    means = [float(np.mean(values)) for values in (regret, optimism)]
    errors = [float(np.std(values, ddof=1)) / math.sqrt(count) for values in (regret, optimism)]
    said = [
        float(np.mean([h for h in words if h is not None])) if None not in words else math.nan
        for words in ([o.helps for o in got], null)
    ]
    epochs = float(np.mean([o.epochs for o in got]))
    return Row(name, epochs, means[0], errors[0], means[1], errors[1], said[0], said[1])


def markdown(row: Row) -> str:
    """A row as it stands in experiments/README.md."""

    def share(value: float) -> str:
        return "-" if math.isnan(value) else f"{100 * value:.1f} %"

    optimism = f"{row.optimism:+.2f} ± {row.optimism_se:.2f}"
    return (
        f"| {row.strategy} | {row.epochs:,.0f} | {row.regret:.2f} ± {row.regret_se:.2f} | "
        f"{'-' if math.isnan(row.optimism) else optimism} | {share(row.says_helps)} | "
        f"{share(row.false_helps)} |"
    )


def draw(rows: list[Row], file: Path) -> None:
    """Regret and optimism against what they cost."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharex=True, layout="constrained")
    for axis, name in zip(axes, ("regret", "optimism"), strict=True):
        for number, row in enumerate(rows, 1):
            y, error = getattr(row, name), getattr(row, f"{name}_se")
            color = "C0" if row.strategy.startswith("race") else "C7"
            axis.errorbar(
                row.epochs, y, error, fmt="o", color=color, label=f"{number} {row.strategy}"
            )
            axis.annotate(str(number), (row.epochs, y), (4, 4), textcoords="offset points")
        axis.set(xlabel="epochs spent", ylabel=f"{name}, points of val accuracy", xscale="log")
        axis.axhline(0, color="black", linewidth=0.5)
    axes[1].legend(fontsize=7)
    figure.savefig(file, dpi=110)


# -- at size ---------------------------------------------------------------------------------------


def simulate(gpus: int, trials: int) -> None:
    """The plan alone under a virtual clock: cost of a decision, memory, use of the GPUs.

    Trials take 100 units +- 20 % (log-normal) and are looked at by the early stopper.
    """
    space = {"alpha": Range(0, 0.9), "lr": Range(1e-4, 1, log=True), "temperature": Range(1, 20)}
    run = Run(epochs=EPOCHS, optimizer="adamw")
    for policy, stop_early, repeats in (("all", False, 5), ("race", False, 5), ("race", True, 5)):
        samples = trials // repeats if policy == "all" else int(trials / 1.4)
        study = Study(run=run, space=space, search="random", samples=samples, repeats=repeats)
        study = replace(study, policy=policy, stop_early=stop_early)  # type: ignore[arg-type]
        print(f"{policy}, stop early {stop_early}: {_simulate(study, gpus)}", flush=True)


def _simulate(study: Study, gpus: int) -> str:
    rng, before = random.Random(0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan, clock, busy, number = Plan(study, concurrency=gpus), 0.0, 0.0, 0
    spent, worst = 0.0, 0.0
    full_until, busy_then = 0.0, 0.0
    flights: list[tuple[float, int, Run]] = []
    pending: dict[str, list[dict[str, Any]]] = {}

    def curve(run: Run) -> list[float]:
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
            share = (len(lines) - 1) / EPOCHS  # a run that is stopped early is shorter
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
        f"{number:,} trials, {1000 * spent / number:.2f} ms a trial to decide (longest "
        f"{worst:.2f} s), {memory:.0f} MiB more, GPUs busy {100 * busy / clock / gpus:.0f} % over "
        f"all, {100 * busy_then / full_until / gpus:.0f} % until runs were short"
    )


def main() -> None:
    """Replay every strategy, or simulate the plan at size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replays", type=int, default=400)
    parser.add_argument("--nulls", type=int, default=400)
    parser.add_argument("--only", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--figure", type=Path, default=FILE.with_suffix(".png"))
    flags = parser.parse_args()
    if flags.simulate:
        simulate(gpus=1000, trials=10_000)
        return
    print("| strategy | epochs | regret | optimism | says it helps | falsely, on null tables |")
    print("|---|---|---|---|---|---|")
    rows = []
    for name in flags.only:
        rows.append(measure(name, flags.replays, flags.nulls))
        print(markdown(rows[-1]), flush=True)
    draw(rows, flags.figure)


if __name__ == "__main__":
    main()

"""State of a study as its records tell it: configurations, scores, finalists."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdtune.config.records import EpochTime
from kdtune.config.study import BUDGET, Study, recorded_run
from kdtune.config.task import BaseRun
from kdtune.config.text import InputError
from kdtune.statistics import selection as racing
from kdtune.statistics.selection import Table, rungs
from kdtune.statistics.tests import AnytimeTest
from kdtune.storage.records import FINALISTS, FinalPair, Round, unpack_correct

# State of a study as its records tell it: configurations, their runs, scores and costs.
#
# The repeats of each phase have their own numbers, so that more search repeats can be added to a
# study without using up its held-out repeats:
#
#     search   0, 1, 2, ...    every configuration; under "race" more for those still active
#     confirm  1000, 1001, ... the best few of each arm, to choose the two finalists
#     final    2000, 2001, ... the finalists, on held-out repeats that no decision has used; a study
#                              that is extended begins a new round of them (see `current_round`)


class Arm(NamedTuple):
    """Group of configurations that compete with each other; those of a student are compared."""

    group: str
    """See `BaseRun.group`: the student; "" for a training function."""
    is_baseline: bool
    """Whether they belong to the baseline: trained without distillation (alpha = 1)."""

    @staticmethod
    def of(run: BaseRun) -> "Arm":
        """Return the arm of a run's configuration."""
        return Arm(run.group, run.is_baseline)


Phase = Literal["search", "confirm", "final"]
FIRST_REPEAT: dict[Phase, int] = {"search": 0, "confirm": 1000, "final": 2000}
"""Number of the first repeat of each phase."""


def phase_of(repeat: int) -> Phase:
    """Return the phase to which a repeat belongs."""
    if repeat >= FIRST_REPEAT["confirm"]:
        return "final" if repeat >= FIRST_REPEAT["final"] else "confirm"
    return "search"


@dataclass
class ConfigState:
    """A configuration and the state of its runs."""

    run: BaseRun
    row: int
    """Its row in the table of scores: configurations are numbered in the order of suggestion."""
    status: dict[int, str] = field(default_factory=dict)
    """By repeat: running, completed, failed, pruned or dropped."""
    scores: dict[int, float] = field(default_factory=dict)
    """By repeat, of the completed runs: values of `Task.score`; higher is better."""
    correct: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    """By final repeat: whether each prediction on val is correct, [N]; not in old records."""
    reported_to_sampler: bool = False

    @cached_property
    def arm(self) -> Arm:
        """The arm of the configuration."""
        return Arm.of(self.run)

    @property
    def excluded(self) -> bool:
        """Return True if a run failed, or was pruned or dropped, before the finals.

        The mean of the configuration is then not comparable.
        A failed final repeat does not exclude a finalist: it is left out of both arms.
        """
        return any(
            status in ("failed", "pruned", "dropped") and phase_of(repeat) != "final"
            for repeat, status in self.status.items()
        )


class DroppedRun(NamedTuple):
    """A run that was dropped, with the state that it had before."""

    run: BaseRun
    status: str
    score: float | None
    is_retryable: bool


class Rung(NamedTuple):
    """Group of runs of the first repeat whose scores after the same epoch are compared."""

    arm: Arm
    epochs: int
    """Planned number of epochs."""
    done: int
    """Number of epochs done."""


@dataclass
class RunCost:
    """Cost of a study so far."""

    runs: int = 0
    epochs: int = 0
    seconds: float = 0.0
    """Sum over all runs."""

    def reaches(self, budget: str | None) -> bool:
        """Return True if the budget, for example 400runs, is spent; None is no limit."""
        if budget is None:
            return False
        match = re.fullmatch(BUDGET, budget)
        assert match is not None  # noqa: S101 - Study has checked it
        spent = {"runs": self.runs, "epochs": self.epochs, "h": self.seconds / 3600}
        return spent[match[2]] >= float(match[1])


def kind_of(run: BaseRun) -> tuple[str, bool, int]:
    """Return what the time of a run depends on: its arm and its number of epochs, 1 if unknown."""
    return *Arm.of(run), run.planned_epochs or 1


class Ledger:
    """State of a study, updated line by line while records are written or read again."""

    def __init__(self, study: Study):
        self.study = study
        self._task = study.task
        self.configs: dict[str, ConfigState] = {}
        """By config_id, in the order of suggestion."""
        self.by_row: list[ConfigState] = []
        self.cost = RunCost()
        self.elapsed = 0.0
        """Seconds that the study had taken at its last record of a run's start or end."""
        self.most_running = 0
        """Largest number of runs at a time."""
        self._began: dict[str, float] = {}
        """By trial_id, of the runs that began at their first epoch: `elapsed` at their start."""
        self._pace: dict[tuple[str, bool, int], list[float]] = {}
        """Seconds per planned epoch of each completed run, from its start to its end."""
        self.expected: dict[str, EpochTime] = {}
        """By group of runs, see `Arm`; where single steps have been measured."""
        self.running: dict[str, BaseRun] = {}
        """By trial_id."""
        self.retryable: dict[str, BaseRun] = {}
        """Failed runs that may succeed when repeated; diverged runs would diverge again."""
        self.dropped: dict[str, DroppedRun] = {}
        """By trial_id."""
        self.epochs: dict[str, int] = {}
        """By trial_id: how many it has done."""
        self.streamed: dict[int, int] = {}
        """By repeat: how many epochs one of its runs has done, whose views and logits exist."""
        self.rungs: dict[Rung, dict[str, float]] = {}
        """Scores of the first repeat by config_id."""
        self.round: Round | None = None
        """The last round of final repeats that has begun."""
        self.is_round_over: bool = False
        """Whether runs of the search or of the confirmation have ended since that round began."""
        self.next_final_repeat: int = FIRST_REPEAT["final"]
        """Number of the first final repeat that no recorded run has used."""
        self._rows: list[list[float]] = []
        self._last: dict[str, float] = {}

    @property
    def table(self) -> Table:
        """Scores of the search, [configurations, repeats]; NaN in rows of excluded ones."""
        return np.array(self._rows, dtype=float).reshape(-1, self.study.repeats)

    @property
    def open_round(self) -> Round | None:
        """The round of final repeats that has begun and is not over."""
        return None if self.is_round_over else self.round

    @property
    def first_final_repeat(self) -> int:
        """Number of the first repeat of the round that has begun, else of the next one."""
        round_ = self.open_round
        return self.next_final_repeat if round_ is None else round_.first_repeat

    def add_record(self, line: Mapping[str, Any]) -> None:
        """Update the state with one line of the records."""
        if line["kind"] == FINALISTS:
            self.round, self.is_round_over = Round.from_line(line), False
            return
        config_id, repeat = line["config_id"], line["repeat"]
        self.elapsed = line.get("elapsed", self.elapsed)
        if line["kind"] == "start":
            # a known configuration keeps the inactive values with which it was suggested
            state = self.configs.get(config_id)
            base = state.run if state else recorded_run(self.study, line["config"])
            self.start_run(base.at(repeat))
            if phase_of(repeat) == "final":
                self.next_final_repeat = max(self.next_final_repeat, repeat + 1)
                if self.round is None:
                    self.round = Round(0, FIRST_REPEAT["final"], (), (), is_recorded=False)
                if not self.round.is_recorded:
                    # earlier versions added to the same finals after a search
                    self.is_round_over = False
        elif config_id not in self.configs:
            return  # its start could not be read
        elif line["kind"] == "epoch" and line["split"] == "val":
            self._add_epoch(line["trial_id"], self.configs[config_id].run, repeat, line)
        elif line["kind"] == "end":
            self._end_run(self.configs[config_id], repeat, line["status"], line["error"])
        elif line["kind"] == "drop":
            self._drop_run(self.configs[config_id], repeat)
        elif line["kind"] == "restore":
            self._restore_run(self.configs[config_id], line["trial_id"])

    def score(self, metrics: Mapping[str, Any]) -> float:
        """Return the score of the metrics of an epoch on val; higher is better."""
        value: float = self._task.sign * metrics[self._task.score]
        return value

    def add_config(self, run: BaseRun) -> ConfigState:
        """Add the configuration of a run as a new row of the table.

        Raises:
            InputError: Another configuration has the same id.
        """
        run = run.at(0)
        if run.config_id in self.configs:  # of 32 bits: two of 1,000 have the same in 1 of 9,000
            configs = (self.configs[run.config_id].run.config, run.config)
            names = [n for n, value in run.config.items() if value != configs[0][n]]
            first, second = (", ".join(f"{n} = {config[n]}" for n in names) for config in configs)
            raise InputError(
                f"the configurations with {first} and with {second} have the same id, "
                f"{run.config_id}, and cannot be told apart; change one of the values a little"
            )
        state = self.configs[run.config_id] = ConfigState(run, len(self.configs))
        self._rows.append([math.nan] * self.study.repeats)
        self.by_row.append(state)
        return state

    def start_run(self, run: BaseRun) -> None:
        """Mark a run as in flight; adds its configuration if it is new."""
        state = self.configs.get(run.config_id) or self.add_config(run)
        self.cost.runs += run.repeat not in state.status
        state.status[run.repeat] = "running"
        self.running[run.trial_id] = run
        self.most_running = max(self.most_running, len(self.running))
        if run.trial_id not in self.epochs:
            self._began[run.trial_id] = self.elapsed
        self.retryable.pop(run.trial_id, None)
        self.dropped.pop(run.trial_id, None)

    def seconds(self, run: BaseRun) -> float:
        """Return the time that a run is expected to take, all its epochs.

        That is their number times the mean seconds per epoch of its kind, or of the nearest kind
        that has been measured. Before any of its student has, it is what single steps let expect,
        as if no other run shared its stream; else 0.
        """
        group, is_baseline, epochs = kind_of(run)
        if group in self.expected and group not in {group for group, *_ in self._pace}:
            training, stream, once = self.expected[group]
            return (training + stream) * epochs + once

        def distance(kind: tuple[str, bool, int]) -> tuple[bool, bool, int]:
            return kind[0] != group, kind[1] != is_baseline, abs(kind[2] - epochs)

        nearest = min(self._pace, key=distance, default=None)
        return 0.0 if nearest is None else float(np.mean(self._pace[nearest])) * epochs

    def seconds_left(self, run: BaseRun) -> float:
        """Return the time that a run is expected to take from now on."""
        done = self.epochs.get(run.trial_id, 0) / (run.planned_epochs or 1)
        return self.seconds(run) * max(0.0, 1 - done)

    def _add_epoch(self, trial_id: str, run: BaseRun, repeat: int, line: Mapping[str, Any]) -> None:
        self._last[trial_id] = score = self.score(line)
        if phase_of(repeat) == "final" and (correct := unpack_correct(line)) is not None:
            self.configs[run.config_id].correct[repeat] = correct
        if line["epoch"] >= self.epochs.get(trial_id, 0):  # a resumed run may repeat epochs
            self.epochs[trial_id] = line["epoch"] + 1
            self.streamed[repeat] = max(self.streamed.get(repeat, 0), line["epoch"] + 1)
            self.cost.epochs += 1
            self.cost.seconds += line["seconds"]
        planned = run.planned_epochs
        if repeat == 0 and planned is not None and line["epoch"] + 1 in rungs(planned):
            rung = Rung(Arm.of(run), planned, line["epoch"] + 1)
            self.rungs.setdefault(rung, {})[run.config_id] = score

    def _end_run(self, state: ConfigState, repeat: int, status: str, error: str | None) -> None:
        run = state.run.at(repeat)
        # a run that fails, perhaps once more, says nothing about which configuration is the best
        if phase_of(repeat) != "final" and status in ("completed", "pruned"):
            self.is_round_over = True
        state.status[repeat] = status
        self.running.pop(run.trial_id, None)
        began = self._began.pop(run.trial_id, None)
        if status == "completed" and began is not None:
            kind = kind_of(run)
            self._pace.setdefault(kind, []).append((self.elapsed - began) / kind[-1])
        if status == "completed":
            state.scores[repeat] = self._last[run.trial_id]
        elif status == "failed" and not str(error).startswith("Diverged"):
            self.retryable[run.trial_id] = run
        self._update_row(state)

    def _drop_run(self, state: ConfigState, repeat: int) -> None:
        trial_id = state.run.at(repeat).trial_id
        if trial_id in self.dropped or repeat not in state.status:
            return
        run, score = state.run.at(repeat), state.scores.pop(repeat, None)
        retryable = self.retryable.pop(trial_id, None) is not None
        self.dropped[trial_id] = DroppedRun(run, state.status[repeat], score, retryable)
        state.status[repeat] = "dropped"
        self.running.pop(trial_id, None)
        self._update_row(state)

    def _restore_run(self, state: ConfigState, trial_id: str) -> None:
        dropped = self.dropped.pop(trial_id, None)
        if dropped is None:
            return
        run = dropped.run
        state.status[run.repeat] = dropped.status
        if dropped.score is not None:
            state.scores[run.repeat] = dropped.score
        if dropped.is_retryable:
            self.retryable[trial_id] = run
        if dropped.status == "running":
            self.running[trial_id] = run
        self._update_row(state)

    def _update_row(self, state: ConfigState) -> None:
        scores = {} if state.excluded else state.scores
        self._rows[state.row] = [scores.get(r, math.nan) for r in range(self.study.repeats)]


# Current standing of a study: active configurations, finalists, and whether it is decided.
#
# Functions of the ledger alone, so that a resumed study has the standing that it had.


class Arms(NamedTuple):
    """Configurations of the two groups of one student that a study compares, the best first."""

    baseline: list[ConfigState]
    distilled: list[ConfigState]


class Finalists(NamedTuple):
    """The best configuration of each arm of one student; None for an arm without any score."""

    baseline: ConfigState | None
    distilled: ConfigState | None

    @property
    def states(self) -> list[ConfigState]:
        """Those that exist, the baseline first."""
        return [state for state in self if state is not None]


def active_configs(ledger: Ledger) -> dict[str, Arms]:
    """Return by student the configurations of each arm that may still be the best.

    Under the policy "race" these are the ones that racing has not eliminated, under "all" all that
    have a score.
    """
    table = ledger.table
    sd, df = racing.noise(table)

    def active(arm: Arm) -> list[ConfigState]:
        rows = np.array([s.row for s in ledger.by_row if s.arm == arm], dtype=np.intp)
        if ledger.study.policy == "race":
            alive = racing.active(table[rows], sd, df, ledger.study.race_level)
        else:
            alive = racing.leading_counts(table[rows]) > 0
        ranked = racing.rank_by_common_mean(table, rows[alive].tolist())
        return [ledger.by_row[row] for row in ranked]

    groups = dict.fromkeys(state.arm.group for state in ledger.by_row)
    return {g: Arms(active(Arm(g, True)), active(Arm(g, False))) for g in groups}


def configs_to_confirm(ledger: Ledger) -> list[ConfigState]:
    """Return the best few of each arm for the phase "confirm"; none of a student without choice."""
    most = ledger.study.confirm
    if ledger.study.policy != "race" or most == 0:
        return []
    chosen = []
    for arms in active_configs(ledger).values():
        best = [arm[:most] for arm in arms]
        if any(len(arm) > 1 for arm in best):
            chosen += [state for arm in best for state in arm]
    return chosen


def finalists(ledger: Ledger) -> list[Finalists]:
    """Return of each student the finalists of the round of final repeats that has begun.

    Before it has begun, and after it is over, these are the best of both arms by search and
    confirmation. They are also those of a study of schema 3 or older, which recorded no finalists.
    """
    round_, configs = ledger.open_round, ledger.configs
    if round_ is not None and round_.is_recorded:
        ids = [(pair["baseline"], pair["distilled"]) for pair in round_.pairs]
        return [Finalists(*(None if c is None else configs[c] for c in pair)) for pair in ids]

    def best(arm: list[ConfigState]) -> ConfigState | None:
        confirmed = [state for state in arm if any(phase_of(r) == "confirm" for r in state.scores)]
        rivals = confirmed or arm
        return _ranked(rivals)[0] if rivals else None

    return [
        Finalists(best(arms.baseline), best(arms.distilled))
        for arms in active_configs(ledger).values()
    ]


def _ranked(states: list[ConfigState]) -> list[ConfigState]:
    """Return configurations by their mean over the repeats that all have, without final ones."""
    repeats = sorted({r for s in states for r in s.scores if phase_of(r) != "final"})
    rows = np.array([[s.scores.get(r, math.nan) for r in repeats] for s in states])
    return [states[i] for i in racing.rank_by_common_mean(rows, range(len(states)))]


def final_test(ledger: Ledger, pair: Finalists) -> AnytimeTest:
    """Return the always-valid test of distilled minus baseline on the final repeats.

    Only the repeats of the round that has begun count (see `current_round`), in order up to the
    first gap. A repeat in which one of the two has failed is left out and is no gap. The test is
    about new repeats and new images, or about new repeats on these images if records of an older
    version lack the correctness of each image.
    """
    baseline, distilled = pair
    if baseline is None or distilled is None:
        return AnytimeTest(())
    repeats, repeat = [], ledger.first_final_repeat
    while {baseline.status.get(repeat), distilled.status.get(repeat)}.isdisjoint({None, "running"}):
        if repeat in baseline.scores and repeat in distilled.scores:
            repeats.append(repeat)
        repeat += 1
    differences = [distilled.scores[repeat] - baseline.scores[repeat] for repeat in repeats]
    correct = [(distilled.correct.get(r), baseline.correct.get(r)) for r in repeats]
    rows = [a.astype(float) - b for a, b in correct if a is not None and b is not None]
    is_complete = len(rows) == len(repeats) and len({len(row) for row in rows}) == 1
    return AnytimeTest.of(differences, np.stack(rows) if is_complete else None)


class Decision(NamedTuple):
    """Whether the final repeats decide between the two finalists of a student."""

    pair: Finalists
    test: AnytimeTest
    level: float
    """That of the study, divided by the number of pairs of finalists (Bonferroni)."""

    @property
    def state(self) -> Literal["decided", "not decided", "undecidable with these images"]:
        """Whether p <= level, and if not, whether more repeats can achieve it."""
        if self.test.excludes_0(self.level):
            return "decided"
        undecidable = self.test.is_undecidable(self.level)
        return "undecidable with these images" if undecidable else "not decided"


def decisions(ledger: Ledger) -> list[Decision]:
    """Return the decision about each student that has a finalist in both arms."""
    pairs = [pair for pair in finalists(ledger) if len(pair.states) == 2]
    level = ledger.study.level / max(1, len(pairs))
    return [Decision(pair, final_test(ledger, pair), level) for pair in pairs]


def is_decided(ledger: Ledger) -> bool:
    """Return True if there is a pair of finalists and each pair is decided."""
    return {decision.state for decision in decisions(ledger)} == {"decided"}


# Rounds of final repeats: which configurations run one, and when another one begins.
#
# The finalists of a round are fixed before the first of its repeats: the best configuration of each
# arm and the best of all, by search and confirmation. The record of the round (`Round`) is written
# before the first of its runs starts. From then on neither its final repeats nor a dropped run
# changes them: the larger of two means on the same final repeats would be optimistic. The round is
# over when further runs of the search or of the confirmation have ended, since the study was
# extended; the finalists of the next round run repeats that no earlier round has used.
#
# Everything here is a function of the recorded lines, so a plan that is rebuilt after a crash makes
# the same round, whether its record was written or not.


def current_round(ledger: Ledger) -> Round | None:
    """Return the round that has begun, else the one that begins next; None without a finalist."""
    if ledger.open_round is not None:
        return ledger.open_round
    pairs = [pair for pair in finalists(ledger) if pair.states]
    if not pairs:
        return None
    recorded = []
    for pair in pairs:
        baseline, distilled = (None if s is None else s.run.config_id for s in pair)
        student = pair.states[0].arm.group
        recorded.append(FinalPair(student=student, baseline=baseline, distilled=distilled))
    ranking = _ranked([state for pair in pairs for state in pair.states])
    return Round(
        number=0 if ledger.round is None else ledger.round.number + 1,
        first_repeat=ledger.next_final_repeat,
        pairs=tuple(recorded),
        ranking=tuple(state.run.config_id for state in ranking),
        default=_recipes_default(ledger),
    )


def default_of_round(ledger: Ledger) -> list[ConfigState]:
    """Return the recipe's default if it runs the final repeats beside the finalists, else []."""
    round_ = current_round(ledger)
    if round_ is None or round_.default is None or round_.default in round_.finalists:
        return []
    return [ledger.configs[round_.default]]


def _recipes_default(ledger: Ledger) -> str | None:
    """Return the recipe's default; None if there is none, or it would fail once more."""
    default = ledger.study.default
    if default is None or not ledger.study.has_default:
        return None
    state = ledger.configs.get(default.config_id)
    if state is None or state.run.identity != default.identity:
        return None
    before = {status for r, status in state.status.items() if phase_of(r) != "final"}
    return None if before & {"failed", "dropped"} else state.run.config_id

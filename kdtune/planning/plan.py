"""Order of runs as a function of the records, so that a resumed study decides the same."""

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdtune.config.study import Study
from kdtune.config.task import BaseRun, covers
from kdtune.planning import ledger
from kdtune.planning.ledger import FIRST_REPEAT, Arm, ConfigState, Ledger, Phase, Rung, phase_of
from kdtune.statistics.selection import adjusted_means, is_behind, leading_counts, rungs
from kdtune.storage.records import Round, read_lines, read_study

if TYPE_CHECKING:
    from kdtune.planning.proposals import ConfigSampler

# Warm start: the best configurations of another study, to be suggested first.


def best_of_other(study: Study) -> list[BaseRun]:
    """Return the configurations of `study.warm_start` that lie in this study's space, best first.

    Only hyperparameters that this study searches are taken over. Scores are not: they may belong to
    other images or another student.

    Raises:
        InputError: If the folder holds no study.
    """
    if study.warm_start is None:
        return []
    folder = Path(study.warm_start).expanduser()
    other = read_study(folder)
    past = Ledger(other)
    for line in read_lines(folder, other)[0]:
        past.add_record(line)
    baseline, runs = study.task.baseline.items(), []
    for state in ranked(past):
        config = state.run.task.resolved(state.run.config)
        taken: dict[str, Any] = {n: v for n in study.searched if (v := config.get(n)) is not None}
        names = [name for name in taken if (name, taken[name]) not in baseline]
        if all(covers(study.values(name), (taken[name],)) for name in names):
            runs.append(study.base_run.sample(repeat=0, **taken))
    return runs


def ranked(of: Ledger) -> list[ConfigState]:
    """Return all configurations that have a score, the best first.

    Racing gives configurations different numbers of repeats. The repeats that all of them share are
    often the first one alone, and by that one the winner of a race may come last. Therefore the
    order is, first, by how far a configuration came: finalists, confirmed ones, active ones, those
    that racing has eliminated; second, by the mean over its own repeats of the search with the
    repeats' effects removed (`adjusted_means`). Where every configuration has every repeat, these
    are the plain means.
    """
    phases = list(FIRST_REPEAT)
    students = ledger.active_configs(of).values()
    active = {state.row for arms in students for arm in arms for state in arm}
    final = {state.row for pair in ledger.finalists(of) for state in pair.states}
    # rounded, so that equal accuracies keep the order in which they were suggested
    means = np.round(adjusted_means(of.table), 12)

    def key(state: ConfigState) -> tuple[int, bool, float]:
        # the recipe's default runs final repeats, whether it is good or not
        deciding = (r for r in state.scores if phase_of(r) != "final" or state.row in final)
        last_phase = phases.index(phase_of(max(deciding)))
        return -last_phase, state.row not in active, -float(means[state.row])

    rows = np.flatnonzero(leading_counts(of.table) > 0)
    return sorted((of.by_row[row] for row in rows), key=key)


# Order of runs as a function of the records, so that a resumed study decides the same.
#
# A `Plan` takes the lines of the records in the order written, whether they are being written or
# are read again after a crash, and keeps no other state. Decisions that depend on scores are made
# by the pure functions of `statistics.selection`.


MAX_FINAL_REPEATS = 1000
"""Final repeats of a round with --repeats auto, if its budget allows more."""


class Plan:
    """The order of a study's runs.

    Args:
        study: the study.
        lines: its records so far, in the order written.
        concurrency: number of runs at a time; only the order of the runs depends on it, and what
            fits into the study's hours. There the largest number of the records counts if it is
            larger.
    """

    def __init__(self, study: Study, lines: Iterable[Mapping[str, Any]] = (), concurrency: int = 1):
        self.study, self.concurrency = study, concurrency
        self.ledger = Ledger(study)
        self.pruned: set[str] = set()
        """Ids of the trials that `should_prune` has stopped; their records end as pruned."""
        self._requeued: dict[str, BaseRun] = {}
        self._queue: list[tuple[int, bool, int, int, str]] = []
        self._promotions: deque[BaseRun] | None = None
        self._sampler: ConfigSampler | None = None
        if study.search != "grid":
            from kdtune.planning import proposals  # imports Optuna, which takes long

            self._sampler = proposals.ConfigSampler(study, best_of_other(study))
        self._exhausted = False
        for run in study.runs():
            self._enqueue(self.ledger.add_config(run))
        for line in lines:
            self.add_record(line)
        self.requeue_running()
        self._requeued |= self.ledger.retryable
        if study.rerun_dropped:
            self._requeued |= {trial: d.run for trial, d in self.ledger.dropped.items()}

    def add_record(self, line: Mapping[str, Any]) -> None:
        """Update the plan with one line of the records."""
        before = len(self.ledger.configs)
        self.ledger.add_record(line)
        if len(self.ledger.configs) > before:
            self._enqueue(self.ledger.configs[line["config_id"]])
        if line["kind"] == "start":
            self._requeued.pop(line["trial_id"], None)
        elif line["kind"] == "end" and line["config_id"] in self.ledger.configs:
            self._promotions = None
            self._follow_up(self.ledger.configs[line["config_id"]], line["repeat"])

    def requeue_running(self) -> None:
        """Put all runs in flight first in the queue, because Ray has stopped."""
        self._requeued |= self.ledger.running
        self.ledger.running = {}

    def requeue(self, run: BaseRun) -> None:
        """Put a run first in the queue that was in flight and was lost without an end."""
        self.ledger.running.pop(run.trial_id, None)
        self._requeued[run.trial_id] = run

    def next_run(self) -> BaseRun | None:
        """Return the next run and mark it as in flight.

        Returns:
            The run, or None: wait for the runs in flight, or, if there are none, the study is done.
        """
        run = self._choose()
        if run is not None:
            self.ledger.start_run(run)
            self._requeued.pop(run.trial_id, None)
            if self._promotions and self._promotions[0].trial_id == run.trial_id:
                self._promotions.popleft()
        return run

    def round_begun_by(self, run: BaseRun) -> Round | None:
        """Return the round of final repeats that a run begins, to be recorded before its start.

        None for all runs but the first of a round: its record is passed to `add_record`, too.
        """
        round_ = ledger.current_round(self.ledger) if phase_of(run.repeat) == "final" else None
        if round_ is None or round_ is self.ledger.round or run.repeat < round_.first_repeat:
            return None
        return round_

    @property
    def is_done(self) -> bool:
        """Return True if no run is in flight or left."""
        return not self.ledger.running and self._choose() is None

    @property
    def runs_left(self) -> int | None:
        """Number of runs to do; None where it depends on their scores."""
        if self.study.policy == "race" or self.study.stop_early or self.study.until_decided:
            return None
        count = len(self.ledger.configs)
        if self._sampler is not None and not self._exhausted:
            count = max(count, self.study.samples)
        states = self.ledger.configs.values()
        # an earlier call with the policy "race" may have run repeats of later phases, too
        ended = sum(
            status != "running" and phase_of(repeat) == "search"
            for state in states
            for repeat, status in state.status.items()
        )
        dropped = len(self.ledger.dropped) if self.study.rerun_dropped else 0
        return count * self.study.repeats - ended + len(self.ledger.retryable) + dropped

    @property
    def epochs_left(self) -> float | None:
        """Epochs of the runs to do and in flight; None where these or their epochs are not known.

        Configurations that are not suggested yet count as those that are.
        """
        planned = [state.run.planned_epochs for state in self.ledger.by_row]
        lengths = [epochs for epochs in planned if epochs is not None]
        if self.runs_left is None or not lengths or len(lengths) < len(planned):
            return None
        done = sum(self.ledger.epochs.get(trial, 0) for trial in self.ledger.running)
        return self.runs_left * float(np.mean(lengths)) - done

    @property
    def expected_seconds(self) -> float | None:
        """Time of the runs to do by `Ledger.expected`; None where they or their times are unknown.

        It grows with the ratio of what the epochs so far took to what was expected of them, both
        with one more run that took what was expected, since the first epochs take the longest.
        """
        expected, runs = self.ledger.expected, [state.run for state in self.ledger.by_row]
        left, cost, streamed = self.epochs_left, self.ledger.cost, self.ledger.streamed.values()
        if left is None or not runs or any(run.group not in expected for run in runs):
            return None
        lengths = [run.planned_epochs or 1 for run in runs]
        training = np.average([expected[run.group].training for run in runs], weights=lengths)
        stream = max(expected[run.group].stream for run in runs)
        one_run = (training + stream) * max(lengths)
        once = max(expected[run.group].once for run in runs)
        once_so_far, once_left = (once, 0.0) if cost.epochs else (0.0, once)
        so_far = training * cost.epochs + stream * sum(streamed) + once_so_far
        ratio = (cost.seconds + one_run) / (so_far + one_run)
        # the runs of a repeat share its stream
        streams = max(0, self.study.repeats * max(lengths) - sum(streamed))
        together = (training * left + stream * streams) / self.concurrency
        return float(ratio * (together + once_left))

    def _enqueue(self, state: ConfigState) -> None:
        """Put the runs of a new configuration into the queue."""
        if self._sampler is not None:
            self._sampler.add(state.run)
        first_only = self.study.policy == "race" or self.study.stop_early
        self._push(state, range(1 if first_only else self.study.repeats))

    def _push(self, state: ConfigState, repeats: Iterable[int]) -> None:
        """Put runs into the queue: in blocks of repeats that can run together, by configuration.

        So an unfinished study has the same repeats of every configuration, and trials at the same
        time build different streams. Of a sampler that learns the runs of a configuration come
        together, since the next suggestion depends on their mean.
        """
        for repeat in repeats:
            # with a limit of time whole repeats come one after another
            together = self.concurrency if self.study.hours is None else 1
            block = 0 if self.study.learns else repeat // together
            # where the time may end in the first repeat, nothing can be said without a baseline
            is_late = self.study.hours is not None and not state.arm.is_baseline
            item = (block, is_late, state.row, repeat, state.run.config_id)
            heapq.heappush(self._queue, item)

    def _follow_up(self, state: ConfigState, repeat: int) -> None:
        """Enqueue further repeats after the end of a run; report its result to the sampler."""
        completed_first = repeat == 0 and not state.excluded
        if completed_first and self.study.policy == "all" and self.study.stop_early:
            self._push(state, range(1, self.study.repeats))
        if self._sampler is None or state.reported_to_sampler:
            return
        common = range(1 if self.study.policy == "race" else self.study.repeats)
        if state.excluded:
            self._sampler.report(state.run, None, pruned="pruned" in state.status.values())
        elif all(repeat in state.scores for repeat in common):
            self._sampler.report(state.run, float(np.mean([state.scores[r] for r in common])))
        else:
            return
        state.reported_to_sampler = True

    def _choose(self) -> BaseRun | None:
        """Return the next run without starting it; suggest configurations if needed."""
        if self._requeued:
            first = next(iter(self._requeued.values()))
            return first if self._fits(first) else None
        if self.study.until_decided and self.ledger.cost.reaches(self.study.budget):
            return None
        in_flight = {phase_of(run.repeat) for run in self.ledger.running.values()}
        phases = {"search": self._next_of_search, "confirm": self._next_to_confirm}
        for phase, next_of_phase in phases.items():
            run = next_of_phase()
            if run is not None and self._fits(run):
                return run
            if phase in in_flight:  # a phase ends before the next one begins
                return None
        run = self._next_of_finals()
        return run if run is not None and self._fits(run) else None

    def _fits(self, first: BaseRun) -> bool:
        """Return True if a run is expected to end in the hours, with those that begin with it."""
        if self.study.hours is None:
            return True
        slots = max(self.concurrency, self.ledger.most_running)
        ends = [self.ledger.seconds_left(run) for run in self.ledger.running.values()]
        ends += [0.0] * (slots - len(ends))
        heapq.heapify(ends)
        for run in self._unit(first):  # each begins where the first one ends
            heapq.heapreplace(ends, ends[0] + self.ledger.seconds_left(run))
        limit = 3600 * self.study.hours - self._seconds_of_later(phase_of(first.repeat), slots)
        return self.ledger.elapsed + max(ends) <= limit

    def _seconds_of_later(self, phase: Phase, slots: int) -> float:
        """Return the time for the phases after this one: what they are expected to take.

        It is at most half of the study's hours after the search, and a quarter after confirmation.
        """
        study, states = self.study, self.ledger.by_row
        if study.hours is None or phase == "final":
            return 0.0
        runs = 3 * study.repeats * (study.policy == "race" or study.until_decided)
        if phase == "search" and study.policy == "race":
            runs += 2 * study.confirm * -(-study.repeats // 2)
        students = len({state.arm.group for state in states})
        seconds = float(np.mean([self.ledger.seconds(state.run) for state in states]))
        most = 3600 * study.hours / (2 if phase == "search" else 4)
        return min(most, runs * students * seconds / slots)

    def _unit(self, run: BaseRun) -> list[BaseRun]:
        """Return the runs that begin all or none, so that comparisons are not biased.

        These are the repeat of all configurations that run it, or, of a sampler that learns, the
        repeats of the configuration. The first repeat and what has begun go on run by run. So does
        the search of a race, which compares configurations with different numbers of repeats.
        """
        phase, status = phase_of(run.repeat), self.ledger.configs[run.config_id].status
        if phase == "search" and self.study.learns and self.study.policy == "all":
            has_begun = status or not self.ledger.cost.epochs
            return [run] if has_begun else [run.at(r) for r in range(self.study.repeats)]
        if phase == "search":
            states = self.ledger.by_row if self.study.policy == "all" and run.repeat > 0 else []
        elif phase == "confirm":
            states = ledger.configs_to_confirm(self.ledger)
        else:
            pairs, default = ledger.finalists(self.ledger), ledger.default_of_round(self.ledger)
            states = [*(s for pair in pairs for s in pair.states), *default]
        if not states or any(run.repeat in state.status for state in states):
            return [run]
        return [state.run.at(run.repeat) for state in states if not state.excluded]

    def _next_of_search(self) -> BaseRun | None:
        if self.study.search == "random":
            self._suggest()  # all at once, to queue them in blocks as those of a grid
        while True:
            while self._queue:
                *_, repeat, config_id = self._queue[0]
                state = self.ledger.configs[config_id]
                dropped = state.excluded and self.study.stop_early
                if repeat not in state.status and not dropped:
                    return state.run.at(repeat)
                heapq.heappop(self._queue)
            if not self._suggest():
                break
        if self.study.policy == "race":
            if self._promotions is None:
                self._promotions = self._promote()
            if self._promotions:
                return self._promotions[0]
        return None

    def _suggest(self) -> bool:
        """Suggest one more configuration, under "random" all; False if none is left to suggest."""
        has_all = self._exhausted or len(self.ledger.configs) >= self.study.samples
        if self._sampler is None or has_all:
            return False
        while len(self.ledger.configs) < self.study.samples:
            run = self._sampler.suggest(len(self.ledger.configs))
            if run is None:
                self._exhausted = True
                break
            self._enqueue(self.ledger.add_config(run))
            if self.study.learns:
                break
        return True

    def _promote(self) -> deque[BaseRun]:
        """Return the next repeats of active configurations that have no run in flight.

        Those with the fewest repeats come first, of these the best. A student's best baseline gets
        as many repeats as its best distilled configuration. Each configuration gets one
        repeat, or as many as it takes to fill the machine: a round of a race cannot be shorter than
        a run.
        """
        chosen: list[ConfigState] = []
        for arms in ledger.active_configs(self.ledger).values():
            for arm in arms:
                if len(arm) > max(1, self.study.confirm):
                    chosen += arm
            if arms.baseline and arms.distilled:
                best, baseline = arms.distilled[0], arms.baseline[0]
                if len(baseline.scores) < len(best.scores) and baseline not in chosen:
                    chosen.append(baseline)
        left = [
            (state, [repeat for repeat in range(self.study.repeats) if repeat not in state.status])
            for state in chosen
            if "running" not in state.status.values()
        ]
        step = max(1, self.concurrency // max(1, len(left)))
        runs = [(r, -state.scores[0], state) for state, repeats in left for r in repeats[:step]]
        runs.sort(key=lambda item: item[:2])
        return deque(state.run.at(repeat) for repeat, _, state in runs)

    def _next_to_confirm(self) -> BaseRun | None:
        chosen, count = ledger.configs_to_confirm(self.ledger), -(-self.study.repeats // 2)
        return self._first_missing(chosen, FIRST_REPEAT["confirm"], count)

    def _next_of_finals(self) -> BaseRun | None:
        if self.study.policy != "race" and not self.study.until_decided:
            return None
        count, first = self.study.repeats, self.ledger.first_final_repeat
        pairs, default = ledger.finalists(self.ledger), ledger.default_of_round(self.ledger)
        if not self.study.until_decided:
            chosen = [*(s for pair in pairs for s in pair.states), *default]
            return self._first_missing(chosen, first, count)
        undecided = [d.pair for d in ledger.decisions(self.ledger) if d.state == "not decided"]
        open_pairs = [s for pair in undecided for s in pair.states]
        single = [s for pair in pairs if len(pair.states) < 2 for s in pair.states]
        begun = max((max(s.status) for pair in pairs for s in pair.states), default=first - 1)
        return (
            self._first_missing(open_pairs and [*open_pairs, *default], first, MAX_FINAL_REPEATS)
            or self._first_missing(single, first, count)
            or self._first_missing(default, first, begun + 1 - first)
        )

    @staticmethod
    def _first_missing(chosen: list[ConfigState], first: int, count: int) -> BaseRun | None:
        """Return the first run not started of the configurations in `count` repeats."""
        pairs = ((s, r) for r in range(first, first + count) for s in chosen if r not in s.status)
        return next((state.run.at(repeat) for state, repeat in pairs), None)

    def should_prune(self, run: BaseRun, epochs: Iterable[Mapping[str, Any]]) -> bool:
        """Return True if a run that now reports these epochs is predicted not to become the best.

        The run is compared with the others of its arm at the same epoch of the first repeat, the
        only one that every configuration runs. The best of an arm is never pruned: it has ended.

        Args:
            run: the run.
            epochs: its new epochs, each with `number` and `splits`.
        """
        if not self.study.stop_early or run.repeat != 0:
            return False
        configs, planned = self.ledger.configs, run.planned_epochs
        assert planned is not None  # noqa: S101 - Study has checked it
        for epoch in epochs:
            done = epoch["number"] + 1
            here = self.ledger.rungs.get(Rung(Arm.of(run), planned, done), {})
            if done not in rungs(planned) or run.config_id in here:
                continue  # no rung, or one that it passed before it was interrupted
            completed = [
                (score, configs[c].scores[0]) for c, score in here.items() if 0 in configs[c].scores
            ]
            if is_behind(self.ledger.score(epoch["splits"]["val"]), completed):
                self.pruned.add(run.trial_id)
                return True
        return False

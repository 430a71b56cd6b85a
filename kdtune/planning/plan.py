"""Which run next: a function of what the records say, so that a resumed search decides the same.

A `Plan` takes the records' lines in the order written, whether they are being written or are read
again after a crash, and keeps nothing else. What is decided from scores is decided by the pure
functions of `race` and `stopping`.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import FIRST, SCORE, ConfigState, Ledger, Phase, phase_of
from kdtune.planning.proposals import ConfigSampler
from kdtune.planning.standing import finalists, in_question, is_decided, to_confirm
from kdtune.planning.warm_start import best_of_other
from kdtune.statistics.early_stopping import behind, rungs

MOST = 1000
"""Repeats of a phase at most."""


class Plan:
    """What to run next.

    Args:
        study: the study.
        lines: its records so far, in the order written.
        width: trials at a time; only the order of runs depends on it.
    """

    def __init__(self, study: Study, lines: Iterable[Mapping[str, Any]] = (), width: int = 1):
        self.study, self.width = study, width
        self.ledger = Ledger(study)
        self.stopped: set[str] = set()
        """Trials in flight that were told to stop; their ends are written as pruned."""
        self._again: dict[str, Run] = {}
        self._heap: list[tuple[int, int, int, str]] = []
        self._promoted: deque[tuple[int, float, ConfigState]] | None = None
        self._proposer = (
            ConfigSampler(study, best_of_other(study)) if study.search != "grid" else None
        )
        self._exhausted = False
        for run in study.runs():
            self._add(run)
        for line in lines:
            self.take(line)
        self.restart()
        self._again |= self.ledger.failed

    def take(self, line: Mapping[str, Any]) -> None:
        """Learn from a line of the records."""
        before = len(self.ledger.tried)
        self.ledger.take(line)
        if len(self.ledger.tried) > before:
            self._line_up(self.ledger.tried[line["config_id"]])
        if line["kind"] == "start":
            self._again.pop(line["trial_id"], None)
        elif line["kind"] == "end" and line["config_id"] in self.ledger.tried:
            self._promoted = None
            self._after(self.ledger.tried[line["config_id"]], line["repeat"])

    def restart(self) -> None:
        """No run is in flight any more; those that were go first."""
        self._again |= self.ledger.running
        self.ledger.running = {}

    def give_back(self, run: Run) -> None:
        """A run that was in flight is not, and has not ended: it goes next."""
        self.ledger.running.pop(run.trial_id, None)
        self._again[run.trial_id] = run

    def next(self) -> Run | None:
        """The next run. None: wait for those in flight, or, where there are none, the end."""
        run = self._choose()
        if run is not None:
            self.ledger.start(run)
            self._again.pop(run.trial_id, None)
            if self._promoted and self._promoted[0][2].run.config_id == run.config_id:
                self._promoted.popleft()
        return run

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return not self.ledger.running and self._choose() is None

    @property
    def runs_left(self) -> int | None:
        """Runs still to do; None where that depends on what comes of them."""
        if self.study.policy == "race" or self.study.stop_early or self.study.until_decided:
            return None
        count = len(self.ledger.tried)
        if self._proposer is not None and not self._exhausted:
            count = max(count, self.study.samples)
        tried = self.ledger.tried.values()
        ended = sum(s != "running" for t in tried for s in t.status.values())
        return count * self.study.repeats - ended + len(self.ledger.failed)

    def _add(self, run: Run) -> None:
        """A configuration joins the study."""
        self._line_up(self.ledger.add(run))

    def _line_up(self, tried: ConfigState) -> None:
        if self._proposer is not None:
            self._proposer.add(tried.run)
        first_only = self.study.policy == "race" or self.study.stop_early
        self._push(tried, range(1 if first_only else self.study.repeats))

    def _push(self, tried: ConfigState, repeats: Iterable[int]) -> None:
        """Put runs in line: blocks of repeats that can run at once, configurations inside.

        So a half-done study has the same repeats of every configuration, and trials at the same
        time build different streams. Under "tpe" a configuration's runs come together, since the
        next proposal learns from their mean.
        """
        for repeat in repeats:
            block = 0 if self.study.search == "tpe" else repeat // self.width
            item = (block, tried.number, repeat, tried.run.config_id)
            heapq.heappush(self._heap, item)

    def _after(self, tried: ConfigState, repeat: int) -> None:
        """A run has ended: more of its configuration may follow, and the proposer learns."""
        if repeat == 0 and self.study.policy == "all" and self.study.stop_early and not tried.out:
            self._push(tried, range(1, self.study.repeats))
        if self._proposer is None or tried.told:
            return
        common = range(1 if self.study.policy == "race" else self.study.repeats)
        if tried.out:
            self._proposer.tell(tried.run, None, "pruned" in tried.status.values())
        elif all(repeat in tried.scores for repeat in common):
            self._proposer.tell(tried.run, float(np.mean([tried.scores[r] for r in common])))
        else:
            return
        tried.told = True

    # -- what follows ------------------------------------------------------------------------------

    def _choose(self) -> Run | None:
        """The next run, as a function of what is known."""
        if self._again:
            return next(iter(self._again.values()))
        if self.study.until_decided and self.ledger.spent.reaches(self.study.budget):
            return None
        in_flight = {phase_of(run.repeat) for run in self.ledger.running.values()}
        stages = {"search": self._of_search, "confirm": self._of_confirmation}
        for phase, of_phase in stages.items():
            run = of_phase()
            if run is not None or phase in in_flight:  # a phase begins when the one before is over
                return run
        return self._of_final()

    def _of_search(self) -> Run | None:
        if self.study.search == "random":
            self._propose()  # all at once: they are in line by blocks, as a grid's
        while True:
            while self._heap:
                *_, repeat, config_id = self._heap[0]
                tried = self.ledger.tried[config_id]
                stopped = tried.out and self.study.stop_early
                if repeat not in tried.status and not stopped:
                    return replace(tried.run, repeat=repeat)
                heapq.heappop(self._heap)
            if not self._propose():
                break
        if self.study.policy == "race":
            if self._promoted is None:
                self._promoted = self._promotions()
            if self._promoted:
                repeat, _, tried = self._promoted[0]
                return replace(tried.run, repeat=repeat)
        return None

    def _propose(self) -> bool:
        """Propose one more configuration, of "random" all, unless there are enough."""
        if (
            self._proposer is None
            or self._exhausted
            or len(self.ledger.tried) >= self.study.samples
        ):
            return False
        while len(self.ledger.tried) < self.study.samples:
            run = self._proposer.propose(len(self.ledger.tried))
            if run is None:
                self._exhausted = True
                break
            self._add(run)
            if self.study.search == "tpe":
                break
        return True

    def _promotions(self) -> deque[tuple[int, float, ConfigState]]:
        """The next repeats of configurations in question that have no run in flight.

        Those with the fewest repeats first, of these the best; the best of plain training keeps up
        with the best that is distilled. One repeat each, or as many as it takes to fill the
        machine: a round of a race cannot be shorter than a run.
        """
        chosen: list[ConfigState] = []
        sides = in_question(self.ledger)
        for tried in sides.values():
            if len(tried) > max(1, self.study.confirm):
                chosen += tried
        if sides[True] and sides[False]:
            best, plain = sides[False][0], sides[True][0]
            if len(plain.scores) < len(best.scores) and plain not in chosen:
                chosen.append(plain)
        left = [
            (t, [repeat for repeat in range(self.study.repeats) if repeat not in t.status])
            for t in chosen
            if "running" not in t.status.values()
        ]
        step = max(1, self.width // max(1, len(left)))
        runs = [(r, -t.scores[0], t) for t, repeats in left for r in repeats[:step]]
        return deque(sorted(runs, key=lambda item: item[:2]))

    def _of_confirmation(self) -> Run | None:
        return self._missing(to_confirm(self.ledger), "confirm", -(-self.study.repeats // 2))

    def _of_final(self) -> Run | None:
        if self.study.policy != "race" and not self.study.until_decided:
            return None
        both = finalists(self.ledger)
        if self.study.until_decided and len(both) == 2:
            return None if is_decided(self.ledger) else self._missing(both, "final", MOST)
        return self._missing(both, "final", self.study.repeats)

    @staticmethod
    def _missing(chosen: list[ConfigState], phase: Phase, count: int) -> Run | None:
        repeats = range(FIRST[phase], FIRST[phase] + count)
        pairs = ((t, r) for r in repeats for t in chosen if r not in t.status)
        return next((replace(t.run, repeat=r) for t, r in pairs), None)

    # -- stopping early ----------------------------------------------------------------------------

    def should_stop(self, run: Run, epochs: Iterable[Mapping[str, Any]]) -> bool:
        """Whether a run that now reports these epochs has fallen behind.

        Compared with the others of its side at the same epoch of the same repeat, the first, which
        is the only one that every configuration runs. The best of a side is never stopped: it has
        ended.
        """
        if not self.study.stop_early or run.repeat != 0:
            return False
        tried = self.ledger.tried
        for epoch in epochs:
            count = epoch["number"] + 1
            here = self.ledger.rungs.get((run.alpha == 1, run.epochs, count), {})
            if count not in rungs(run.epochs) or run.config_id in here:
                continue  # no rung, or one that it passed before it was cut off
            ended = [
                (score, tried[c].scores[0]) for c, score in here.items() if 0 in tried[c].scores
            ]
            if behind(epoch["splits"]["val"][SCORE], ended):
                self.stopped.add(run.trial_id)
                return True
        return False

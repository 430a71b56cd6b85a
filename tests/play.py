"""Simulation of a study without training: runs from the plan, scores from a function."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import Arm, phase_of
from kdtune.planning.plan import Plan
from kdtune.storage.records import pack_correct

Curve = Callable[[Run], list[float] | None]
"""Validation accuracies of a run by epoch; None: the run fails; NaN: it diverges there."""
Correct = Callable[[Run], Sequence[bool]]
"""Whether each prediction of a run on val is right; the accuracy of its last epoch."""
Line = dict[str, Any]


def start_of(run: Any) -> Line:
    return _line("start", run, config=run.config, epochs=run.epochs, phase=phase_of(run.repeat))


def round_before(run: Any, plan: Plan) -> list[Line]:
    """Return the record of the round of final repeats that a run begins, as the recorder does."""
    round_ = plan.round_begun_by(run)
    return [] if round_ is None else [round_.to_line()]


def rest_of(run: Any, plan: Plan, curve: Curve) -> Iterator[Line]:
    """Yield the records of a run after its start; the run ends where the plan prunes it."""
    scores, end = curve(run), {"status": "completed", "error": None}
    if scores is None:
        end = {"status": "failed", "error": "RuntimeError: out of memory"}
    for number, acc in enumerate(scores or ()):
        if acc != acc:
            end = {"status": "failed", "error": "Diverged: acc became nan"}
            break
        report = {"number": number, "seconds": 1.0, "splits": {"val": {"acc": acc}}}
        if plan.should_prune(run, [report]):
            end = {"status": "pruned", "error": None}
        yield _line("epoch", run, epoch=number, split="val", acc=acc, seconds=1.0)
        if end["status"] == "pruned":
            break
    yield _line("end", run, **end, node=None)


def with_correct(lines: Iterable[Line], correct: Sequence[bool], epochs: int) -> Iterator[Line]:
    """Yield the lines of a run; the last epoch's has the correctness of its predictions."""
    for line in lines:
        if line["kind"] == "epoch" and line["epoch"] == epochs - 1:
            line |= {"n_examples": len(correct), "correct": pack_correct(correct)}
        yield line


def play(
    study: Study,
    curve: Curve,
    width: int = 1,
    seed: int | None = 0,
    lines: list[Line] | None = None,
    correct: Correct | None = None,
) -> list[Line]:
    """Play the study to its end and return its records in the order written.

    An epoch takes a second, without distillation half a second.

    Args:
        study: the study.
        curve: scores of a run.
        width: number of runs in flight; which of them ends next is random, see `seed`.
        seed: of the order in which runs end; None: each ends when its epochs have taken their time.
        lines: records to resume from.
        correct: predictions of a run, for the records of its last epoch; None: not recorded.
    """
    lines = list(lines or ())
    plan, rng = Plan(study, lines, width), random.Random(seed)
    in_flight: list[Any] = []
    now, ends = max((line.get("elapsed", 0.0) for line in lines), default=0.0), dict[Any, float]()
    while True:
        while len(in_flight) < width and (run := plan.next_run()) is not None:
            in_flight.append(run)
            for line in round_before(run, plan):
                _write(plan, lines, line)
            _write(plan, lines, start_of(run) | {"elapsed": now})
            ends[run] = now + run.epochs * (0.5 if Arm.of(run).is_baseline else 1.0)
        if not in_flight:
            assert plan.is_done
            return lines
        run = (
            min(in_flight, key=ends.__getitem__)
            if seed is None
            else in_flight[rng.randrange(len(in_flight))]
        )
        in_flight.remove(run)
        rest, now = rest_of(run, plan, curve), max(now, ends[run])
        for line in rest if correct is None else with_correct(rest, correct(run), run.epochs):
            _write(plan, lines, line | ({"elapsed": now} if line["kind"] == "end" else {}))


def play_and_crash(study: Study, curve: Curve) -> list[Line]:
    """Play the study one run at a time, with a crash and a new plan after every start and end."""
    lines: list[Line] = []
    while (run := (plan := Plan(study, lines)).next_run()) is not None:
        if begun := round_before(run, plan):
            lines += begun
            assert Plan(study, lines).next_run() == run  # a crash before the start
        lines.append(start_of(run))
        plan = Plan(study, lines)
        assert plan.next_run().trial_id == run.trial_id  # an interrupted run goes first
        lines += rest_of(run, plan, curve)
    return lines


def scored(run: Run, score: float) -> list[Line]:
    """Return the records of a run with this accuracy in every epoch."""
    return [start_of(run), *rest_of(run, Plan(Study(run=run)), lambda _: [score] * run.epochs)]


def runs_of(lines: list[Line]) -> list[tuple[str, int]]:
    """Return (config_id, repeat) of every start, in order."""
    return [(line["config_id"], line["repeat"]) for line in lines if line["kind"] == "start"]


def _line(kind: str, run: Any, **values: Any) -> Line:
    names = {"trial_id": run.trial_id, "config_id": run.config_id, "repeat": run.repeat}
    return {"kind": kind, **names, "attempt": 0, "time": 0.0, **values}


def _write(plan: Plan, lines: list[Line], line: Line) -> None:
    lines.append(line)
    plan.add_record(line)

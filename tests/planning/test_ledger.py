"""The state of a study by hand, line by line."""

from dataclasses import replace

import numpy as np
import pytest
from play import play, rest_of, start_of
from simulated_runs import LISTS, RUN, curve, make

from kdtune.config.run import Run
from kdtune.planning.ledger import Arm, Cost, Ledger, Rung
from kdtune.planning.plan import Plan


@pytest.mark.parametrize(
    ("budget", "cost", "reached"),
    [
        (None, Cost(10**6, 10**6, 1e9), False),
        ("400runs", Cost(399, 10**6, 1e9), False),
        ("400runs", Cost(400), True),
        ("20epochs", Cost(0, 20), True),
        ("1.5h", Cost(0, 0, 5399), False),
        ("1.5h", Cost(0, 0, 5400), True),
    ],
)
def test_budgets(budget: str | None, cost: Cost, reached: bool) -> None:
    assert cost.reaches(budget) is reached


def lines_of(run: Run, scores: list[float] | None) -> list[dict]:
    plan = Plan(make("grid", LISTS, "all"))
    return [start_of(run), *rest_of(run, plan, lambda _: scores)]


def ledger_of(*lines: dict) -> Ledger:
    ledger = Ledger(make("grid", LISTS, "all"))
    for line in lines:
        ledger.add_record(line)
    return ledger


def test_a_completed_run_by_hand() -> None:
    run = replace(RUN, alpha=1.0, repeat=2)
    start, *epochs, end = lines_of(run, [0.1 * k for k in range(1, 9)])
    ledger = ledger_of(start, *epochs)
    (state,) = ledger.configs.values()
    assert state.status == {2: "running"} and list(ledger.running) == [run.trial_id]
    ledger.add_record(end)
    assert state.status == {2: "completed"} and state.scores == {2: 0.8}
    assert ledger.cost == Cost(runs=1, epochs=8, seconds=8.0) and not ledger.running
    want = [[np.nan, np.nan, 0.8, np.nan]]
    assert np.array_equal(ledger.table, want, equal_nan=True) and state.is_baseline
    assert not ledger.rungs  # pruning compares the first repeat alone


def test_repeated_epochs_of_a_resumed_run_cost_nothing() -> None:
    start, first, second, *_ = lines_of(replace(RUN, repeat=0), [0.1, 0.2, 0.3])
    ledger = ledger_of(start, first, second, start, second)
    assert ledger.cost == Cost(runs=1, epochs=2, seconds=2.0)
    (config_id,) = ledger.configs
    assert ledger.rungs == {Rung(Arm(RUN.student, False), 8, 2): {config_id: 0.2}}


def test_a_failed_run_excludes_its_configuration_and_may_be_repeated() -> None:
    good, bad = replace(RUN, repeat=0), replace(RUN, repeat=1)
    ledger = ledger_of(*lines_of(good, [0.5] * 8), *lines_of(bad, None))
    (state,) = ledger.configs.values()
    assert state.excluded and list(ledger.retryable) == [bad.trial_id]
    assert np.isnan(ledger.table).all()
    for line in lines_of(bad, [0.6] * 8):
        ledger.add_record(line)
    assert not state.excluded and not ledger.retryable
    assert ledger.table[0, :2].tolist() == [0.5, 0.6]
    diverged = ledger_of(*lines_of(bad, [float("nan")]))
    assert not diverged.retryable and next(iter(diverged.configs.values())).excluded


def test_a_run_whose_start_is_lost_is_ignored() -> None:
    _, *rest = lines_of(RUN, [0.5] * 8)
    assert not ledger_of(*rest).configs


def mark_of(kind: str, run: Run) -> dict:
    names = {"trial_id": run.trial_id, "config_id": run.config_id, "repeat": run.repeat}
    return {"kind": kind, **names, "time": 0.0, "reason": None}


def test_a_dropped_run_is_as_if_it_had_failed_and_restoring_undoes_it() -> None:
    run, second = (replace(RUN, alpha=1.0, repeat=r) for r in (0, 1))
    lines = [*lines_of(run, [0.8] * 8), *lines_of(second, [0.6] * 8)]
    before, ledger = ledger_of(*lines), ledger_of(*lines, mark_of("drop", second))
    (state,) = ledger.configs.values()
    assert state.status == {0: "completed", 1: "dropped"} and state.scores == {0: 0.8}
    assert state.excluded and np.isnan(ledger.table).all()
    ledger.add_record(mark_of("restore", second))
    assert not ledger.dropped
    assert ledger.configs == before.configs
    assert np.array_equal(ledger.table, before.table, equal_nan=True)

    failed = [*lines_of(run, None), mark_of("drop", run)]
    assert not ledger_of(*failed).retryable
    assert list(ledger_of(*failed, mark_of("restore", run)).retryable) == [run.trial_id]
    unfinished = [lines[0], mark_of("drop", run)]
    assert not ledger_of(*unfinished).running
    assert list(ledger_of(*unfinished, mark_of("restore", run)).running) == [run.trial_id]


def test_a_dropped_run_is_run_again_only_when_asked() -> None:
    study = make("grid", LISTS, "all")
    lines = play(study, curve)
    run = replace(study.runs()[0], repeat=2)
    assert Plan(study, lines).is_done
    marked = [*lines, mark_of("drop", run)]
    plan = Plan(study, marked)
    assert plan.is_done and plan.runs_left == 0
    again = replace(study, rerun_dropped=True)
    plan = Plan(again, marked)
    assert plan.runs_left == 1 and plan.next_run() == run
    new = play(again, curve, lines=marked)[len(marked) :]
    assert [line["trial_id"] for line in new if line["kind"] == "start"] == [run.trial_id]
    ended = Plan(again, [*marked, *new])
    assert ended.is_done and ended.ledger.configs == Plan(study, lines).ledger.configs

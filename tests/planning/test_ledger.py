"""The state of a study by hand, line by line."""

from dataclasses import replace

import numpy as np
import pytest
from play import rest_of, start_of
from simulated_runs import LISTS, RUN, make

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

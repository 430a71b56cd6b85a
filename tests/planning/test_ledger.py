"""The state of a study by hand, its finalists and decisions, and rounds of final repeats."""

import random
from dataclasses import replace

import numpy as np
import pytest
from play import Line, play, rest_of, runs_of, scored, start_of
from simulated_runs import LISTS, RANGES, RUN, curve, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.planning.ledger import (
    Arm,
    Ledger,
    RunCost,
    Rung,
    current_round,
    decisions,
    final_test,
    finalists,
    is_decided,
    phase_of,
)
from kdtune.planning.plan import Plan
from kdtune.raytune.progress import deciding_criterion, describe_end, describe_state
from kdtune.statistics.tests import anytime_p
from kdtune.storage.records import Round

RACE = make("grid", LISTS, "race")
AUTO = Study(run=RUN, space={"alpha": (0.1, 1.0)}, repeats=2, until_decided=True, budget="120runs")


@pytest.fixture(scope="module")
def raced() -> list[Line]:
    """The records of the race, which no test changes."""
    return play(RACE, curve)


def test_budgets() -> None:
    for budget, cost, reached in (
        (None, RunCost(10**6, 10**6, 1e9), False),
        ("400runs", RunCost(399, 10**6, 1e9), False),
        ("400runs", RunCost(400), True),
        ("20epochs", RunCost(0, 20), True),
        ("1.5h", RunCost(0, 0, 5399), False),
        ("1.5h", RunCost(0, 0, 5400), True),
    ):
        assert cost.reaches(budget) is reached


def test_configurations_of_one_id_are_refused_or_never_suggested() -> None:
    """An id has 32 bits of a hash: these two share theirs."""
    study = Study(space={"lr": (0.04539525, 0.0467785)}, plain_share=0)
    first, second = study.runs()
    assert first.config_id == second.config_id and first.identity != second.identity
    words = r"with lr = 0.04539525 and with lr = 0.0467785 have the same id"
    with pytest.raises(InputError, match=words):
        Plan(study)
    one, other = (Study(run=Run(lr=run.lr), plain_share=0) for run in (first, second))
    assert one.covers(one) and not one.covers(other)
    plan = Plan(replace(study, search="random", samples=9))
    assert [plan.next_run() is None for _ in range(9)] == [False] * 8 + [True]


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
    assert ledger.cost == RunCost(runs=1, epochs=8, seconds=8.0) and not ledger.running
    want = [[np.nan, np.nan, 0.8, np.nan]]
    assert np.array_equal(ledger.table, want, equal_nan=True) and state.arm.is_baseline
    assert not ledger.rungs  # pruning compares the first repeat alone


def test_repeated_epochs_of_a_resumed_run_cost_nothing() -> None:
    start, first, second, *rest = lines_of(replace(RUN, repeat=0), [0.1, 0.2, 0.3])
    assert not ledger_of(first, second, *rest).configs  # its start is lost
    ledger = ledger_of(start, first, second, start, second)
    assert ledger.cost == RunCost(runs=1, epochs=2, seconds=2.0)
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


def test_repeats_auto_end_with_a_decision_or_the_budget() -> None:
    study = replace(AUTO, budget="200runs")
    plan = Plan(study, play(study, curve))
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 60
    differences = final_test(plan.ledger, finalists(plan.ledger)[0]).differences
    assert anytime_p(differences) <= 0.05 < anytime_p(differences[:-1])

    small = replace(study, budget="10runs")
    assert Plan(small, play(small, curve)).ledger.cost.runs <= 10


@pytest.mark.parametrize("seed", range(2))
def test_runs_in_flight_at_the_decision_count_as_well(seed: int) -> None:
    """The study goes on where they undo the decision, and ends with one in any case."""
    study = replace(AUTO, budget="2000runs")
    plan = Plan(study, play(study, noisy, width=8, seed=seed))
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 2000


def noisy(run: Run) -> list[float]:
    return [0.7 + 0.01 * random.Random(run.trial_id).gauss(0.5 * (run.alpha < 1), 1)] * 8


@pytest.mark.parametrize("baseline", [True, False])
def test_a_finalist_whose_final_run_failed_stays_one(baseline: bool, raced: list[Line]) -> None:
    def failing(run: Run) -> list[float] | None:
        return None if run.repeat == 2003 and (run.alpha == 1) == baseline else curve(run)

    auto = Study(run=RUN, space={"alpha": (0.1, 1.0)}, until_decided=True, budget="200runs")
    for study, records in ((RACE, raced), (auto, play(auto, curve))):
        plan, whole = Plan(study, play(study, failing)), Plan(study, records)
        (pair,), (wanted,) = finalists(plan.ledger), finalists(whole.ledger)
        assert pair.baseline is not None and wanted.baseline is not None
        assert pair.baseline.run == wanted.baseline.run
        states = plan.ledger.configs.values()
        ran = {s.run.config_id for s in states if any(phase_of(r) == "final" for r in s.status)}
        default = study.default.config_id  # a third one beside the finalists of the race
        assert ran == {s.run.config_id for s in pair.states} | {default}
        assert len(ran) == (3 if study is RACE else 2)
        finals = [r for r in pair.baseline.status if phase_of(r) == "final"]
        assert final_test(plan.ledger, pair).n == len(finals) - 1
    assert is_decided(plan.ledger)


def test_confirmation_decides_between_the_best_of_the_search() -> None:
    """By hand: a leads the search by 1 point, b the search and the confirmation together by 2.

    Repeats 0 and 1000 give a 0.80 and 0.70, b 0.79 and 0.75; c was not confirmed.
    """
    study = Study(run=RUN, space={"lr": (0.1, 0.2, 0.3)}, plain_share=0, policy="race", repeats=1)
    a, b, c = study.runs()
    lines = []
    for run, scores in ((a, (0.80, 0.70)), (b, (0.79, 0.75)), (c, (0.78,))):
        for repeat, score in zip((0, 1000), scores, strict=False):
            lines += scored(replace(run, repeat=repeat), score)
    assert [state.run.lr for state in finalists(Plan(study, lines).ledger)[0].states] == [0.2]
    unconfirmed = [line for line in lines if line["repeat"] == 0]
    assert [state.run.lr for state in finalists(Plan(study, unconfirmed).ledger)[0].states] == [0.1]


def images_right(run: Run, gain: float, of_images: float) -> list[bool]:
    """Return predictions on 300 images; how much distilling helps differs from image to image."""
    rng = np.random.default_rng(5)
    easy, own = rng.normal(1, 1, 300), rng.normal(0, of_images, 300)
    if run.alpha < 1:
        easy = easy + own + gain
    noise = np.random.default_rng(random.Random(run.trial_id).getrandbits(32))
    return list(easy + noise.normal(0, 0.3, 300) > 0)


def played(gain: float, of_images: float, records_images: bool = True) -> Plan:
    def correct(run: Run) -> list[bool]:
        return images_right(run, gain, of_images)

    def curve(run: Run) -> list[float]:
        return [float(np.mean(correct(run)))] * run.epochs

    return Plan(AUTO, play(AUTO, curve, correct=correct if records_images else None))


def test_a_study_stops_where_its_images_cannot_decide_it() -> None:
    """Over repeats alone the same study is decided."""
    plan = played(0.7, 1.5)
    ((_, test, _),) = decisions(plan.ledger)
    assert plan.is_done and not is_decided(plan.ledger) and plan.ledger.cost.runs < 120
    assert test.images == 300 and test.p > 0.05 and test.is_undecidable(0.05)
    assert describe_end(plan).startswith("Not decided: 11 final repeats, always-valid p = 0.97. ")
    assert "More repeats cannot decide it with 300 val images: on these, a" in describe_end(plan)
    assert decisions(plan.ledger)[0].state == "undecidable with these images"
    alone = played(0.7, 1.5, records_images=False)
    (pair,) = finalists(alone.ledger)
    assert is_decided(alone.ledger) and final_test(alone.ledger, pair).images == 0


def test_a_difference_that_the_images_can_show_is_decided() -> None:
    plan = played(1.0, 0.3)
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 60
    test = final_test(plan.ledger, finalists(plan.ledger)[0])
    assert test.images == 300 and test.p <= 0.05 < anytime_p(test.differences[:2])
    state = describe_state(plan, deciding_criterion(plan))
    assert f", decided (always-valid p = {test.p:.2g})" in state


def test_records_without_correctness_are_judged_over_repeats_alone() -> None:
    """One final repeat of an older version is enough."""
    lines = play(AUTO, curve, correct=lambda run: images_right(run, 0, 1))
    final = next(line for line in lines if line.get("correct") and line["repeat"] == 2000)
    ledger = Plan(AUTO, lines).ledger
    assert final_test(ledger, finalists(ledger)[0]).images == 300
    del final["correct"]
    ledger = Plan(AUTO, lines).ledger
    test = final_test(ledger, finalists(ledger)[0])
    assert test.images == 0
    assert test.p == anytime_p(test.differences)


AUTO_16 = replace(AUTO, budget="16runs")


def rounds_of(lines: list[Line]) -> list[Round]:
    return [Round.from_line(line) for line in lines if line["kind"] == "finalists"]


def final_runs(lines: list[Line]) -> set[tuple[str, int]]:
    return {(config, r) for config, r in runs_of(lines) if phase_of(r) == "final"}


def reversed_in_finals(run: Run) -> list[float]:
    """Return accuracies of which the final ones say the contrary of all others."""
    scores = curve(run)
    return [1 - score for score in scores] if phase_of(run.repeat) == "final" else scores


@pytest.mark.parametrize("study", [RACE, AUTO_16])
def test_the_record_comes_first_and_the_finals_change_nothing(study: Study) -> None:
    lines, contrary = play(study, curve, 3), play(study, reversed_in_finals, 3)
    (round_,) = rounds_of(lines)
    assert rounds_of(contrary) == [round_]
    kinds = [line["kind"] for line in lines if line.get("phase", "final") == "final"]
    assert kinds.index("finalists") < kinds.index("start")
    entrants = round_.finalists | {study.default.config_id}
    assert {config for config, _ in final_runs(lines)} == entrants
    pair = finalists(Plan(study, contrary).ledger)[0]
    assert {state.run.config_id for state in pair.states} == round_.finalists
    distilled = pair.distilled
    assert distilled is not None and round_.ranking[0] == distilled.run.config_id


def test_a_study_that_is_extended_begins_another_round_on_other_repeats(raced: list[Line]) -> None:
    lines = raced
    more = replace(RACE, repeats=6)  # more confirmation, so the finalists may change
    extended = play(more, curve, lines=lines)
    first, second = rounds_of(extended)
    assert (first.number, first.first_repeat) == (0, 2000)
    assert (second.number, second.first_repeat) == (1, 2004)
    new = final_runs(extended) - final_runs(lines)
    assert {repeat for _, repeat in new} == set(range(2004, 2010))
    ledger = Plan(more, extended).ledger
    assert final_test(ledger, finalists(ledger)[0]).n == 6
    assert play(more, curve, lines=extended) == extended  # nothing is left


def test_more_final_repeats_alone_go_on_with_the_round() -> None:
    short = play(AUTO_16, lambda run: [0.7] * 8)  # never decided
    (round_,) = rounds_of(short)
    long = play(replace(AUTO_16, budget="30runs"), lambda run: [0.7] * 8, lines=short)
    assert rounds_of(long) == [round_] and len(final_runs(long)) == len(final_runs(short)) + 14


def test_a_dropped_run_does_not_change_the_finalists(raced: list[Line]) -> None:
    (round_,) = rounds_of(raced)
    best = {"config_id": round_.ranking[0], "repeat": 0, "trial_id": f"{round_.ranking[0]}-r00"}
    ledger = Plan(RACE, [*raced, {"kind": "drop", **best}]).ledger
    assert current_round(ledger) == round_
    assert round_.ranking[0] in {s.run.config_id for s in finalists(ledger)[0].states}


def test_finals_of_older_versions_go_on_without_a_record(raced: list[Line]) -> None:
    """Their search may have been extended between two final repeats."""
    lines = [line for line in raced if line["kind"] != "finalists"]
    default = (RACE.default.config_id, "final")
    old = [x for x in lines if (x["config_id"], phase_of(x["repeat"])) != default]
    assert Plan(RACE, old).is_done and play(RACE, curve, lines=old) == old
    assert not Plan(RACE, old[:-8]).ledger.round.is_recorded  # type: ignore[union-attr]
    (round_,) = rounds_of(play(replace(RACE, repeats=6), curve, lines=old))
    assert (round_.number, round_.first_repeat) == (1, 2004)


def test_the_default_is_the_run_where_the_space_allows_it() -> None:
    run = Run(alpha=0.5, lr=1e-3, temperature=4, loss="kl")
    space = {"alpha": (0.1, 0.9), "lr": Range(1e-2, 1.0, log=True), "loss": ("mse", "kl")}
    default = Study(run=run, space=space, search="random").default
    assert (default.alpha, default.lr, default.loss, default.temperature) == (0.1, 1e-2, "kl", 4)
    grid = Study(run=run, space={"alpha": (0.5, 1.0), "temperature": (1.0, 2.0)})
    assert grid.default.config_id in {r.config_id for r in grid.runs()}
    assert (grid.default.alpha, grid.default.temperature) == (0.5, 1.0)


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_the_default_is_the_first_of_its_arm(search: str) -> None:
    study = make(search, RANGES, "all")
    lines = play(study, curve)
    order = list(dict.fromkeys(config for config, _ in runs_of(lines)))
    assert order[1] == study.default.config_id  # the first one is a baseline
    older = [line for line in lines if line["config_id"] != order[1]]  # without it, and unfinished
    resumed = [runs_of(play(study, curve, lines=older[:60])) for _ in range(2)]
    assert resumed[0] == resumed[1] and study.default.config_id in {c for c, _ in resumed[0]}

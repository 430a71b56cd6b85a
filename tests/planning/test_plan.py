"""The contract of every sampler and policy, on simulated studies.

References: laws (the same repeats for every configuration, no run lost or done twice, the same
decisions after any crash), a known best configuration, hand-worked cases, and the records of a race
that version 0.1 of kdtune has decided.
"""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from play import Line, play, play_and_crash, rest_of, round_before, runs_of, start_of
from simulated_runs import LISTS, RANGES, RUN, curve, faulty, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import FIRST_REPEAT, finalists, phase_of
from kdtune.planning.plan import Plan

SEARCHES = [("grid", LISTS), ("random", RANGES), ("tpe", RANGES), ("tpe", LISTS)]


def statuses(lines: list[Line]) -> Counter:
    return Counter(line["status"] for line in lines if line["kind"] == "end")


def phases_overlap(lines: list[Line]) -> bool:
    """Return True if a run of one phase starts while a run of another phase is in flight."""
    in_flight: dict[str, str] = {}
    for line in lines:
        if line["kind"] == "start":
            in_flight[line["trial_id"]] = line["phase"]
        elif line["kind"] == "end":
            del in_flight[line["trial_id"]]
        if len(set(in_flight.values())) > 1:
            return True
    return False


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("policy", ["all", "race"])
@pytest.mark.parametrize(("search", "space"), SEARCHES)
class TestContract:
    """Holds for every sampler and policy."""

    def test_the_study_ends_with_every_run_done_once(
        self, search, space, policy, stop_early
    ) -> None:
        study = make(search, space, policy, stop_early)
        for width in (1, 3):
            lines = play(study, curve, width)
            runs = runs_of(lines)
            assert len(set(runs)) == len(runs) == statuses(lines).total()
            done = Plan(study, lines)
            assert len(done.ledger.configs) == (12 if search != "grid" else 15)
            baselines = [state for state in done.ledger.configs.values() if state.is_baseline]
            assert len(baselines) == 3 and finalists(done.ledger)[0].baseline in baselines
            assert all(0 in state.status for state in done.ledger.configs.values())
            assert not statuses(lines)["pruned"] or stop_early
            assert not phases_overlap(lines)

    def test_all_configurations_share_the_same_repeats(
        self, search, space, policy, stop_early
    ) -> None:
        """Each has the first repeats of the search, without a gap; the finalists the same ones."""
        study = make(search, space, policy, stop_early)
        done = Plan(study, play(study, curve))
        for state in done.ledger.configs.values():
            search_repeats = sorted(r for r in state.status if phase_of(r) == "search")
            assert search_repeats == list(range(len(search_repeats)))
            assert policy == "race" or state.excluded or len(search_repeats) == 4
        ((baseline, distilled),) = finalists(done.ledger)
        if policy == "race":
            assert baseline.status.keys() >= {r for r in distilled.status if r >= 1000}
            assert {r for r in baseline.status if r >= 2000} == {2000, 2001, 2002, 2003}
            assert len(baseline.scores) >= len(distilled.scores)

    def test_a_crash_after_every_line_changes_nothing(
        self, search, space, policy, stop_early
    ) -> None:
        study = make(search, space, policy, stop_early)
        whole, broken = play(study, curve), play_and_crash(study, curve)
        assert runs_of(whole) == runs_of(broken)
        assert finalists(Plan(study, whole).ledger) == finalists(Plan(study, broken).ledger)

    def test_failures_and_nan_do_not_stop_the_study(
        self, search, space, policy, stop_early
    ) -> None:
        study = make(search, space, policy, stop_early)
        lines = play(study, faulty, 3)
        assert statuses(lines)["failed"] and statuses(lines)["completed"]
        done = Plan(study, lines)
        assert not any(state.excluded for pair in finalists(done.ledger) for state in pair.states)
        failed = done.ledger.retryable
        if done._sampler is not None:  # no trial is left running in Optuna
            for arm in done._sampler.arms.values():
                assert all(trial.state.is_finished() for trial in arm.get_trials())
        again = play(study, faulty, 3, lines=lines)[len(lines) :]
        assert failed.keys() <= {line["trial_id"] for line in again}  # but not diverged runs
        assert {line["config_id"] for line in again} == {run.config_id for run in failed.values()}

    def test_more_repeats_and_samples_extend_the_study(
        self, search, space, policy, stop_early
    ) -> None:
        study = make(search, space, policy, stop_early)
        lines = play(study, curve)
        more = replace(study, repeats=6, samples=16)
        extended = play(more, curve, lines=lines)
        runs = runs_of(extended)
        assert len(runs) == len(set(runs)) > len(runs_of(lines))
        if search != "grid":
            most = 15 if space is LISTS else 16  # the lists hold no more
            assert len(Plan(more, extended).ledger.configs) == most


def test_the_default_grid_runs_in_blocks_of_repeats() -> None:
    """In blocks of as many repeats as run at once: the first four of all, then the next four."""
    study = Study(run=RUN, space={"alpha": (0.5, 1.0)}, repeats=8)
    ids = [run.config_id for run in study.runs()]
    want = [(c, r) for block in (range(4), range(4, 8)) for c in ids for r in block]
    assert runs_of(play(study, curve, 1)) == [(c, r) for r in range(8) for c in ids]
    plan = Plan(study, concurrency=4)
    assert [(run.config_id, run.repeat) for run in iter(plan.next_run, None)] == want


def test_a_race_finds_the_best_with_fewer_runs() -> None:
    space = {"alpha": (0.1, 0.3, 0.5, 1.0), "lr": tuple(10.0**-k for k in range(6))}
    study = Study(run=RUN, space=space, policy="race", repeats=8)
    lines = play(study, curve)
    ((baseline, distilled),) = finalists(Plan(study, lines).ledger)
    assert (baseline.run.lr, distilled.run.lr) == (0.01, 0.01)  # lr is worth 5 points a decade
    searched = [run for run in runs_of(lines) if run[1] < 1000]
    assert len(searched) < 24 * 8 / 3


def test_a_requeued_run_goes_next() -> None:
    plan = Plan(make("grid", LISTS, "all"))
    first, second = plan.next_run(), plan.next_run()
    plan.add_record(start_of(first)), plan.add_record(start_of(second))
    plan.requeue(first)
    assert list(plan.ledger.running) == [second.trial_id] and not plan.is_done
    assert plan.next_run() == first and plan.next_run() not in (first, second)


def test_a_requeued_repeat_of_a_race_leaves_the_others_in_order() -> None:
    """Several repeats of each configuration wait, since the machine has room for them."""
    study = Study(
        run=RUN, space={"alpha": (0.5, 1.0), "lr": (0.01, 0.03)}, policy="race", repeats=6
    )
    plan = Plan(replace(study, confirm=1), concurrency=16)
    for _ in range(4):
        run = plan.next_run()
        for line in (start_of(run), *rest_of(run, plan, curve)):
            plan.add_record(line)
    seconds = [plan.next_run() for _ in range(4)]
    assert [run.repeat for run in seconds] == [1] * 4
    plan.requeue(seconds[0])
    assert plan.next_run() == seconds[0]
    assert [plan.next_run() for _ in range(4)] == [replace(run, repeat=2) for run in seconds]


def test_runs_left_counts_what_is_neither_done_nor_known_to_fail_again() -> None:
    """15 configurations in 4 repeats; a failed run counts until it has been repeated."""
    study = make("grid", LISTS, "all")
    plan = Plan(study)
    assert plan.runs_left == 60
    first, second = plan.next_run(), plan.next_run()
    for line in (start_of(first), *rest_of(first, plan, curve)):
        plan.add_record(line)
    assert plan.runs_left == 59
    for line in (start_of(second), *rest_of(second, plan, lambda run: None)):
        plan.add_record(line)
    assert plan.runs_left == 59
    assert Plan(make("grid", LISTS, "race")).runs_left is None
    third = replace(first, repeat=FIRST_REPEAT["final"])  # of an earlier call, with policy "race"
    for line in (start_of(third), *rest_of(third, plan, curve)):
        plan.add_record(line)
    assert plan.runs_left == 59


# -- a race of version 0.1 -------------------------------------------------------------------------


def race_of_version_0_1() -> tuple[Study, list[tuple[Run, list[float], str]]]:
    """Return the study and its runs in order, each with its accuracies by epoch and its status.

    The default, which later versions suggest first, is what version 0.1 suggested first. It is the
    distilled finalist, so it needs no final repeats of its own.
    """
    study = make("tpe", RANGES, "race", stop_early=True)
    study = replace(study, samples=18, race_level=0.001)
    runs = []
    with (Path(__file__).parent / "tpe_race.csv").open() as file:
        for row in csv.DictReader(file):
            values: dict[str, Any] = {n: float(row[n]) for n in ("alpha", "lr")}
            if row["temperature"]:
                values["temperature"] = float(row["temperature"])
            run = replace(RUN, **values, repeat=int(row["repeat"]))
            accuracies = [int(count) / 500 for count in row["correct"].split()]
            runs.append((run, accuracies, row["status"]))
    first = next(run for run, *_ in runs if run.alpha != 1)
    return replace(study, run=replace(first, repeat=0)), runs


def test_the_plan_decides_as_version_0_1_did() -> None:
    """Each record of a race with pruning comes from the run that the plan chooses, in order."""
    study, runs = race_of_version_0_1()
    plan, lines = Plan(study), []
    for run, accuracies, status in runs:
        chosen = plan.next_run()
        assert chosen is not None and not plan.is_done
        assert (chosen.config, chosen.repeat) == (run.config, run.repeat)
        lines += (begun := round_before(chosen, plan))
        for line in begun:
            plan.add_record(line)
        # the accuracies after a pruned epoch are not in the records, so pruning must stop there
        new = [start_of(chosen), *rest_of(chosen, plan, lambda _, scores=accuracies: scores)]
        assert new[-1]["status"] == status and len(new) == len(accuracies) + 2
        for line in new:
            plan.add_record(line)
        lines += new
    assert plan.is_done and Plan(study, lines).is_done
    assert {phase_of(run.repeat) for run, *_ in runs} == {"search", "confirm", "final"}
    assert {status for *_, status in runs} == {"completed", "pruned"}

"""The contract of every sampler and policy, on simulated studies.

References: laws (the same repeats for every configuration, no run lost or done twice, the same
decisions after any crash), a known best configuration, hand-worked cases, and the records of a race
that version 0.1 of kdtune has decided. Then the state of a study by hand, its finalists and
decisions, and rounds of final repeats.
"""

import csv
import itertools
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from play import Line, play, play_and_crash, rest_of, round_before, runs_of, scored, start_of
from simulated_runs import LISTS, RANGES, RUN, curve, faulty, make

from kdtune.config.records import EpochTime
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import BaseRun, Range
from kdtune.config.text import InputError
from kdtune.planning.ledger import (
    FIRST_REPEAT,
    Arm,
    Ledger,
    RunCost,
    Rung,
    active_configs,
    current_round,
    decisions,
    final_test,
    finalists,
    is_decided,
    phase_of,
)
from kdtune.planning.plan import Plan, ranked
from kdtune.raytune.progress import deciding_criterion, describe_end, describe_state
from kdtune.statistics.tests import anytime_p
from kdtune.storage.records import Round

SEARCHES = [("grid", LISTS), ("random", RANGES), ("tpe", RANGES), ("tpe", LISTS)]


def statuses(lines: list[Line]) -> Counter:
    return Counter(line["status"] for line in lines if line["kind"] == "end")


def check_phases(lines: list[Line]) -> None:
    """Assert that no run of one phase starts while a run of another phase is in flight."""
    in_flight: dict[str, str] = {}
    for line in lines:
        if line["kind"] == "start":
            in_flight[line["trial_id"]] = line["phase"]
        elif line["kind"] == "end":
            del in_flight[line["trial_id"]]
        assert len(set(in_flight.values())) <= 1


COMBINED = [(SEARCHES[0], "race", False), (SEARCHES[1], "all", False)]
COMBINED += [(SEARCHES[2], "race", True), (SEARCHES[3], "all", True)]
"""Combinations that differ in each choice; `-m slow` plays the others, too."""
CASES = [
    case if case in COMBINED else pytest.param(case, marks=pytest.mark.slow)
    for case in itertools.product(SEARCHES, ["all", "race"], [False, True])
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def played(request: pytest.FixtureRequest) -> tuple[Study, list[Line]]:
    """Return a study of each sampler and policy, and its records from beginning to end."""
    (search, space), policy, stop_early = request.param
    study = make(search, space, policy, stop_early)
    return study, play(study, curve)


def test_the_study_ends_with_every_run_done_once(played) -> None:
    study, whole = played
    for lines in (whole, play(study, curve, 3)):
        runs = runs_of(lines)
        assert len(set(runs)) == len(runs) == statuses(lines).total()
        done = Plan(study, lines)
        assert len(done.ledger.configs) == (12 if study.search != "grid" else 15)
        baselines = [state for state in done.ledger.configs.values() if state.arm.is_baseline]
        assert len(baselines) == 3 and finalists(done.ledger)[0].baseline in baselines
        assert all(0 in state.status for state in done.ledger.configs.values())
        assert not statuses(lines)["pruned"] or study.stop_early
        check_phases(lines)


def test_all_configurations_share_the_same_repeats(played) -> None:
    """Each has the first repeats of the search, without a gap; the finalists the same ones."""
    study, lines = played
    done = Plan(study, lines)
    for state in done.ledger.configs.values():
        search_repeats = sorted(r for r in state.status if phase_of(r) == "search")
        assert search_repeats == list(range(len(search_repeats)))
        assert study.policy == "race" or state.excluded or len(search_repeats) == 4
    ((baseline, distilled),) = finalists(done.ledger)
    if study.policy == "race":
        assert baseline.status.keys() >= {r for r in distilled.status if r >= 1000}
        assert {r for r in baseline.status if r >= 2000} == {2000, 2001, 2002, 2003}
        assert len(baseline.scores) >= len(distilled.scores)


def test_a_crash_after_every_line_changes_nothing(played) -> None:
    """In a smaller study, since each plan reads all records again."""
    study = replace(played[0], repeats=2, samples=8)
    if "loss" in study.space:
        study = replace(study, space={"alpha": (0.1, 0.5, 1.0), "lr": LISTS["lr"]})
    whole, broken = play(study, curve), play_and_crash(study, curve)
    assert runs_of(whole) == runs_of(broken)
    assert finalists(Plan(study, whole).ledger) == finalists(Plan(study, broken).ledger)


def test_failures_and_nan_do_not_stop_the_study(played) -> None:
    study, _ = played
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


def test_more_repeats_and_samples_extend_the_study(played) -> None:
    study, lines = played
    more = replace(study, repeats=6, samples=16)
    extended = play(more, curve, lines=lines)
    runs = runs_of(extended)
    assert len(runs) == len(set(runs)) > len(runs_of(lines))
    if study.search != "grid":
        most = 15 if isinstance(study.values("lr"), tuple) else 16  # the lists hold no more
        assert len(Plan(more, extended).ledger.configs) == most


def test_a_race_finds_the_best_with_fewer_runs() -> None:
    space = {"alpha": (0.1, 0.3, 0.5, 1.0), "lr": tuple(10.0**-k for k in range(6))}
    study = Study(run=RUN, space=space, policy="race", repeats=8)
    lines = play(study, curve)
    ((baseline, distilled),) = finalists(Plan(study, lines).ledger)
    assert (baseline.run.lr, distilled.run.lr) == (0.01, 0.01)  # lr is worth 5 points a decade
    searched = [run for run in runs_of(lines) if run[1] < 1000]
    assert len(searched) < 24 * 8 / 3


def do(plan: Plan, run: Any, scores: Any = curve) -> None:
    """Add the records of a run to a plan."""
    for line in (start_of(run), *rest_of(run, plan, scores)):
        plan.add_record(line)


def test_a_requeued_repeat_of_a_race_leaves_the_others_in_order() -> None:
    """Several repeats of each configuration wait, since the machine has room for them."""
    space = {"alpha": (0.5, 1.0), "lr": (0.01, 0.03)}
    study = Study(run=RUN, space=space, policy="race", repeats=6, confirm=1)
    plan = Plan(study, concurrency=16)
    for _ in range(4):
        do(plan, plan.next_run())
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
    do(plan, first)
    assert plan.runs_left == 59
    do(plan, second, lambda run: None)
    assert plan.runs_left == 59
    assert Plan(make("grid", LISTS, "race")).runs_left is None
    # of an earlier call, with policy "race"
    do(plan, replace(first, repeat=FIRST_REPEAT["final"]))
    assert plan.runs_left == 59
    sampled = Plan(make("random", RANGES, "all"))
    assert sampled.runs_left == 48  # 12 samples, of which none is suggested yet
    do(sampled, sampled.next_run())
    assert sampled.runs_left == 47


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


WAVE: dict[str, Any] = {"train": "own_functions:wave", "baseline": {"alpha": 1.0}}
Played = list[tuple[tuple[object, ...], int]]


def of_distillation(run: Any) -> Any:
    """Return the distillation run of a function's run, whose scores it has."""
    values = {name: run.value(name) for name in run.task.names}
    return replace(RUN, repeat=run.repeat).sample(**values)


def score(run: Any) -> list[float]:
    return curve(run if run.task.is_distillation else of_distillation(run))


def order(lines: list[dict[str, Any]], names: list[str]) -> Played:
    starts = [line for line in lines if line["kind"] == "start"]
    return [(tuple(line["config"][n] for n in names), line["repeat"]) for line in starts]


@pytest.mark.parametrize(("policy", "stop_early"), [("all", True), ("race", False)])
def test_the_plan_is_that_of_distillation(policy: Any, stop_early: bool) -> None:
    shared = {"policy": policy, "stop_early": stop_early, "repeats": 4, "space": LISTS}
    distilling = Study(run=RUN, **shared)
    default = distilling.default
    assert default is not None
    own = Study(**WAVE, unless={"loss": {"alpha": 1}}, epochs=RUN.epochs, **shared)
    names = list(LISTS)
    ours, theirs = (order(play(study, score, width=3), names) for study in (own, distilling))
    # beside the finalists, the recipe's default runs final repeats; a function has no recipe
    known = tuple(default.config[n] for n in names)
    extra = [one for one in theirs if one not in ours]
    assert {config for config, _ in extra} <= {known}
    assert ours == [one for one in theirs if one not in extra]
    assert len(ours) > 15


@pytest.mark.parametrize("search", ["grid", "tpe"])
def test_what_is_minimised_is_the_negative_of_what_is_maximised(search: Any) -> None:
    space: Any = LISTS if search == "grid" else RANGES
    shared = {"search": search, "space": space, "samples": 12, "policy": "race", "repeats": 4}
    study = Study(**WAVE, **shared, stop_early=True, epochs=RUN.epochs)

    def negative(run: BaseRun) -> list[float]:
        return [-value for value in score(run)]

    names = list(space)
    up, down = play(study, score, width=2), play(replace(study, mode="min"), negative, width=2)
    assert order(up, names) == order(down, names)
    plain = [config[0] == 1 for config, repeat in order(up, names) if repeat == 0]
    assert True in plain and False in plain


STUDENTS = {"student": ("small", "large")}
GROUPS = [STUDENTS, {"train_images": (20, 1000)}]
ALL_IMAGES = "resnet18, 1,000 images"
"""Each has its own arms, finalists and share of the samples."""


def is_large(run: Run) -> bool:
    return run.student == "large" or run.train_images == 1000


def of_group(run: Run) -> list[float]:
    """The large student, and the large set of training images, is better by far."""
    return [acc + 0.1 * is_large(run) for acc in curve(run)]


@pytest.mark.parametrize("space", GROUPS)
@pytest.mark.parametrize("search", ["random", "tpe"])
def test_students_and_sizes_take_turns(search: str, space: dict) -> None:
    study = replace(make(search, {**RANGES, **space}, "all"), samples=16, repeats=1)
    plan = Plan(study, play(study, of_group))
    kinds = Counter((is_large(state.run), state.arm.is_baseline) for state in plan.ledger.by_row)
    assert kinds == {(s, plain): 2 if plain else 6 for s in (0, 1) for plain in (0, 1)}


@pytest.mark.parametrize("space", GROUPS)
def test_a_race_has_finalists_of_each_student_and_size(space: dict) -> None:
    """Those of the small one are the same as in a race without the large one."""
    study = make("grid", {**LISTS, **space}, "race")
    plan = Plan(study, play(study, of_group))
    small, large = finalists(plan.ledger)
    for pair, group in ((small, False), (large, True)):
        arms = [(is_large(s.run), s.arm.is_baseline) for s in pair.states]
        assert arms == [(group, True), (group, False)]
        assert final_test(plan.ledger, pair).n == study.repeats
    by_group = active_configs(plan.ledger)
    names = ["small", "large"] if space == STUDENTS else ["resnet18, 20 images", ALL_IMAGES]
    assert list(by_group) == names
    alive = [s for arms in by_group.values() for arm in arms for s in arm]
    assert {is_large(s.run) for s in alive} == {False, True}


@pytest.mark.parametrize("space", GROUPS)
def test_a_student_or_size_is_pruned_only_by_its_like(space: dict) -> None:
    def flat(run: Run) -> list[float]:
        return [0.9 if is_large(run) else 0.1] * run.epochs

    study = make("grid", {**LISTS, **space}, "all", stop_early=True)
    plan = Plan(study, play(study, flat))
    assert not plan.pruned  # all configurations of a student are equal


def test_repeats_are_added_until_each_student_is_decided() -> None:
    def gain(run: Run) -> list[float]:
        """Distilling helps the large student; for the small one the effect is cancelled."""
        cancelled = 0.03 * run.alpha * (run.student == "small")
        return [acc + cancelled for acc in curve(run)]

    space = {"alpha": (0.1, 1.0), **STUDENTS}
    study = Study(run=RUN, space=space, until_decided=True, budget="120runs", repeats=4)
    plan = Plan(study, play(study, gain))
    small, large = (final_test(plan.ledger, pair).n for pair in finalists(plan.ledger))
    assert large < small and not is_decided(plan.ledger)


def test_a_warm_start_suggests_the_best_of_the_other_study_first(tmp_path: Path) -> None:
    """The first ones after the default: alpha 0.5, and lr 1e-2 in place of 1e-3, the nearest."""
    other = Study(name="other", out=str(tmp_path), run=RUN, space=LISTS)
    lines = play(other, curve)
    (other.folder / "epochs").mkdir(parents=True)
    (other.folder / "study.json").write_text(other.to_json())
    text = "\n".join(json.dumps(line) for line in lines)
    (other.folder / "epochs" / "00000.jsonl").write_text(text)
    space = {"alpha": (0.1, 0.5), "lr": Range(1e-2, 1, log=True)}  # lr 1e-3 is outside
    study = Study(run=RUN, search="tpe", samples=16, plain_share=0.25, space=space, repeats=1)
    warm = play(replace(study, warm_start=str(other.folder)), curve)
    configs = [line["config"] for line in warm if line["kind"] == "start"]
    best = finalists(Plan(other, lines).ledger)[0].states
    assert [configs[0]["lr"], configs[2]["lr"]] == [best[0].run.lr, best[1].run.lr]
    assert (configs[1]["alpha"], configs[1]["lr"]) == (0.5, 1e-2)
    assert configs[2]["alpha"] == best[1].run.alpha
    known = {(line["config"]["alpha"], line["config"]["lr"]) for line in lines if "config" in line}
    taken = [config for config in configs if (config["alpha"], config["lr"]) in known]
    assert 4 <= len(taken) <= 8 and all(config["lr"] >= 1e-2 for config in taken)
    with pytest.raises(InputError, match="warm_start must be left out"):
        replace(study, search="grid", space=LISTS, warm_start=str(other.folder))
    with pytest.raises(InputError, match="must hold study"):
        Plan(replace(study, warm_start=str(tmp_path)))


def test_order_by_hand() -> None:
    """Repeats' effects are removed: here repeat 1 is 8 points harder than repeat 0.

    The differences of b and c are 4 and 12 points, so the effects are +4 and -4, and the adjusted
    means are a 0.76, b 0.77, c 0.72. By the plain means (a 0.80, b 0.77) and by the common repeat
    (a 0.80, b 0.79) a would come first.
    """
    study = Study(run=RUN, space={"lr": (0.1, 0.2, 0.3, 0.4)}, plain_share=0, repeats=2)
    a, b, c, unscored = study.runs()
    lines = []
    for run, scores in ((a, [0.80]), (b, [0.79, 0.75]), (c, [0.78, 0.66])):
        for repeat, score in enumerate(scores):
            lines += scored(replace(run, repeat=repeat), score)
    ledger = Plan(study, [*lines, start_of(unscored)]).ledger
    assert [state.run.lr for state in ranked(ledger)] == [0.2, 0.1, 0.3]
    # whoever was confirmed comes first
    confirmed = Plan(study, [*lines, *scored(replace(c, repeat=1000), 0.7)]).ledger
    assert [state.run.lr for state in ranked(confirmed)] == [0.3, 0.2, 0.1]


def took(lines: list[Line]) -> float:
    return max(line["elapsed"] for line in lines if "elapsed" in line)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("policy", ["all", "race"])
@pytest.mark.parametrize("search", ["grid", "tpe"])
def test_no_run_begins_that_cannot_end_in_the_hours(search: str, policy: str, width: int) -> None:
    """Whatever the limit, what is there is complete, and more hours give the study without one."""
    study = make(search, LISTS if search == "grid" else RANGES, policy)
    whole = play(study, curve, width, seed=None)
    for share in (0.3, 0.5, 0.8):
        limited = replace(study, hours=share * took(whole) / 3600)
        lines = play(limited, curve, width, seed=None)
        assert 0.5 * share * took(whole) < took(lines) <= share * took(whole)
        plan = Plan(limited, lines)  # as a later command sees it
        assert plan.is_done and play(limited, curve, width, None, lines) == lines
        states = [state for state in plan.ledger.by_row if state.status]
        if policy == "all":  # each configuration has the same repeats
            assert len({frozenset(state.scores) for state in states}) == 1
        else:  # so has each finalist
            finals = Counter(r for _, r in runs_of(lines) if phase_of(r) == "final")
            assert finals and len(set(finals.values())) == 1
        more = runs_of(play(replace(study, hours=99), curve, width, None, lines))
        if policy == "all" and search == "grid":
            assert sorted(more) == sorted(runs_of(whole))


def test_the_baseline_comes_first_where_time_is_limited() -> None:
    """So a verdict has one, even if the time ends in the first repeat; without a limit it waits."""
    study = make("grid", {"alpha": (0.1, 0.5, 1.0)}, "all")
    for hours, alpha in ((None, 0.1), (1.0, 1.0)):
        first = Plan(replace(study, hours=hours)).next_run()
        assert first is not None and first.value("alpha") == alpha


def test_the_time_of_a_run_is_that_of_the_nearest_kind_measured() -> None:
    """By hand: 8 epochs of a second with distillation, of half a second without."""
    study = replace(make("grid", {"alpha": (0.1, 1.0), "epochs": (8, 16)}, "all"), repeats=3)
    short, long, plain, plain_long = sorted(study.runs(), key=lambda r: (r.alpha, r.epochs))
    plan = Plan(study, concurrency=2)
    ledger = plan.ledger
    assert plan.expected_seconds is None and ledger.seconds(short) == 0
    # 12 runs of 12 epochs on average, and 3 streams of 16, two at a time; or 8 epochs on their own
    ledger.expected = {short.group: EpochTime(training=1.0, stream=3.0, once=0.0)}
    assert plan.expected_seconds == (12 * 12 + 3 * 16 * 3) / 2 and ledger.seconds(short) == 32
    # an epoch takes 4 s as expected, or 72: with a run of 64 s twice what was expected
    for seconds, ratio in ((4.0, 1), (72.0, 2)):
        begun = Plan(study, concurrency=2)
        begun.ledger.expected = ledger.expected
        start, epoch, *_ = scored(long, 0.5)
        for line in (start, epoch | {"seconds": seconds}):
            begun.add_record(line)
        assert begun.expected_seconds == ratio * ((12 * 12 - 1) + (3 * 16 - 1) * 3) / 2
    for run, began, ended in ((short, 10.0, 18.0), (plain, 20.0, 24.0)):
        assert ledger.seconds(run) == {0.1: 32, 1.0: 8}[run.alpha]
        start, *epochs, end = scored(run, 0.5)
        for line in (start | {"elapsed": began}, *epochs, end | {"elapsed": ended}):
            ledger.add_record(line)
    assert [ledger.seconds(run) for run in (long, plain_long)] == [16, 8]
    assert [ledger.seconds_left(run) for run in (long, short)] == [16, 0]
    assert ledger.elapsed == 24


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


def test_a_completed_run_and_a_resumed_one_by_hand() -> None:
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


def test_repeats_auto_end_with_a_decision_or_the_budget_also_without_correctness() -> None:
    study = replace(AUTO, budget="200runs")
    plan = Plan(study, play(study, curve))
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 60
    differences = final_test(plan.ledger, finalists(plan.ledger)[0]).differences
    assert anytime_p(differences) <= 0.05 < anytime_p(differences[:-1])

    small = replace(study, budget="10runs")
    assert Plan(small, play(small, curve)).ledger.cost.runs <= 10
    # One final repeat of an older version is enough.
    lines = play(AUTO, curve, correct=lambda run: images_right(run, 0, 1))
    final = next(line for line in lines if line.get("correct") and line["repeat"] == 2000)
    ledger = Plan(AUTO, lines).ledger
    assert final_test(ledger, finalists(ledger)[0]).images == 300
    del final["correct"]
    ledger = Plan(AUTO, lines).ledger
    test = final_test(ledger, finalists(ledger)[0])
    assert test.images == 0
    assert test.p == anytime_p(test.differences)


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


def decided_plan(gain: float, of_images: float, records_images: bool = True) -> Plan:
    def correct(run: Run) -> list[bool]:
        return images_right(run, gain, of_images)

    def curve(run: Run) -> list[float]:
        return [float(np.mean(correct(run)))] * run.epochs

    return Plan(AUTO, play(AUTO, curve, correct=correct if records_images else None))


def test_a_study_stops_where_its_images_decide_it_or_cannot() -> None:
    """Over repeats alone the same study is decided."""
    plan = decided_plan(0.7, 1.5)
    ((_, test, _),) = decisions(plan.ledger)
    assert plan.is_done and not is_decided(plan.ledger) and plan.ledger.cost.runs < 120
    assert test.images == 300 and test.p > 0.05 and test.is_undecidable(0.05)
    assert describe_end(plan).startswith("Not decided: 11 final repeats, always-valid p = 0.97. ")
    assert "More repeats cannot decide it with 300 val images: on these, a" in describe_end(plan)
    assert decisions(plan.ledger)[0].state == "undecidable with these images"
    alone = decided_plan(0.7, 1.5, records_images=False)
    (pair,) = finalists(alone.ledger)
    assert is_decided(alone.ledger) and final_test(alone.ledger, pair).images == 0
    plan = decided_plan(1.0, 0.3)
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 60
    test = final_test(plan.ledger, finalists(plan.ledger)[0])
    assert test.images == 300 and test.p <= 0.05 < anytime_p(test.differences[:2])
    state = describe_state(plan, deciding_criterion(plan))
    assert f", decided (always-valid p = {test.p:.2g})" in state


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


def test_an_extension_begins_another_round_and_more_final_repeats_do_not(raced: list[Line]) -> None:
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
    short = play(AUTO_16, lambda run: [0.7] * 8)  # never decided
    (round_,) = rounds_of(short)
    long = play(replace(AUTO_16, budget="30runs"), lambda run: [0.7] * 8, lines=short)
    assert rounds_of(long) == [round_] and len(final_runs(long)) == len(final_runs(short)) + 14


def test_neither_a_dropped_run_nor_a_lost_record_changes_the_finalists(raced: list[Line]) -> None:
    (round_,) = rounds_of(raced)
    best = {"config_id": round_.ranking[0], "repeat": 0, "trial_id": f"{round_.ranking[0]}-r00"}
    ledger = Plan(RACE, [*raced, {"kind": "drop", **best}]).ledger
    assert current_round(ledger) == round_
    assert round_.ranking[0] in {s.run.config_id for s in finalists(ledger)[0].states}
    # Their search may have been extended between two final repeats.
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

"""The contract of every sampler and policy, on simulated studies.

References: laws (the same repeats for every configuration, no run lost or done twice, the same
decisions after any crash), a known best configuration, hand-worked cases, and the records of a race
that version 0.1 of kdtune has decided.
"""

import csv
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from play import Line, play, play_and_crash, rest_of, round_before, runs_of, scored, start_of
from simulated_runs import LISTS, RANGES, RUN, curve, faulty, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import BaseRun, Range
from kdtune.config.text import InputError
from kdtune.planning.ledger import (
    FIRST_REPEAT,
    EpochTime,
    active_configs,
    final_test,
    finalists,
    is_decided,
    phase_of,
)
from kdtune.planning.plan import Plan, ranked

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
    ledger.expected = {short.group: EpochTime(training=1.0, stream=3.0)}
    assert plan.expected_seconds == (12 * 12 + 3 * 16 * 3) / 2 and ledger.seconds(short) == 32
    for run, began, ended in ((short, 10.0, 18.0), (plain, 20.0, 24.0)):
        assert ledger.seconds(run) == {0.1: 32, 1.0: 8}[run.alpha]
        start, *epochs, end = scored(run, 0.5)
        for line in (start | {"elapsed": began}, *epochs, end | {"elapsed": ended}):
            ledger.add_record(line)
    assert [ledger.seconds(run) for run in (long, plain_long)] == [16, 8]
    assert [ledger.seconds_left(run) for run in (long, short)] == [16, 0]
    assert ledger.elapsed == 24

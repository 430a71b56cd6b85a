"""The contract of every proposer x policy, on studies played through without training.

References: the laws of issue 5 (the same repeats for every configuration, no run lost or done
twice, the same decisions after any crash), a known best configuration, and hand-worked cases.
"""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from play import Line, play, play_and_crash, runs_of, start_of
from simulated_runs import LISTS, RANGES, RUN, curve, faulty, make

from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import Range
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import Cost, phase_of
from kdtune.planning.plan import Plan
from kdtune.planning.standing import final_differences, finalists, is_decided
from kdtune.statistics.sequential import anytime_p

SEARCHES = [("grid", LISTS), ("random", RANGES), ("tpe", RANGES), ("tpe", LISTS)]


def statuses(lines: list[Line]) -> Counter:
    return Counter(line["status"] for line in lines if line["kind"] == "end")


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("policy", ["all", "race"])
@pytest.mark.parametrize(("search", "space"), SEARCHES)
class TestContract:
    """Holds for every proposer and policy."""

    def test_it_ends_with_every_run_done_once(self, search, space, policy, stop_early) -> None:
        study = make(search, space, policy, stop_early)
        for width in (1, 3):
            lines = play(study, curve, width)
            runs = runs_of(lines)
            assert len(set(runs)) == len(runs) == statuses(lines).total()
            done = Plan(study, lines)
            assert len(done.ledger.tried) == (12 if search != "grid" else 15)
            plain = [tried for tried in done.ledger.tried.values() if tried.plain]
            assert len(plain) == 3 and finalists(done.ledger)[0] in plain
            assert all(0 in tried.status for tried in done.ledger.tried.values())
            assert not statuses(lines)["pruned"] or stop_early

    def test_the_same_repeats_for_every_configuration(
        self, search, space, policy, stop_early
    ) -> None:
        """Each has the first of the search's repeats, without a gap; the finalists the same."""
        study = make(search, space, policy, stop_early)
        done = Plan(study, play(study, curve))
        for tried in done.ledger.tried.values():
            search_repeats = sorted(r for r in tried.status if phase_of(r) == "search")
            assert search_repeats == list(range(len(search_repeats)))
            assert policy == "race" or tried.out or len(search_repeats) == 4
        plain, distilled = finalists(done.ledger)
        if policy == "race":
            assert plain.status.keys() >= {r for r in distilled.status if r >= 1000}
            assert {r for r in plain.status if r >= 2000} == {2000, 2001, 2002, 2003}
            assert len(plain.scores) >= len(distilled.scores)

    def test_a_crash_after_every_line_changes_nothing(
        self, search, space, policy, stop_early
    ) -> None:
        study = make(search, space, policy, stop_early)
        whole, broken = play(study, curve), play_and_crash(study, curve)
        assert runs_of(whole) == runs_of(broken)
        assert finalists(Plan(study, whole).ledger) == finalists(Plan(study, broken).ledger)

    def test_failures_and_nan_do_not_stop_it(self, search, space, policy, stop_early) -> None:
        study = make(search, space, policy, stop_early)
        lines = play(study, faulty, 3)
        assert statuses(lines)["failed"] and statuses(lines)["completed"]
        done = Plan(study, lines)
        assert not any(t.out for t in finalists(done.ledger))
        failed = done.ledger.failed
        if done._proposer is not None:  # no trial is left running in Optuna
            for side in done._proposer.sides.values():
                assert all(trial.state.is_finished() for trial in side.get_trials())
        again = play(study, faulty, 3, lines=lines)[len(lines) :]
        assert failed.keys() <= {line["trial_id"] for line in again}  # but not what diverged
        assert {line["config_id"] for line in again} == {run.config_id for run in failed.values()}

    def test_more_repeats_and_samples_extend_it(self, search, space, policy, stop_early) -> None:
        study = make(search, space, policy, stop_early)
        lines = play(study, curve)
        more = replace(study, repeats=6, samples=16)
        extended = play(more, curve, lines=lines)
        runs = runs_of(extended)
        assert len(runs) == len(set(runs)) > len(runs_of(lines))
        if search != "grid":
            most = 15 if space is LISTS else 16  # there are no more
            assert len(Plan(more, extended).ledger.tried) == most


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_seed_reproduces_the_proposals(search: str) -> None:
    study = make(search, RANGES, "all")
    assert runs_of(play(study, curve)) == runs_of(play(study, curve))
    other = replace(study, run=replace(RUN, seed=1))
    assert runs_of(play(study, curve)) != runs_of(play(other, curve))


def test_the_default_grid_is_as_it_was() -> None:
    """Blocks of as many repeats as run at once: the first four of all, then the next four."""
    study = Study(run=RUN, space={"alpha": (0.5, 1.0)}, repeats=8)
    ids = [run.config_id for run in study.runs()]
    want = [(c, r) for block in (range(4), range(4, 8)) for c in ids for r in block]
    assert runs_of(play(study, curve, 1)) == [(c, r) for r in range(8) for c in ids]
    plan = Plan(study, width=4)
    assert [(run.config_id, run.repeat) for run in iter(plan.next, None)] == want


def test_a_race_finds_the_best_for_less() -> None:
    space = {"alpha": (0.1, 0.3, 0.5, 1.0), "lr": tuple(10.0**-k for k in range(6))}
    study = Study(run=RUN, space=space, policy="race", repeats=8)
    lines = play(study, curve)
    plain, distilled = finalists(Plan(study, lines).ledger)
    assert (plain.run.lr, distilled.run.lr) == (0.01, 0.01)  # lr is worth 5 points a decade
    searched = [run for run in runs_of(lines) if run[1] < 1000]
    assert len(searched) < 24 * 8 / 3


def test_temperature_is_not_told_where_it_has_no_effect() -> None:
    space = {"loss": ("mse", "kl"), "temperature": Range(1, 20), "alpha": Range(0, 1)}
    study = Study(run=RUN, search="tpe", samples=20, space=space)
    plan = Plan(study, play(study, curve))
    assert plan._proposer is not None
    plain, distilled = plan._proposer.sides[True], plan._proposer.sides[False]
    done = [t for t in distilled.get_trials() if t.state.name == "COMPLETE"]
    assert len(done) == 19 and all(t.params == {} for t in plain.get_trials())
    for trial in done:
        assert ("temperature" in trial.params) == (trial.params["loss"] == "kl")
        assert trial.params["alpha"] < 1


def test_plain_training_has_its_share() -> None:
    for share, count in ((0.25, 10), (0.5, 20), (0.01, 1), (0, 0)):
        study = Study(run=RUN, search="random", samples=40, plain_share=share, space=RANGES)
        plan = Plan(study)
        plan.next()
        assert sum(tried.plain for tried in plan.ledger.tried.values()) == count


def test_a_finite_space_is_tried_to_the_last() -> None:
    study = Study(run=RUN, search="tpe", samples=100, space=LISTS, repeats=1)
    lines = play(study, curve)
    grid = replace(study, search="grid")
    assert {c for c, _ in runs_of(lines)} == {run.config_id for run in grid.runs()}


def test_repeats_auto_ends_when_it_is_decided_or_spent() -> None:
    space = {"alpha": (0.1, 1.0)}
    study = Study(run=RUN, space=space, repeats=2, until_decided=True, budget="200runs")
    plan = Plan(study, play(study, curve))
    assert is_decided(plan.ledger) and plan.ledger.spent.runs < 60
    differences = final_differences(plan.ledger)
    assert anytime_p(differences) <= 0.05 < anytime_p(differences[:-1])

    small = replace(study, budget="10runs")
    assert Plan(small, play(small, curve)).ledger.spent.runs <= 10


@pytest.mark.parametrize("seed", range(8))
def test_runs_under_way_when_it_is_decided_count_too(seed: int) -> None:
    """It goes on where they undo the decision, so that it ends with a verdict, or without."""
    space = {"alpha": (0.1, 1.0)}
    study = Study(run=RUN, space=space, repeats=2, until_decided=True, budget="2000runs")
    plan = Plan(study, play(study, noisy, width=8, seed=seed))
    assert is_decided(plan.ledger) and plan.ledger.spent.runs < 2000


def noisy(run: Run) -> list[float]:
    return [0.7 + 0.01 * random.Random(run.trial_id).gauss(0.5 * (run.alpha < 1), 1)] * 8


@pytest.mark.parametrize("plain", [True, False])
def test_a_finalist_whose_final_run_failed_stays_one(plain: bool) -> None:
    def failing(run: Run) -> list[float] | None:
        return None if run.repeat == 2003 and (run.alpha == 1) == plain else curve(run)

    race, auto = (
        make("grid", LISTS, "race"),
        Study(run=RUN, space={"alpha": (0.1, 1.0)}, until_decided=True, budget="200runs"),
    )
    for study in (race, auto):
        plan = Plan(study, play(study, failing))
        whole = Plan(study, play(study, curve))
        assert finalists(plan.ledger)[0].run == finalists(whole.ledger)[0].run
        tried = plan.ledger.tried.values()
        assert sum(any(phase_of(r) == "final" for r in t.status) for t in tried) == 2
        finals = [r for r in finalists(plan.ledger)[0].status if phase_of(r) == "final"]
        assert len(final_differences(plan.ledger)) == len(finals) - 1
    assert is_decided(plan.ledger)


def test_a_run_that_is_given_back_goes_next() -> None:
    plan = Plan(make("grid", LISTS, "all"))
    first, second = plan.next(), plan.next()
    plan.take(start_of(first)), plan.take(start_of(second))
    plan.give_back(first)
    assert list(plan.ledger.running) == [second.trial_id] and not plan.is_done
    assert plan.next() == first and plan.next() not in (first, second)


@pytest.mark.parametrize(
    ("budget", "spent", "reached"),
    [
        (None, Cost(10**6, 10**6, 1e9), False),
        ("400runs", Cost(399, 10**6, 1e9), False),
        ("400runs", Cost(400), True),
        ("20epochs", Cost(0, 20), True),
        ("1.5h", Cost(0, 0, 5399), False),
        ("1.5h", Cost(0, 0, 5400), True),
    ],
)
def test_budgets(budget: str | None, spent: Cost, reached: bool) -> None:
    assert spent.reaches(budget) is reached


def test_a_warm_start_proposes_the_best_of_the_other_study_first(tmp_path: Path) -> None:
    other = Study(name="other", out=str(tmp_path), run=RUN, space=LISTS)
    (other.folder / "epochs").mkdir(parents=True)
    (other.folder / "study.json").write_text(other.to_json())
    lines = play(other, curve)
    text = "\n".join(json.dumps(line) for line in lines)
    (other.folder / "epochs" / "00000.jsonl").write_text(text)
    space = {"alpha": (0.1, 0.5), "lr": Range(1e-2, 1, log=True)}  # lr 1e-3 is outside
    study = Study(run=RUN, search="tpe", samples=16, space=space, repeats=1)
    warm = play(replace(study, warm_start=str(other.folder)), curve)
    configs = [line["config"] for line in warm if line["kind"] == "start"]
    best = finalists(Plan(other, lines).ledger)
    assert [configs[0]["lr"], configs[1]["lr"]] == [best[0].run.lr, best[1].run.lr]
    assert configs[1]["alpha"] == best[1].run.alpha
    known = {(line["config"]["alpha"], line["config"]["lr"]) for line in lines if "config" in line}
    taken = [config for config in configs if (config["alpha"], config["lr"]) in known]
    assert 4 <= len(taken) <= 8 and all(config["lr"] >= 1e-2 for config in taken)
    with pytest.raises(InputError, match="a grid runs all it has"):
        replace(study, search="grid", space=LISTS, warm_start=str(other.folder))
    with pytest.raises(InputError, match="must hold study"):
        Plan(replace(study, warm_start=str(tmp_path)))

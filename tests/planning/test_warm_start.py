"""Configurations of another study that are suggested first."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from play import Line, play, rest_of, start_of
from simulated_runs import LISTS, RUN, curve, truth

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.planning.ledger import finalists
from kdtune.planning.plan import Plan, best_of_other, ranked


def save(study: Study, lines: list[Line]) -> None:
    (study.folder / "epochs").mkdir(parents=True)
    (study.folder / "study.json").write_text(study.to_json())
    text = "\n".join(json.dumps(line) for line in lines)
    (study.folder / "epochs" / "00000.jsonl").write_text(text)


def test_a_warm_start_suggests_the_best_of_the_other_study_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones after the default: alpha 0.5, and lr 1e-2 in place of 1e-3, the nearest."""
    other = Study(name="other", out=str(tmp_path), run=RUN, space=LISTS)
    lines = play(other, curve)
    save(other, lines)
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
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = replace(study, warm_start="~/other")
    assert best_of_other(at_home) == best_of_other(replace(study, warm_start=str(other.folder)))
    with pytest.raises(InputError, match="a grid runs all"):
        replace(study, search="grid", space=LISTS, warm_start=str(other.folder))
    with pytest.raises(InputError, match="must hold study"):
        Plan(replace(study, warm_start=str(tmp_path)))


def unlucky_first(run: Run) -> list[float]:
    """Return accuracies that are best at lr 1e-2, but in the first repeat 6 points worse there."""
    noise = random.Random(run.trial_id).gauss(0, 0.005)
    lost = 0.06 if run.lr == 1e-2 and run.repeat == 0 else 0.0
    return [truth(run) + noise - lost] * 8


def test_the_winner_of_a_race_comes_first_although_its_first_repeat_was_bad(tmp_path: Path) -> None:
    """In the first repeat, the only one that all share, two others of its arm are better."""
    space = {"alpha": (0.1, 1.0), "lr": (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)}
    other = Study(name="race", out=str(tmp_path), run=RUN, space=space, policy="race", repeats=8)
    lines = play(other, unlucky_first)
    save(other, lines)
    ledger = Plan(other, lines).ledger
    best = finalists(ledger)[0].states
    assert [state.run.lr for state in best] == [1e-2, 1e-2]
    for winner in best:
        arm = [s for s in ledger.by_row if s.is_baseline == winner.is_baseline]
        assert sum(state.scores[0] > winner.scores[0] for state in arm) == 2
        assert min(len(state.scores) for state in arm) == 1
    study = replace(other, policy="all", search="tpe", warm_start=str(other.folder))
    found = best_of_other(study)
    assert {run.config_id for run in found[:2]} == {state.run.config_id for state in best}
    assert len(found) == 12


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


def scored(run: Run, score: float) -> list[Line]:
    """Return the records of a run with this accuracy in every epoch."""
    plan = Plan(Study(run=RUN))
    return [start_of(run), *rest_of(run, plan, lambda _: [score] * 8)]

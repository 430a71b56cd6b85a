"""What is shown of a study, and the command of --notify, run by a real shell."""

import io
import json
import stat
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import study_folders as folders
from play import play, rest_of, start_of
from rich.console import Console
from simulated_runs import LISTS, curve, make

from kdtune.config.study import Study
from kdtune.config.text import NodeMismatchError
from kdtune.planning.ledger import finalists
from kdtune.planning.plan import Plan
from kdtune.raytune import progress
from kdtune.raytune.driver import Interrupted
from kdtune.raytune.folder import write_study
from kdtune.results.results import load
from kdtune.streams.cache import Building


def test_the_table_has_the_best_and_the_baseline() -> None:
    study = make("grid", LISTS, "all")
    plan = Plan(study, play(study, curve))
    console = Console(file=io.StringIO(), width=120)
    console.print(progress.make_table(plan, progress.deciding_criterion(plan)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for tried in finalists(plan.ledger)[0]:
        mean = sum(tried.scores.values()) / 4
        assert f"4 │ {mean:.4f} ± " in text
    assert "60 completed, best distilled minus best baseline " in " ".join(text.split())


def test_a_lead_that_is_not_decided_says_so() -> None:
    study = make("grid", {"alpha": (0.1, 1.0)}, "all")
    study = replace(study, until_decided=True, budget="14runs")
    plan = Plan(study, play(study, curve))
    state = progress.describe_state(plan, progress.deciding_criterion(plan))
    assert ", not decided (always-valid p" in state


def test_the_time_left_is_estimated_before_the_first_run_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """4 of 2 x 3 x 8 epochs are done, of a second each, and two runs share the other 44."""
    study = replace(make("grid", {"alpha": (0.1, 1.0)}, "all"), repeats=3)
    plan = Plan(study)
    first, second = plan.next_run(), plan.next_run()
    for line in (start_of(first), start_of(second)):
        plan.add_record(line)
    assert progress.describe_time_left(plan) == ""
    for line in islice(rest_of(first, plan, curve), 4):
        plan.add_record(line)
    cache: Any = SimpleNamespace(building=lambda: iter([Building("logits", 3, 8, "")]))
    progress.ProgressDisplay(plan, cache).refresh()
    build, state = capsys.readouterr().out.splitlines()
    assert build == "  building logits (3 of 8)"
    assert state == "  2 running, about 0:00:22 left (estimate from 4 epochs)"
    raced = replace(study, policy="race")  # of which the number of runs is not known
    assert progress.describe_time_left(Plan(raced, play(study, curve)[:5])) == ""


SCRIPT = """#!/bin/sh
cat > stdin.txt
printf '%s' "$KDTUNE_STUDY $KDTUNE_FOLDER $KDTUNE_STATUS" > variables.txt
printf '%s' "$KDTUNE_VERDICT" > verdict.txt
"""


@pytest.fixture
def study(here: Path) -> Study:
    """A complete study in a folder with the script tell.sh."""
    Path("tell.sh").write_text(SCRIPT)
    Path("tell.sh").chmod(stat.S_IRWXU)
    results = folders.make(here / "runs" / "made", folders.draw({0.5: 0.03, 1.0: 0.0}, 4))
    return replace(results.study, out=str(here / "runs"))


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (None, "completed", ""),
        (Interrupted("the store is gone"), "interrupted", "(the store is gone)"),
        (NodeMismatchError("node7 has no data"), "failed", "node7 has no data"),
        (ZeroDivisionError("a bug"), "failed", "ZeroDivisionError: a bug"),
    ],
)
def test_a_command_is_told_the_verdict_or_the_reason(
    study: Study, end: Exception | None, status: str, reason: str, capsys: Any
) -> None:
    results = load(study.folder)
    progress.notify("./tell.sh", study, end or results)
    verdict = progress.describe_outcome(end)[1] if end else results.verdict()
    assert reason in verdict and Path("stdin.txt").read_text() == f"{verdict}\n"
    assert Path("verdict.txt").read_text() == verdict
    assert capsys.readouterr().out == ""
    assert Path("variables.txt").read_text() == f"made {study.folder} {status}"


def test_no_text_of_the_verdict_is_run(study: Study) -> None:
    evil = "$(touch ran) `touch ran` '; touch ran; \" && touch ran\n\0 é"
    results: Any = SimpleNamespace(trials=pd.DataFrame({"status": []}), verdict=lambda: evil)
    progress.notify("./tell.sh", study, results)
    assert not Path("ran").exists()
    assert Path("stdin.txt").read_text() == f"{evil}\n"
    assert Path("verdict.txt").read_text() == evil.replace("\0", "")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo no mail here >&2; exit 7", "exit code 7: no mail here"),
        ("./missing.sh", "exit code 127"),
        ("sleep 60", "was ended after"),
    ],
)
def test_a_command_that_fails_or_hangs_is_a_warning(
    study: Study, command: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(progress, "NOTIFY_SECONDS", 0.5)
    progress.notify(command, study, ValueError())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: --notify") and reason in lines[0]


@pytest.mark.parametrize("words", [["--notify", "curl SECRET"], ["--notify=curl SECRET"]])
def test_the_command_stands_in_no_file_of_the_study(
    words: list[str], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/kdtune/search.py", "--alpha", "0.5", *words])
    told = replace(study, notify="curl SECRET", tracker=("mlflow",))
    write_study(told, {})
    texts = [p.read_text(errors="replace") for p in study.folder.rglob("*") if p.is_file()]
    assert not any("SECRET" in text for text in texts)
    command = json.loads((study.folder / "provenance.json").read_text())["command"]
    assert command[:5] == ["python", "-m", "kdtune.search", "--alpha", "0.5"]
    assert "SECRET" not in repr(told) and Study.from_json(told.to_json()) == told

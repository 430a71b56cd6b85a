"""What is shown of a study, and the command of --notify, run by a real shell."""

import io
import json
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import study_folders as folders
from play import play
from rich.console import Console
from simulated_runs import LISTS, curve, faulty, make

from kdtune.config.study import Study
from kdtune.config.text import NodeMismatchError
from kdtune.planning.ledger import finalists, is_decided
from kdtune.planning.plan import Plan
from kdtune.raytune import progress
from kdtune.raytune.driver import Interrupted
from kdtune.raytune.folder import write_study
from kdtune.raytune.progress import (
    ProgressDisplay,
    StudyOutcome,
    describe_state,
    make_table,
    notify,
    outcome_of_error,
    outcome_of_results,
    print_recipe,
)
from kdtune.results.results import load
from kdtune.streams.cache import Cache


def shown(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(make_table(plan))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_the_best_and_plain_training() -> None:
    study = make("grid", LISTS, "all")
    plan = Plan(study, play(study, curve))
    ((plain, distilled),) = finalists(plan.ledger)
    text = shown(plan)
    for tried in (plain, distilled):
        mean = sum(tried.scores.values()) / 4
        assert f"4 │ {mean:.4f} ± " in text
    assert "60 completed, best distilled minus best baseline " in " ".join(text.split())


def test_failures_and_stops_are_counted() -> None:
    study = make("grid", LISTS, "race", stop_early=True)
    plan = Plan(study, play(study, faulty))
    ends = [status for tried in plan.ledger.by_row for status in tried.status.values()]
    for status in ("completed", "failed", "pruned"):
        if status in ends:
            assert f"{ends.count(status)} {status}" in describe_state(plan)
    assert "over 4 final repeats" in describe_state(plan)


def test_whether_it_is_decided() -> None:
    study = replace(make("grid", {"alpha": (0.1, 1.0)}, "all"), until_decided=True, budget="99runs")
    plan = Plan(study, play(study, curve))
    assert is_decided(plan.ledger) and ", decided (always-valid p = 0.0" in describe_state(plan)
    small = replace(study, budget="14runs")
    plan = Plan(small, play(small, curve))
    assert ", not decided (always-valid p" in describe_state(plan)


def test_lines_where_there_is_no_terminal(capsys) -> None:  # type: ignore[no-untyped-def]
    study = make("grid", LISTS, "all")
    with ProgressDisplay(Plan(study, play(study, curve)), Cache(gigabytes=0)) as display:
        display.refresh()
        display.print_line("a line")
        display.refresh()  # too early for another
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("  60 completed") and lines[1] == "a line"


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A notebook's kernel; what its cell gets: (first output or update, text)."""
    shown: list[tuple[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            shown.append(("update", content["text/plain"]))

    def display(content: dict[str, str], raw: bool, display_id: bool = False) -> Handle:
        assert raw and set(content) <= {"text/plain", "text/html"}
        shown.append(("output", content.get("text/html", content["text/plain"])))
        return Handle()

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("kdtune.raytune.progress.REFRESH_SECONDS", 0.0)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return shown


def test_a_notebook_has_one_output_that_is_replaced(in_notebook, capsys) -> None:  # type: ignore[no-untyped-def]
    study = make("grid", LISTS, "all")
    plan = Plan(study, play(study, curve))
    with ProgressDisplay(plan, Cache(gigabytes=0)) as display:
        display.print_line("a line")
        for repeat in range(30):
            display.advance(f"  alpha 0.1, repeat {repeat}: val acc 0.7")
            display.refresh()
        display.refresh()  # nothing is new, so nothing is sent
    kinds, texts = zip(*in_notebook, strict=True)
    assert kinds == ("output", *["update"] * 30) and capsys.readouterr().out == "a line\n"
    assert "alpha 0.1, repeat 28: val acc 0.7" in texts[28]
    assert "30 of 0 runs ended: 60 completed, best distilled" in texts[-1]
    assert "val acc 0.7\n" not in texts[-1] and "\x1b" not in "".join(texts)


def test_a_recipe_is_folded_in_a_notebook(in_notebook, capsys) -> None:  # type: ignore[no-untyped-def]
    print_recipe("Recipe of <runs>:", ["  setting  value", "  data     a & b"])
    ((kind, html),) = in_notebook
    assert kind == "output" and html.startswith("<details><summary>Recipe of &lt;runs&gt;:</sum")
    assert "a &amp; b" in html and capsys.readouterr().out == ""


SCRIPT = """#!/bin/sh
cat > stdin.txt
printf '%s\\n' "$KDTUNE_STUDY" "$KDTUNE_FOLDER" "$KDTUNE_STATUS" > variables.txt
printf '%s' "$KDTUNE_VERDICT" > verdict.txt
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A complete study in a folder with the script tell.sh."""
    monkeypatch.chdir(tmp_path)
    Path("tell.sh").write_text(SCRIPT)
    Path("tell.sh").chmod(stat.S_IRWXU)
    results = folders.make(tmp_path / "runs" / "made", folders.draw({0.5: 0.03, 1.0: 0.0}, 4))
    return Study.from_json(
        json.dumps({**json.loads(results.study.to_json()), "out": str(tmp_path / "runs")})
    )


def test_a_completed_study_gives_its_verdict(study: Study) -> None:
    said: list[str] = []
    results = load(study.folder)
    notify("./tell.sh", study, outcome_of_results(results), said.append)
    verdict = results.verdict()
    assert Path("stdin.txt").read_text() == f"{verdict}\n"
    assert Path("verdict.txt").read_text() == verdict
    assert Path("variables.txt").read_text().split() == ["made", str(study.folder), "completed"]
    assert said == []


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Interrupted("the store is gone"), "interrupted", "(the store is gone)"),
        (NodeMismatchError("node7 has no data"), "failed", "node7 has no data"),
        (ZeroDivisionError("a bug"), "failed", "ZeroDivisionError: a bug"),
    ],
)
def test_a_study_that_an_error_ends_gives_the_reason(
    study: Study, error: BaseException, status: str, reason: str
) -> None:
    notify("./tell.sh", study, outcome_of_error(error))
    assert Path("variables.txt").read_text().split()[-1] == status
    assert reason in Path("stdin.txt").read_text()


def test_no_text_of_the_verdict_is_run(study: Study) -> None:
    evil = "$(touch ran) `touch ran` '; touch ran; \" && touch ran\n\0 é"
    notify("./tell.sh", study, StudyOutcome("failed", evil))
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
    study: Study, command: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "NOTIFY_SECONDS", 0.5)
    said: list[str] = []
    began = time.monotonic()
    notify(command, study, StudyOutcome("completed", ""), said.append)
    assert len(said) == 1 and said[0].startswith("warning: --notify") and reason in said[0]
    assert time.monotonic() - began < 20


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

"""The command of --notify, run by a real shell."""

import json
import stat
import sys
import time
from pathlib import Path

import pytest
import study_folders as folders

from kdtune.config.study import Study
from kdtune.config.text import NodeMismatchError
from kdtune.raytune import progress as notify
from kdtune.raytune.driver import Interrupted
from kdtune.raytune.progress import Outcome, notified

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
    with notified("./tell.sh", study, said.append):
        assert not Path("stdin.txt").exists()
    import kdtune

    verdict = kdtune.load(study.folder).verdict()
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
def test_a_study_that_an_error_ends_gives_the_reason_and_raises(
    study: Study, error: BaseException, status: str, reason: str
) -> None:
    with pytest.raises(type(error)), notified("./tell.sh", study):
        raise error
    assert Path("variables.txt").read_text().split()[-1] == status
    assert reason in Path("stdin.txt").read_text()


def test_a_study_without_a_completed_run_has_failed(study: Study, tmp_path: Path) -> None:
    (study.folder / "epochs" / "00000.jsonl").unlink()
    folders.write_records(study.folder, {folders.at(0.5): [0.5]}, {folders.at(0.5): "failed"})
    with notified("./tell.sh", study):
        pass
    assert Path("variables.txt").read_text().split()[-1] == "failed"


def test_no_text_of_the_verdict_is_run(study: Study) -> None:
    evil = "$(touch ran) `touch ran` '; touch ran; \" && touch ran\n\0 é"
    notify.notify("./tell.sh", study, Outcome("failed", evil), print)
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
    monkeypatch.setattr(notify, "TIMEOUT_SECONDS", 0.5)
    said: list[str] = []
    began = time.monotonic()
    with notified(command, study, said.append):
        pass
    assert len(said) == 1 and said[0].startswith("warning: --notify") and reason in said[0]
    assert time.monotonic() - began < 20


def test_neither_unread_input_nor_a_process_in_the_background_delays_it(study: Study) -> None:
    began = time.monotonic()
    long = Outcome("completed", "x" * 1_000_000)  # more than a pipe holds, or a variable may have
    notify.notify("sleep 50 & echo $! > pid", study, long, pytest.fail)
    assert time.monotonic() - began < 20
    import os
    import signal

    os.kill(int(Path("pid").read_text()), signal.SIGTERM)


@pytest.mark.parametrize("words", [["--notify", "curl SECRET"], ["--notify=curl SECRET"]])
def test_the_command_stands_in_no_file_of_the_study(
    words: list[str], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from kdtune.raytune.folder import write_study

    monkeypatch.setattr(sys, "argv", ["/x/kdtune/search.py", "--alpha", "0.5", *words])
    told = replace(study, notify="curl SECRET", tracker=("mlflow",))
    write_study(told, {})
    texts = [p.read_text(errors="replace") for p in study.folder.rglob("*") if p.is_file()]
    assert not any("SECRET" in text for text in texts)
    command = json.loads((study.folder / "provenance.json").read_text())["command"]
    assert command[:5] == ["python", "-m", "kdtune.search", "--alpha", "0.5"]
    assert "SECRET" not in repr(told) and Study.from_json(told.to_json()) == told

"""The watch over a folder that does not answer; of a real one: test_failing_folders.py."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import wait_until

from kdtune.config.files import LOCK
from kdtune.raytune import silent_folder
from kdtune.raytune.silent_folder import silence_said

SILENT = 0.3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, which is asked often."""
    monkeypatch.setattr(silent_folder, "SILENT_SECONDS", SILENT)
    monkeypatch.setattr(silent_folder, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(silent_folder, "TICK_SECONDS", 0.05)
    (tmp_path / LOCK).touch()
    return tmp_path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is set the folder answers."""
    event = threading.Event()
    event.set()
    touch = os.utime

    def answer(file: Path) -> None:
        event.wait(60)
        touch(file)

    monkeypatch.setattr(silent_folder.os, "utime", answer)
    yield event
    event.set()


def test_a_silence_and_its_end_are_said_once(folder: Path, answers: threading.Event) -> None:
    said: list[str] = []
    with silence_said(folder, said.append):
        time.sleep(2 * SILENT)
        assert said == []
        answers.clear()
        time.sleep(4 * SILENT)
        assert said == [f"warning: {folder} has not answered for {SILENT} s; waiting"]
        answers.set()
        wait_until(lambda: len(said) == 2, 10)
        assert said[1] == f"{folder} answers again; the study goes on"
        time.sleep(2 * SILENT)
    assert len(said) == 2


def test_a_shorter_silence_is_not_said(folder: Path, answers: threading.Event) -> None:
    said: list[str] = []
    with silence_said(folder, said.append):
        for _ in range(3):
            answers.clear()
            time.sleep(SILENT / 3)
            answers.set()
            time.sleep(SILENT / 3)
    assert said == []


def test_a_folder_that_answers_with_an_error_is_not_silent(folder: Path) -> None:
    said: list[str] = []
    (folder / LOCK).unlink()
    with silence_said(folder, said.append):
        time.sleep(3 * SILENT)
    assert said == [] and list(folder.iterdir()) == []


def test_a_silent_folder_does_not_delay_the_end(folder: Path, answers: threading.Event) -> None:
    answers.clear()
    began = time.monotonic()
    with silence_said(folder, lambda line: None):
        time.sleep(2 * SILENT)
    assert time.monotonic() - began < 10 * SILENT


BLOCKED = """
import signal, sys, time
from pathlib import Path
from kdtune.raytune import silent_folder
silent_folder.SILENT_SECONDS, silent_folder.ASK_SECONDS, silent_folder.TICK_SECONDS = 0.3, 0.5, 0.1
silent_folder.os.utime = lambda file: time.sleep(float(sys.argv[1]))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # as in a call of the system
with silent_folder.silence_said(Path("f"), lambda line: print(line, flush=True)):
    time.sleep(float(sys.argv[1]))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    time.sleep(10)
"""


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="needs sigtimedwait")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_the_main_thread_takes_no_signal(times: int) -> None:
    """The first is kept for it, the second ends the process."""
    seconds = "2.5" if times == 1 else "60"
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKED, seconds],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "has not answered" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "at once with a second Ctrl-C" in process.stdout.readline()
        if times == 2:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    if times == 2:
        assert (process.returncode, out) == (130, "")
        assert err == "interrupted; run the same command again to resume\n"
    else:
        assert "answers again" in out and "KeyboardInterrupt" in err

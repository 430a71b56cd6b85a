"""The watch over a folder that does not answer; of a real one: test_failing_folders.py."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import wait_until

from kdtune.config.files import LOCK
from kdtune.raytune import session as silent_folder
from kdtune.raytune.session import folder_watch

SILENT = 0.3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, which is asked often."""
    monkeypatch.setattr(silent_folder, "SILENT_SECONDS", SILENT)
    monkeypatch.setattr(silent_folder, "ASK_SECONDS", 0.02)
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
    with folder_watch(folder, said.append):
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
    with folder_watch(folder, said.append):
        for _ in range(3):
            answers.clear()
            time.sleep(SILENT / 3)
            answers.set()
            time.sleep(SILENT / 3)
    assert said == []


def test_a_folder_that_answers_with_an_error_is_not_silent(folder: Path) -> None:
    said: list[str] = []
    (folder / LOCK).unlink()
    with folder_watch(folder, said.append):
        time.sleep(3 * SILENT)
    assert said == [] and list(folder.iterdir()) == []


def test_a_silent_folder_does_not_delay_the_end(folder: Path, answers: threading.Event) -> None:
    answers.clear()
    began = time.monotonic()
    with folder_watch(folder, lambda line: None):
        time.sleep(2 * SILENT)
    assert time.monotonic() - began < 10 * SILENT


def test_a_terminal_that_is_closed_does_not_end_the_watch(
    folder: Path, answers: threading.Event
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        raise OSError(errno.EIO, "the terminal is closed")

    with folder_watch(folder, say):
        answers.clear()
        wait_until(lambda: len(said) == 1, 10)
        answers.set()
        wait_until(lambda: len(said) == 2, 10)

"""What ends or delays a study: a lost Ray, signals, a folder that does not answer; no Ray runs."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from drivers import wait_until

from kdtune.config.files import LOCK
from kdtune.config.text import RayLostError
from kdtune.raytune import session
from kdtune.raytune.session import (
    check_local_ray,
    ended_if_ray_is_lost,
    folder_watch,
)

POLL, GRACE = 0.05, 0.5


class Ended(list[str]):
    """What the watch has said in place of ending this process."""


@pytest.fixture
def ended(no_shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Instead of the end of this process."""
    said = Ended()
    monkeypatch.setattr(session, "_end", said.append)
    monkeypatch.setattr(session, "WATCH_SECONDS", POLL)
    monkeypatch.setattr(session, "GRACE_SECONDS", GRACE)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return said


@pytest.fixture
def raylet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A process in the place of a raylet that this process has started."""
    with subprocess.Popen(["sleep", "60"]) as process:
        kinds = {"raylet": [SimpleNamespace(process=process)]}
        node = ray._private.node.Node.__new__(ray._private.node.Node)
        node.all_processes = kinds
        monkeypatch.setattr(ray._private.worker, "_global_node", node)
        yield SimpleNamespace(process=process, kinds=kinds)
        process.kill()


def test_a_lost_raylet_ends_a_driver_that_does_not_end_by_itself(ended: Ended, raylet: Any) -> None:
    with ended_if_ray_is_lost():
        raylet.process.kill()
        time.sleep(POLL + 2 * GRACE)
    assert ended and "Ray's process raylet has ended" in ended[0]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_ray_that_was_told_to_end_with_this_process_is_an_interruption(
    name: str, raylet: Any
) -> None:
    raylet.process.kill()
    raylet.process.wait()
    with pytest.raises(RayLostError):
        check_local_ray()
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # nohup lets this process ignore SIGHUP
    try:
        with pytest.raises(KeyboardInterrupt), session.signals_as_ctrl_c():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            check_local_ray()
    finally:
        signal.signal(number, before)
        session._arrived.clear()
    with pytest.raises(RayLostError):
        check_local_ray()


@pytest.mark.parametrize(("arrived", "code"), [(True, 130), (False, 1)])
def test_the_watch_ends_a_study_that_was_told_to_end_as_interrupted(
    arrived: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(session.os, "_exit", codes.append)
    monkeypatch.setattr(session, "_kill_ray", lambda: None)
    monkeypatch.setattr(session, "_arrived", threading.Event())
    if arrived:
        session._note(signal.SIGTERM)
    with session.summarised(lambda: "3 of 4 runs", print):
        session._end("it is lost")
    said = capsys.readouterr()
    assert codes == [code]
    assert said.out == "So far: 3 of 4 runs\n" * arrived
    resume = "interrupted; run the same command again to resume\n"
    assert said.err == (resume if arrived else "error: it is lost\n")


SILENT = 0.3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, which is asked often."""
    monkeypatch.setattr(session, "FOLDER_SILENT_SECONDS", SILENT)
    monkeypatch.setattr(session, "ASK_SECONDS", 0.02)
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

    monkeypatch.setattr(session.os, "utime", answer)
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

"""The watch over Ray's own processes; of a real Ray that is killed: test_killed_studies.py."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from kdtune.config.text import RayLostError
from kdtune.raytune import session as lost_ray
from kdtune.raytune import session as stop_signals
from kdtune.raytune.session import _lost_sentence, check_local_ray, ended_if_ray_is_lost

POLL, GRACE = 0.05, 0.5


class Ended(list[str]):
    """What the watch has said in place of ending this process."""


@pytest.fixture
def ended(no_shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Instead of the end of this process."""
    said = Ended()
    monkeypatch.setattr(lost_ray, "_end", said.append)
    monkeypatch.setattr(lost_ray, "WATCH_SECONDS", POLL)
    monkeypatch.setattr(lost_ray, "GRACE_SECONDS", GRACE)
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


def test_a_raylet_that_ray_itself_has_ended_is_not_lost(ended: Ended, raylet: Any) -> None:
    """It is dead for a moment before it leaves the list of Ray's processes."""
    with ended_if_ray_is_lost():
        raylet.process.kill()
        time.sleep(GRACE / 2)  # the first look
        del raylet.kinds["raylet"]
        time.sleep(2 * GRACE)
    assert ended == []


def test_a_slow_end_of_ray_is_not_its_loss(
    ended: Ended, raylet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow() -> None:
        raylet.process.kill()
        time.sleep(POLL + 2 * GRACE)

    monkeypatch.setattr(ray, "shutdown", slow)
    with ended_if_ray_is_lost():
        pass
    assert ended == []


def test_an_end_of_ray_that_hangs_since_ray_is_lost_is_not_waited_for(
    ended: Ended, raylet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "shutdown", lambda: time.sleep(POLL + 2 * GRACE))
    with ended_if_ray_is_lost():
        raylet.process.kill()
        raylet.process.wait()
    assert ended


def test_ray_may_end_its_processes_while_the_watch_looks(raylet: Any) -> None:
    class Meanwhile:
        """A process during whose look the main thread removes it from Ray's list."""

        def poll(self) -> None:
            raylet.kinds.pop("gcs_server", None)

    raylet.kinds["gcs_server"] = [SimpleNamespace(process=Meanwhile())]
    raylet.kinds["log_monitor"] = [SimpleNamespace(process=raylet.process)]
    assert _lost_sentence() is None
    assert "gcs_server" not in raylet.kinds


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
        with pytest.raises(KeyboardInterrupt), stop_signals.signals_as_ctrl_c():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            check_local_ray()
    finally:
        signal.signal(number, before)
        stop_signals._arrived.clear()
    with pytest.raises(RayLostError):
        check_local_ray()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_background_job_which_ignores_ctrl_c_ends_all_the_same(name: str) -> None:
    """A shell lets the commands that a script starts with & ignore SIGINT."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stop_signals.signals_as_ctrl_c():
            signal.raise_signal(number)
    finally:
        for one, handler in zip((number, signal.SIGINT), before, strict=True):
            signal.signal(one, handler)
        stop_signals._arrived.clear()


@pytest.mark.parametrize(("arrived", "code"), [(True, 130), (False, 1)])
def test_the_watch_ends_a_study_that_was_told_to_end_as_interrupted(
    arrived: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(lost_ray.os, "_exit", codes.append)
    monkeypatch.setattr(lost_ray, "_kill_ray", lambda: None)
    monkeypatch.setattr(stop_signals, "_arrived", threading.Event())
    if arrived:
        stop_signals._note(signal.SIGTERM)
    with stop_signals.summarised(lambda: "3 of 4 runs", print):
        lost_ray._end("it is lost")
    said = capsys.readouterr()
    assert codes == [code]
    assert said.out == "So far: 3 of 4 runs\n" * arrived
    resume = "interrupted; run the same command again to resume\n"
    assert said.err == (resume if arrived else "error: it is lost\n")

"""Studies whose processes are killed or told to end: the same command goes on, nothing is left."""

import os
import pty
import random
import select
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drivers import Driver, check_steady, recomputed_epochs, wait_until

import kdtune
from kdtune.config.study import Study
from kdtune.storage.records import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
THRICE = "its worker died 3 times"
"""Also if two of the three died before Tune has started the trial again."""
ALPHAS, REPEATS = (0.25, 0.5, 1.0), 4


def make(tmp_path: Path, **changes: Any) -> Study:
    own: dict[str, Any] = {"space": {"alpha": ALPHAS}, "baseline": {"alpha": 1.0}}
    own |= {"repeats": REPEATS, "epochs": 8, "out": str(tmp_path / "runs"), "name": "s"}
    return Study(train="own_functions:steady", **own | changes)


def check_numbers(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare a study with the function called alone; each trial has completed once."""
    check_steady(study, tmp_path, monkeypatch)
    ends = [line for line in read_lines(study.folder)[0] if line["kind"] == "end"]
    completed = [line["trial_id"] for line in ends if line["status"] == "completed"]
    assert sorted(completed) == sorted(kdtune.load(study.folder).trials.trial_id)
    for line in ends:  # a worker that is killed three times is the only other end
        assert line["status"] == "completed" or line["error"] == THRICE, line


def test_a_study_whose_processes_are_killed_20_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Driver, workers and Ray's own processes, at random moments; the seed replays it."""
    seed, kills, starts = 16, 0, 0
    dice, study = random.Random(seed), make(tmp_path)
    done = False
    while not done:
        starts += 1
        assert starts < 25
        with Driver(study, tmp_path / "d", {"KDTUNE_TEST_SECONDS": "0.3"}) as driver:
            while kills < 20 and driver.process.poll() is None:
                until = driver.epochs() + dice.randint(1, 6)
                wait_until(
                    lambda n=until: driver.epochs() >= n or driver.process.poll() is not None
                )
                target = dice.choice(["worker", "worker", "driver", "raylet"])
                if target == "worker":
                    victims = dice.sample(driver.workers(), min(1, len(driver.workers())))
                elif target == "driver":
                    victims = [driver.process.pid]
                else:
                    victims = driver.pids("/raylet ")[:1]
                for pid in victims:
                    if driver.process.poll() is None:
                        os.kill(pid, signal.SIGKILL)
                        kills += 1
                if target != "worker" and victims:
                    break
            code = driver.wait()
            said = driver.said()
            assert code in (0, 1, -signal.SIGKILL), said
            assert code != 1 or "error: Ray's process raylet has ended" in said, said
            done = code == 0
        if done and kills < 20:  # it was too fast: a larger study goes on
            study = make(tmp_path, repeats=study.repeats + 2)
            done = False
    check_numbers(study, tmp_path, monkeypatch)
    assert max(map(len, recomputed_epochs(study.folder).values())) <= kills


def memory() -> tuple[int, int]:
    """Return the memory of this machine, and how much of it is available, in bytes."""
    values = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    return int(values["MemTotal:"]) * 1024, int(values["MemAvailable:"]) * 1024


def test_a_run_for_which_the_memory_of_the_machine_does_not_suffice(tmp_path: Path) -> None:
    """Ray's memory monitor kills it and ends Tune; the other runs go on."""
    total, available = memory()
    if available < 8 * 2**30:
        pytest.skip("needs 8 GiB of free memory")
    share = (total - available + 3 * 2**30) / total
    own = {"RAY_memory_usage_threshold": f"{share:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    space = {"alpha": (0.25, 0.75, 1.0)}
    study = replace(make(tmp_path, space=space, repeats=1, epochs=2), train="own_functions:bloats")
    with Driver(study, tmp_path / "d", own) as driver:
        assert driver.wait(300) == 0, driver.said()
        said = driver.said()
        assert driver.left() == []
    assert "running low on memory" in said and "Traceback" not in said
    trials = kdtune.load(study.folder).trials.set_index("config/alpha")
    assert trials.status.to_dict() == {0.25: "completed", 0.75: "failed", 1.0: "completed"}
    assert "Ray's memory monitor killed it for lack of memory" in trials.error[0.75]
    assert "smaller batch size" in trials.error[0.75]


@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_lost_ray_is_one_sentence(process: str, tmp_path: Path) -> None:
    with Driver(make(tmp_path), tmp_path / "d", {"KDTUNE_TEST_SECONDS": "0.6"}) as driver:
        wait_until(lambda: driver.epochs() > 3)
        for pid in driver.pids(f"/{process} "):
            os.kill(pid, signal.SIGKILL)
        assert driver.wait() == 1
        said = driver.said()
        assert said.rstrip().splitlines()[-1] == (
            f"error: Ray's process {process} has ended (it was killed, perhaps for lack of memory, "
            f"or has crashed); run the same command again to resume"
        )
        assert "Traceback" not in said
        assert driver.left() == []


def wait_for(when: str, driver: Driver) -> None:
    starts = when == "Ray starts"
    wait_until(lambda: driver.pids("/gcs_server ") if starts else driver.epochs() > 3)


def tell(driver: Driver, how: str) -> None:
    """Send a signal to a driver; "all" signals Ray's processes as well, as a closed terminal does.

    So do `timeout` and batch systems.
    """
    name, _, whom = how.partition(" ")
    number = getattr(signal, name)
    if whom == "all":
        os.killpg(driver.process.pid, number)
        return
    driver.process.send_signal(number)
    if whom == "twice":
        time.sleep(0.4)
        driver.process.send_signal(number)


WAYS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGTERM all", "SIGHUP all", "SIGTERM background")
STARTS, TRAINED = "Ray starts", "runs are trained"
IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""As the shell starts `python -m kdtune.search &` in a script."""


@pytest.mark.parametrize(
    ("when", "how"),
    [*((when, how) for when in (STARTS, TRAINED) for how in WAYS), (TRAINED, "SIGINT twice")],
)
def test_a_study_that_is_told_to_end(when: str, how: str, tmp_path: Path) -> None:
    code = IGNORED if "background" in how else ""
    with Driver(make(tmp_path), tmp_path / "d", {"KDTUNE_TEST_SECONDS": "0.6"}, code) as driver:
        wait_for(when, driver)
        tell(driver, how)
        assert driver.wait() == 130, driver.said()
        said = driver.said()
        assert "run the same command again to resume" in said and "Traceback" not in said
        if "all" in how:
            assert "error: " not in said and said.count("So far: ") == (when == TRAINED)
        if when == TRAINED and how in WAYS[:3]:
            assert "So far: " in said
        assert driver.left() == []


@pytest.mark.parametrize("when", [STARTS, TRAINED])
def test_a_terminal_that_is_closed(when: str, tmp_path: Path) -> None:
    """The system sends SIGHUP, and whatever is printed after it fails."""
    study, screen = make(tmp_path), list[bytes]()
    own_end, terminal = pty.openpty()
    with Driver(study, tmp_path / "d", {"KDTUNE_TEST_SECONDS": "0.6"}, "", terminal) as driver:
        os.close(terminal)
        reader = threading.Thread(target=lambda: screen.extend(iter(lambda: read(own_end), b"")))
        reader.start()
        wait_for(when, driver)
        os.close(own_end)
        reader.join()
        assert driver.wait() == 130, b"".join(screen)
        assert driver.left() == []
        before = driver.epochs()
        assert b"Traceback" not in b"".join(screen)
    with Driver(study, tmp_path / "again") as driver:
        assert driver.wait() == 0, driver.said()
        assert driver.epochs() > before


def read(terminal: int) -> bytes:
    """Return what a terminal shows next; nothing once it is closed."""
    try:
        while not select.select([terminal], [], [], 0.2)[0]:
            os.fstat(terminal)
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_ctrl_c_during_the_end_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call writes what is missing, and runs nothing."""
    study = make(tmp_path, repeats=2)
    with Driver(study, tmp_path / "d", {"KDTUNE_TEST_SECONDS": "0"}) as driver:
        wait_until(lambda: sum(x["kind"] == "end" for x in read_lines(study.folder)[0]) == 6)
        wait_until(lambda: (study.folder / "epochs.parquet").exists())
        driver.process.send_signal(signal.SIGINT)
        code = driver.wait()
        assert code in (0, 130) and "Traceback" not in driver.said(), driver.said()
        assert driver.left() == []
    before = read_lines(study.folder)[0]
    with monkeypatch.context() as patch:
        patch.setattr("kdtune.raytune.driver.ray_session", None)  # Ray is not even started
        kdtune.run(study)
    assert read_lines(study.folder)[0] == before
    assert (study.folder / "summary.md").exists() and not list(study.folder.glob("*.part"))
    check_numbers(study, tmp_path, monkeypatch)


JUMPING = """
import random, time
_real, _dice = time.time, random.Random(16)
time.time = lambda: _real() + _dice.choice([0, -86_400, 86_400])
"""


def test_a_driver_whose_clock_jumps_by_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(tmp_path, repeats=2)
    with Driver(study, tmp_path / "d", {"KDTUNE_TEST_SECONDS": "0"}, code=JUMPING) as driver:
        assert driver.wait(200) == 0, driver.said()
        assert driver.left() == []
    results = kdtune.load(study.folder)
    assert (results.epochs.seconds >= 0).all() and (results.trials.seconds >= 0).all()
    assert "-86" not in results.text()
    check_numbers(study, tmp_path, monkeypatch)

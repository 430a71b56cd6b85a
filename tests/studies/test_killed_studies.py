"""Studies whose processes are killed or told to end: the same command goes on, nothing is left."""

import os
import random
import signal
import time
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
        with Driver(study, tmp_path / "d", 0.3) as driver:
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
                    victims = list(driver.processes("/raylet "))[:1]
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
    with Driver(make(tmp_path), tmp_path / "d", 0.6, code) as driver:
        starts = when == STARTS
        wait_until(lambda: driver.processes("/gcs_server ") if starts else driver.epochs() > 3)
        tell(driver, how)
        assert driver.wait() == 130, driver.said()
        said = driver.said()
        assert "run the same command again to resume" in said and "Traceback" not in said
        if "all" in how:
            assert "error: " not in said and said.count("So far: ") == (when == TRAINED)
        if when == TRAINED and how in WAYS[:3]:
            assert "So far: " in said
        assert driver.left() == []

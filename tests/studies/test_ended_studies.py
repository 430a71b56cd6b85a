"""Studies whose processes are told to end: nothing is left. experiments/soak.py kills them."""

import os
import signal
import time
from pathlib import Path

import pytest
from drivers import Driver, wait_until
from own_functions import study_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
    changes = {"space": {"alpha": (0.25, 0.5, 1.0)}, "repeats": 4, "epochs": 8}
    study = study_of("own_functions:steady", tmp_path / "runs", **changes)
    with Driver(study, tmp_path / "d", 0.6, code) as driver:
        starts = when == STARTS
        wait_until(lambda: driver.processes("/gcs_server ") if starts else driver.epochs() > 3)
        name, _, whom = how.partition(" ")
        number = getattr(signal, name)
        if whom == "all":  # also Ray's processes, as a closed terminal, `timeout`, a batch system
            os.killpg(driver.process.pid, number)
        else:
            driver.process.send_signal(number)
        if whom == "twice":
            time.sleep(0.4)
            driver.process.send_signal(number)
        assert driver.wait() == 130, driver.said()
        said = driver.said()
        assert "run the same command again to resume" in said and "Traceback" not in said
        if "all" in how:
            assert "error: " not in said and said.count("So far: ") == (when == TRAINED)
        if when == TRAINED and how in WAYS[:3]:
            assert "So far: " in said
        assert driver.left() == []

"""experiments/soak.py: what its comparison finds, that it replays, and a soak of a minute."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from soak_processes import below

SOAK = Path(__file__).parents[2] / "experiments" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_soak_of_a_minute_finds_no_difference_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    flags = ["--minutes", "1", "--only", "grid,folder", "--out", str(out), "--seed", "1"]
    done = subprocess.run([sys.executable, str(SOAK), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((out / "soak.json").read_text())
    assert values["studies"] and all(sum(s["faults"].values()) for s in values["studies"])
    assert "| differences | 0 |" in (out / "soak.md").read_text()
    assert not [p for p in below(os.getpid()) if str(out) in p.command]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_soak_that_is_interrupted_ends_what_it_has_started(tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), "--only", "grid", "--out", str(tmp_path / "soak")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as soak:
        started: list = []
        while len(started) < 4 and soak.poll() is None:
            started = below(soak.pid)
            time.sleep(0.2)
        soak.send_signal(signal.SIGINT)
        soak.communicate(timeout=240)
    assert soak.returncode == 1
    left = [p for p in started if Path(f"/proc/{p.pid}").exists()]
    assert not left

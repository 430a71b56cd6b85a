"""experiments/soak.py: what its comparison finds, and a soak of three minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from soak_processes import below

SOAK = Path(__file__).parents[2] / "experiments" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_soak_of_minutes_finds_no_difference_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    flags = ["--minutes", "3", "--only", "grid,folder", "--out", str(out), "--seed", "1"]
    done = subprocess.run([sys.executable, str(SOAK), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((out / "soak.json").read_text())
    assert values["studies"] and all(sum(s["faults"].values()) for s in values["studies"])
    assert "| differences | 0 |" in (out / "soak.md").read_text()
    assert not [p for p in below(os.getpid()) if str(out) in p.command]

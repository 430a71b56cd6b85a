"""The numbers that every cluster must reproduce."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from lab import ROOT, SEARCH, numbers


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The cluster tests' study on this machine, without a cluster."""
    out = tmp_path_factory.mktemp("alone")
    words = SEARCH.replace("python", sys.executable, 1).split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(out / "cache")}
    command = [*words, "--out", str(out), "--name", "alone"]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return numbers(Path(out) / "alone")

"""The numbers that every cluster must reproduce."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from lab import ROOT, SEARCH, numbers


class Begun(NamedTuple):
    """A study that runs."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    log: Path


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """The cluster tests' study on this machine, which runs while a cluster comes up."""
    out = tmp_path_factory.mktemp("alone")
    words = SEARCH.replace("python", sys.executable, 1).split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(out / "cache")}
    command = [*words, "--out", str(out), "--name", "alone"]
    log = out / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=out, env=environment, stdout=file, stderr=file)
    yield Begun(process, out / "alone", log)
    if process.poll() is None:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def alone(begun: Begun) -> pd.DataFrame:
    """The numbers of the cluster tests' study without a cluster."""
    assert begun.process.wait(300) == 0, begun.log.read_text()
    return numbers(begun.folder)

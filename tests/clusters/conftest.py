"""The hosts of a file of tests, and the numbers that every cluster must reproduce."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from drivers import numbers
from hosts import Hosts
from lab import ROOT, SEARCH


@pytest.fixture(scope="module")
def hosts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosts]:
    """The hosts that a file of tests asks for as `HOSTS`."""
    hosts = Hosts(tmp_path_factory.mktemp("hosts"), **request.module.HOSTS)
    yield hosts
    hosts.down()


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """The cluster tests' study on this machine, which runs while a cluster comes up."""
    out = tmp_path_factory.mktemp("alone")
    words = [sys.executable, *SEARCH.split()[1:], "--out", str(out), "--name", "alone"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(out / "cache")}
    with (out / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=out, env=environment, stdout=log, stderr=log)
    yield process, out
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def alone(begun: tuple[Any, Path]) -> pd.DataFrame:
    """The numbers of the cluster tests' study without a cluster."""
    process, out = begun
    assert process.wait(900) == 0, (out / "log").read_text()
    return numbers(out / "alone")

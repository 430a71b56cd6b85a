"""A real cluster: `ray up` over ssh and hosts that fail, compared with the numbers of one machine.

The hosts are simulated by namespaces (hosts.py). Needs root: python -m pytest -m cluster
"""

import re
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from drivers import epochs, numbers, wait_until
from hosts import Hosts
from lab import ON_HOSTS, SEARCH, UP, Cluster, check_faults, ended, local_config, search

import kdtune
from kdtune.storage.records import read_lines

pytestmark = [*ON_HOSTS, pytest.mark.slow]
HOSTS = {"count": 3}


@pytest.fixture(scope="module")
def local(begun: Any, hosts: Hosts) -> Cluster:
    """experiments/cluster_local.yaml, up: h0 is the head, h1 and h2 are workers."""
    cluster = Cluster(hosts)
    cluster.up(local_config(hosts))
    return cluster


@pytest.fixture(scope="module")
def one(local: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study with one GPU, which runs while other tests ask the cluster for other things."""
    words = search("one", "--gpus 1").replace("--repeats 2", "--repeats 1")
    log = tmp_path_factory.mktemp("one") / "log"
    return local.begin(words, log), log


def test_a_study_over_three_machines_equals_one(local: Cluster, alone: pd.DataFrame) -> None:
    said = local.user(search("three"))
    folder = local.hosts.shared / "runs" / "three"
    for name in ("h0", "h1", "h2"):
        assert f"({name})" in said  # a row of the table
    pd.testing.assert_frame_equal(numbers(folder), alone, check_exact=True)
    assert set(kdtune.load(folder).trials.node) == {"h0", "h1", "h2"}


@pytest.mark.usefixtures("one")
def test_a_job_is_submitted_and_results_are_brought_home(local: Cluster) -> None:
    """The study is complete already: its table is all there is to do."""
    job = f"{SEARCH} --address auto --out /mnt/shared/runs --name three"
    said = local.user(
        "ray dashboard cluster.yaml >/dev/null 2>&1 & at=http://localhost:8265; "
        "until ray job list --address $at >/dev/null 2>&1; do sleep 1; done; "
        f"ray job submit --address $at -- {job}; code=$?; kill %1; exit $code"
    )
    assert "succeeded" in said and "Best configuration: " in said
    local.user("mkdir -p ~/runs; ray rsync-down cluster.yaml /mnt/shared/runs/three/ ~/runs/three/")
    here = local.user("PYTHONPATH=$PWD python -m kdtune.analysis ~/runs/three")
    assert "Best configuration: " in here


@pytest.mark.usefixtures("one")
def test_a_folder_that_the_others_do_not_see_is_refused(local: Cluster) -> None:
    said = local.user(search("unseen", out="/root/runs") + "; echo code $?")
    assert "code 1" in said  # of ray exec, which hides kdtune's 2
    for name in ("h1", "h2"):
        assert f"({name}): does not see what the driver wrote into /root/runs/unseen" in said
    assert local.hosts.run("h0", "ls /root/runs/unseen/epochs 2>&1; true").count(".jsonl") == 0


@pytest.mark.usefixtures("one")
def test_a_stranger_without_the_token_is_refused(local: Cluster, tmp_path: Path) -> None:
    head = local.hosts.addresses["h0"]
    tries = []
    # at the same time: Ray tries for most of a minute
    for log, address in (
        (tmp_path / "gcs", f"{head}:6379"),
        (tmp_path / "client", f"ray://{head}:10001"),
    ):
        code = f"import ray; ray.init(address='{address}'); print(ray.nodes())"
        words = f'timeout 60 python -c "{code}" 2>&1 || echo REFUSED'
        stranger = f"export RAY_AUTH_MODE=disabled HOME=/mnt; {words}"
        tries.append((local.hosts.start("ctl", stranger, log), log))
    for process, log in tries:
        assert process.wait(120) == 0
        said = log.read_text(errors="replace")
        assert "REFUSED" in said and "NodeID" not in said, said
        assert re.search("Unauthenticated|authentication|Failed to connect|ConnectionError", said)
    # the dashboard listens on the head's loopback only, and asks there for the token, too
    for where, url, refused in (("ctl", head, "000"), ("h0", "127.0.0.1", "401")):
        ask = f"curl -s -o /dev/null -m 10 -w '%{{http_code}}' http://{url}:8265/api/jobs/ || true"
        assert local.hosts.run(where, ask).strip() == refused


def test_a_study_takes_only_the_gpus_it_may(local: Cluster, one: Any, alone: pd.DataFrame) -> None:
    driver, log = one
    assert "2 runs, 1 at a time" in ended(driver, log)
    folder = local.hosts.shared / "runs" / "one"
    first = alone[alone.trial_id.str.endswith("-r00")].reset_index(drop=True)
    pd.testing.assert_frame_equal(numbers(folder), first, check_exact=True)
    kinds = [line["kind"] for line in read_lines(folder)[0] if line["kind"] != "epoch"]
    assert kinds == ["start", "end", "start", "end"]  # one after the other


def test_a_machine_is_powered_off_and_on_and_another_is_cut_off(
    local: Cluster, alone: pd.DataFrame, tmp_path: Path
) -> None:
    folder = local.hosts.shared / "runs" / "faults"
    log = tmp_path / "log"
    driver = local.begin(search("faults"), log)
    wait_until(lambda: epochs(folder) > 5)
    local.hosts.off("h2")
    time.sleep(3)
    local.hosts.on("h2")
    time.sleep(5)
    local.hosts.cut("h1")
    time.sleep(40)
    local.hosts.plug("h1")
    said = ended(driver, log)
    assert said.count("10.77.0.12 (h2) was lost; its runs resume from their last checkpoint") == 1
    check_faults(folder, alone, most=2)


def test_the_head_is_powered_off_and_the_same_command_goes_on(
    local: Cluster, alone: pd.DataFrame, tmp_path: Path
) -> None:
    folder = local.hosts.shared / "runs" / "head"
    driver = local.begin(search("head"), tmp_path / "log")
    wait_until(lambda: epochs(folder) > 5)
    local.hosts.off("h0")
    driver.wait(120)
    local.hosts.on("h0")
    local.user("ray down cluster.yaml -y")
    local.user(UP)
    local.user(search("head"))
    check_faults(folder, alone, most=1)

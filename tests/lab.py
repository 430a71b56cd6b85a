"""A cluster of simulated hosts as a user has one: the commands typed, and what a study leaves."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from drivers import numbers, recomputed_epochs
from hosts import Hosts, call, why_not

from kdtune.storage.records import read_lines

ROOT = Path(__file__).parent.parent
ON_HOSTS = [
    pytest.mark.cluster,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]
"""Marks of a file of tests that need simulated hosts, and so root."""
UP = "ray up cluster.yaml -y --no-config-cache --disable-usage-stats"
SEARCH = (
    "python -m kdtune.search --train-images 2000 --batch-size 8 --epochs 24 --teacher-epochs 2 "
    "--repeats 2 --alpha 0.1 1 --temperature 4"
)
"""Four trials, of a quarter of a minute each where three share two cores; the epochs are long
enough that a checkpoint is written after each."""


def copy_checkout(hosts: Hosts) -> Path:
    """Copy the checkout of these tests to /mnt/shared/checkout of the hosts."""
    listed = call("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").split()
    for name in filter(lambda name: (ROOT / name).exists(), listed):
        (hosts.shared / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, hosts.shared / "checkout" / name)
    return hosts.shared / "checkout"


class Cluster:
    """Hosts, a checkout on the user's computer, and a cluster file in it."""

    def __init__(self, hosts: Hosts, environment: str = ""):
        self.hosts, self.checkout = hosts, copy_checkout(hosts)
        self._environment = environment
        hosts.run("ctl", "umask 077; ray get-auth-token --generate")

    def up(self, config: dict[str, Any]) -> None:
        (self.checkout / "cluster.yaml").write_text(yaml.safe_dump(config))
        self.user(UP)

    def user(self, command: str, seconds: float = 300, ok: tuple[int, ...] = (0,)) -> str:
        """Run a command that the user types in the checkout."""
        return self.hosts.run("ctl", self._typed(command), seconds, ok)

    def begin(self, command: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start a command that the user types in the checkout."""
        return self.hosts.start("ctl", self._typed(command), log)

    def _typed(self, command: str) -> str:
        # TERM=dumb: lines, no bar
        start = f"cd /mnt/shared/checkout; export RAY_AUTH_MODE=token TERM=dumb; {command}"
        return f"{self._environment}\n{start}"


def local_config(hosts: Hosts) -> dict[str, Any]:
    """Return experiments/cluster_local.yaml for hosts: h0 is the head, all others are workers.

    Each of one core, and of one GPU to Ray, which torch does not see.
    """
    file = (ROOT / "experiments" / "cluster_local.yaml").read_text()
    config: dict[str, Any] = yaml.safe_load(file)
    head, *workers = (a for name, a in hosts.addresses.items() if name != "ctl")
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"]["ssh_user"] = "root"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = config[name][1].replace("ray start ", "ray start --num-cpus=1 --num-gpus=1 ")
        config[name][1] = start  # each would take this machine's for its own
    return config


def search(name: str, flags: str = "", out: str = "/mnt/shared/runs") -> str:
    command = f"TERM=dumb {SEARCH} {flags} --address auto --out {out} --name {name}"
    return f"ray exec cluster.yaml '{command}'"


def ended(driver: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait for the successful end of a driver and return what it has printed, in one line.

    `ray exec` gives it a terminal, which breaks lines.
    """
    code, said = driver.wait(400), log.read_text(errors="replace")
    assert code == 0, said[-4000:]
    return " ".join(said.split())


def check_faults(folder: Path, alone: pd.DataFrame, most: int) -> None:
    """Check that each trial ended once, with the numbers of one machine.

    Args:
        folder: of the study on the cluster.
        alone: the numbers of the same study on one machine.
        most: how many epochs of a trial may be computed twice.
    """
    pd.testing.assert_frame_equal(numbers(folder), alone, check_exact=True)
    lines = read_lines(folder)[0]
    ends = [line["trial_id"] for line in lines if line["kind"] == "end"]
    assert sorted(ends) == sorted(alone.trial_id.unique())
    assert max(map(len, recomputed_epochs(folder).values()), default=0) <= most

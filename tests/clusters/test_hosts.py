"""The machines of the cluster tests (hosts.py)."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import Hosts, call, why_not

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(120),
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]

KILLED = """import os, signal, sys
from pathlib import Path
from hosts import Hosts
Hosts(Path(sys.argv[1]), 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def left() -> str:
    """What this machine has of others: networks, cables, disks and processes."""
    disks = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "kdt-" in line]
    cables = call("ip", "-o", "link", "show", "type", "veth")
    inits = subprocess.run(["pgrep", "-f", "host_init.sh|lab_host_key"], capture_output=True)
    return "\n".join([call("ip", "netns"), cables, *disks, inits.stdout.decode()]).strip()


def test_machines_of_a_killed_test_run_are_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "next").mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    killed = subprocess.run(command, cwd=Path(__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL
    assert "kdt-h0" in left() and "kdt-sw" in left()
    Path("/run/netns/kdt-h1").touch()  # a name whose machine went with its kernel

    hosts = Hosts(tmp_path / "next", 2)
    try:
        assert hosts.run("ctl", "ssh -qo StrictHostKeyChecking=no 10.77.0.11 hostname") == "h1\n"
    finally:
        hosts.down()
    assert left() == ""

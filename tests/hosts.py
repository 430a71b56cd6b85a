"""Simulated hosts on one machine: namespaces, each with its address, processes, disk and sshd.

`ctl` (10.77.0.2) is the user's computer, h0, h1, ... (10.77.0.10, ...) are the nodes, on a bridge
that leads nowhere else. Needs root and openssh-server, rsync, iproute2, util-linux. All see this
machine's cores and memory; a chroot is no security boundary.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

INIT = Path(__file__).parent / "host_init.sh"
LOCK = Path("/run/kdtune-hosts.lock")
SWITCH = "kdt-sw"
PROBE = """exec >/dev/null 2>&1
set -e
ip link add v0 type veth peer v1
ip link add br0 type bridge
mount -t tmpfs disk /mnt
mkdir /mnt/up /mnt/work /mnt/root /mnt/pts
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work /mnt/root
mount -t devpts -o newinstance devpts /mnt/pts
test -e "/mnt/root$1"
"""
"""What a machine is made of (host_init.sh); of what it makes nothing stays."""


def why_not() -> str | None:
    """Return why hosts cannot be simulated here; None if they can."""
    if os.geteuid() != 0:
        return "needs root, to make machines out of namespaces"
    tools = ("ip", "unshare", "nsenter", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (openssh-server, rsync, iproute2, util-linux)"
    inside = ["unshare", "--mount", "--net", "--pid", "--fork", "bash", "-c", PROBE, "probe"]
    if subprocess.run([*inside, sys.prefix]).returncode == 0:
        return None
    return f"needs a kernel that lets it make namespaces, and {sys.prefix} on the disk of /"


class Hosts:
    """The machines, from their making to `down`; of two test runs at once, one waits.

    Args:
        folder: their disks, keys and the folder that they share, /mnt/shared.
        count: nodes beside `ctl`.
        bashrc: lines for every ~/.bashrc.
    """

    def __init__(self, folder: Path, count: int, bashrc: str = ""):
        self.folder, self.venv = folder, Path(sys.prefix)
        self.shared = folder / "shared"
        self.addresses = {"ctl": "10.77.0.2"} | {f"h{i}": f"10.77.0.1{i}" for i in range(count)}
        self._outer: dict[str, subprocess.Popen[bytes]] = {}
        (self.shared / "wheels").mkdir(parents=True)
        (self.shared / "bashrc").write_text(bashrc)
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
        # what pip needs to build kdtune from a checkout
        wheels = self.shared / "wheels"
        call(sys.executable, "-m", "pip", "download", "-q", "-d", wheels, "hatchling")
        self._lock = LOCK.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        sweep()  # who holds the lock owns them all: these are of a run that was killed
        try:
            call("ip", "netns", "add", SWITCH)
            call("ip", "-n", SWITCH, "link", "add", "br0", "type", "bridge")
            call("ip", "-n", SWITCH, "link", "set", "br0", "up")
            for name in self.addresses:
                self._add_cable(name)
                self.on(name)
        except BaseException:
            self.down()
            raise

    def _add_cable(self, name: str) -> None:
        space = f"kdt-{name}"
        call("ip", "netns", "add", space)
        call("ip", "link", "add", f"v{name}", "type", "veth", "peer", "eth0", "netns", space)
        call("ip", "link", "set", f"v{name}", "netns", SWITCH)
        call("ip", "-n", SWITCH, "link", "set", f"v{name}", "master", "br0", "up")
        call("ip", "-n", space, "link", "set", "lo", "up")
        call("ip", "-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        call("ip", "-n", space, "link", "set", "eth0", "up")

    def on(self, name: str) -> None:
        home = self.folder / name
        disk = home / "disk"
        disk.mkdir(parents=True, exist_ok=True)
        if not disk.is_mount():  # here, not in the machine, so that it outlives a power cut
            call("mount", "-t", "tmpfs", "-o", "size=1500m,mode=755", f"kdt-{name}", disk)
        (home / "ready").unlink(missing_ok=True)
        space = ["ip", "netns", "exec", f"kdt-{name}", "unshare", "--mount", "--pid", "--uts"]
        init = [str(INIT), name, self.addresses[name], str(self.folder), str(self.venv)]
        with (home / "init.log").open("ab") as log:
            self._outer[name] = subprocess.Popen(
                [*space, "--ipc", "--fork", "--kill-child", *init],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + 20
        while not (home / "ready").exists():
            assert time.monotonic() < until, (home / "init.log").read_text()
            time.sleep(0.05)

    def off(self, name: str) -> None:
        """Cut a machine's power: all of its processes end; its disk stays."""
        outer = self._outer.pop(name)
        if outer.poll() is None:
            os.kill(self._pid(outer), signal.SIGKILL)
            outer.wait()

    def wipe(self, name: str) -> None:
        """Take the disk of a machine that is off: it comes back as a new one."""
        call("umount", "-l", self.folder / name / "disk")

    def cut(self, name: str) -> None:
        """Pull a machine's network cable."""
        call("ip", "-n", SWITCH, "link", "set", f"v{name}", "down")

    def plug(self, name: str) -> None:
        call("ip", "-n", SWITCH, "link", "set", f"v{name}", "up")

    def start(self, name: str, command: str, log: Path | None = None) -> "subprocess.Popen[bytes]":
        """Begin a command in a machine, as root in a shell; its output goes to the log."""
        enter = ["nsenter", "-t", str(self._pid(self._outer[name])), "-m", "-p", "-u", "-i", "-n"]
        path = f"{self.venv / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["env", "-i", f"PATH={path}", "HOME=/root", "USER=root", "LANG=C.UTF-8"]
        out = subprocess.DEVNULL if log is None else log.open("ab")
        return subprocess.Popen(
            [*enter, "-r", "-w", *clean, "TERM=xterm", "bash", "-c", f"cd; {command}"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def run(self, name: str, command: str, seconds: float = 120, ok: tuple[int, ...] = (0,)) -> str:
        """Run a command in a machine; returns its output, fails where its exit code is not ok."""
        log = self.folder / name / "run.log"
        log.unlink(missing_ok=True)
        process = self.start(name, command, log)
        try:
            code: int | str = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = f"none in {seconds} s"
        text = log.read_text(errors="replace")
        assert code in ok, f"{name}: {command}: exit code {code}\n{text[-6000:]}"
        return text

    def outer_pids(self) -> set[int]:
        """Return the processes below which all others of the machines are."""
        return {outer.pid for outer in self._outer.values()}

    def down(self) -> None:
        """Power all off, and leave nothing behind."""
        for name in list(self._outer):
            self.off(name)
        sweep()
        self._lock.close()

    def _pid(self, outer: "subprocess.Popen[bytes]") -> int:
        """The machine's pid 1, as this machine counts: the only child of unshare."""
        return int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])


def sweep() -> None:
    """End the processes of all machines, and remove their networks and disks."""
    for space in Path("/run/netns").glob("kdt-*"):
        # none where only the name outlived its machine
        pids = subprocess.run(["ip", "netns", "pids", space.name], capture_output=True, text=True)
        for pid in map(int, pids.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        call("ip", "netns", "del", space.name)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, target = line.split()[:2]
        if source.startswith("kdt-"):
            call("umount", "-l", target)


def call(*command: object) -> str:
    """Run a command on this machine; returns its output."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout

"""experiments/slurm.sh under a real Slurm on simulated hosts (hosts.py).

Needs root: python -m pytest -m cluster
"""

import re
import shutil

import pytest
from drivers import epochs, recomputed_epochs, wait_until
from hosts import Hosts
from lab import ON_HOSTS, copy_checkout

import kdtune
from kdtune.storage.records import read_lines

TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
missing = [tool for tool in TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin") is None]
pytestmark = [
    *ON_HOSTS,
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # its waits add up to more than that of other tests
    pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)} (of Slurm and munge)"),
]
NODES = ("h0", "h1", "h2")
HOSTS = {"count": len(NODES)}
TEMPORARY = "/tmp/of-jobs"
CONF = """ClusterName=kdtune
SlurmctldHost=h0(10.77.0.10)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/lib/slurm-state
SlurmdSpoolDir=/var/lib/slurmd-spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=10
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def start_slurm(hosts: Hosts) -> None:
    """Start Slurm on the nodes, each of one core, and wait until they are idle."""
    nodes = {name: hosts.addresses[name] for name in NODES}
    lines = [f"NodeName={n} NodeAddr={a} CPUs=1 RealMemory=2000\n" for n, a in nodes.items()]
    (hosts.shared / "slurm.conf").write_text(CONF + "".join(lines))
    table = "".join(f"{address} {name}\\n" for name, address in nodes.items())
    prepare = (
        f"printf '{table}' >> /etc/hosts; cp /mnt/shared/slurm.conf /etc/slurm/;"
        "echo CgroupPlugin=disabled > /etc/slurm/cgroup.conf;"
        "install -d -m 755 -o munge /run/munge; install -d -m 700 -o munge /var/log/munge;"
        "su munge -s /bin/sh -c /usr/sbin/munged;"
    )
    for name in NODES:
        hosts.run(name, prepare)
    hosts.run("h0", "mkdir -p /var/lib/slurm-state; slurmctld")
    for name in NODES:
        hosts.run(name, "slurmd")
    hosts.run("h0", f"until [ $(sinfo -h -N -t idle | wc -l) = {len(NODES)} ]; do sleep 0.2; done")


STUDY = (
    "--train-images 2000 --batch-size 16 --epochs 8 --teacher-epochs 1 --repeats 3 --alpha 0.1 1 "
    "--temperature 4 --out /mnt/shared/runs"
)
"""Six trials, two for each of the three nodes."""
EDITS = {
    r"^#SBATCH --nodes=\d+": "#SBATCH --nodes=3",
    r"^#SBATCH --gpus-per-node.*\n": "",
    r"^#SBATCH --cpus-per-task=\d+": "#SBATCH --cpus-per-task=1",
    r"^#SBATCH --mem=\w+": "#SBATCH --mem=1500M",
    r"^#SBATCH --time=\S+": "#SBATCH --time=00:30:00",
}
"""The lines marked <-, as a user edits them."""


class Jobs:
    """Slurm as its user sees it, on h0, in a checkout on the shared folder."""

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        script = copy_checkout(hosts) / "experiments" / "slurm.sh"
        text = script.read_text()
        for old, new in EDITS.items():
            text, count = re.subn(old, new, text, flags=re.MULTILINE)
            assert count == 1, old
        script.write_text(text)
        for name in NODES:
            hosts.run(name, f"mkdir -m 1777 {TEMPORARY}")

    def submit(self, flags: str) -> str:
        """Submit a study; return the id of the job."""
        setting = f"export PYTHONPATH=$PWD TERM=dumb TMPDIR={TEMPORARY}"
        words = f"sbatch --parsable --output=/mnt/shared/%j.log experiments/slurm.sh {flags}"
        return self.hosts.run("h0", f"cd /mnt/shared/checkout; {setting}; {words}").strip()

    def show(self, job: str) -> dict[str, str]:
        said = self.hosts.run("h0", f"scontrol show job {job}")
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def log(self, job: str) -> str:
        file = self.hosts.shared / f"{job}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def ends_with(self, job: str, code: int, seconds: float = 400) -> None:
        """Wait for the end of a job; check its exit code, and that it leaves nothing behind."""
        active = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}
        wait_until(lambda: self.show(job)["JobState"] not in active, seconds)
        assert self.show(job)["ExitCode"] == f"{code}:0", self.log(job)[-6000:]
        assert "Killed" not in self.log(job)  # each Ray node ended by itself
        for name in NODES:
            assert self.on(name, f"ls {TEMPORARY} | grep slurm-kdtune") == []
            assert self.on(name, "pgrep -af 'ray|kdtune' | grep -v pgrep") == []

    def on(self, name: str, command: str) -> list[str]:
        return self.hosts.run(name, f"{command}; true").splitlines()


@pytest.fixture(scope="module")
def jobs(hosts: Hosts) -> Jobs:
    start_slurm(hosts)
    return Jobs(hosts)


def test_a_study_is_stopped_and_resumed_by_the_next_job(jobs: Jobs) -> None:
    folder = jobs.hosts.shared / "runs" / "study"
    first = jobs.submit(f"{STUDY} --name study")
    wait_until(lambda: epochs(folder) > 1, 480)
    check_that_strangers_are_kept_out(jobs)
    jobs.hosts.run("h0", f"scancel --batch --signal=TERM {first}")
    jobs.ends_with(first, 130)
    assert "; run the same command again to resume" in jobs.log(first)
    begun = {line["trial_id"] for line in read_lines(folder)[0] if line["kind"] == "epoch"}
    assert "completed" not in set(kdtune.load(folder).trials.status) and begun

    second = jobs.submit(f"{STUDY} --name study")
    jobs.ends_with(second, 0)
    trials = kdtune.load(folder).trials
    assert set(trials.status) == {"completed"} and len(trials) == 6
    # three short trials at a time: the node whose Ray starts last may find none left
    assert len(set(trials.node)) >= 2 and set(trials.node) <= set(NODES)
    assert max(map(len, recomputed_epochs(folder).values()), default=0) <= 1
    assert "Best configuration: " in jobs.log(second)


def check_that_strangers_are_kept_out(jobs: Jobs) -> None:
    """Others see neither the token nor Ray's files, and are refused without the token."""
    token = jobs.on("h0", "tr '\\0' '\\n' < /proc/$(pgrep -of 'm kdtune[.]search')/environ")
    secret = dict(line.split("=", 1) for line in token if "=" in line)["RAY_AUTH_TOKEN"]
    assert re.fullmatch("[0-9a-f]{64}", secret)
    for name in NODES:
        assert secret not in "\n".join(jobs.on(name, "ps -ww ax -o args"))
        (mode,) = jobs.on(name, f"stat -c %a {TEMPORARY}/slurm-kdtune-*")
        assert mode == "700"
    (address,) = jobs.on("h0", f"cat {TEMPORARY}/slurm-kdtune-*/ray/ray_current_cluster")
    ask = (
        "from ray._raylet import GcsClient; "
        f"print(GcsClient(address='{address}').internal_kv_keys(b'', b'session', timeout=10))"
    )
    answer = f'python -c "{ask}" 2>&1 | tail -1'
    refused = jobs.on("h1", f"RAY_AUTH_MODE=disabled {answer}")
    assert any("nauthenticated" in line or "uthentication" in line for line in refused), refused
    allowed = jobs.on("h1", f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={secret} {answer}")
    assert "session_name" in allowed[-1], allowed


def test_a_node_that_does_not_join_is_named(jobs: Jobs) -> None:
    """On h2 Ray cannot be started; what it said there is in the log of the job."""
    broken = jobs.hosts.shared / "broken"
    broken.write_text("#!/bin/sh\necho no Ray here\nexit 1\n")
    broken.chmod(0o755)
    ray = jobs.hosts.venv / "bin" / "ray"
    jobs.hosts.run("h2", f"mount --bind /mnt/shared/broken {ray}")
    try:
        job = jobs.submit(f"{STUDY} --name unjoined")
        jobs.ends_with(job, 1, seconds=280)  # before JOIN_SECONDS
    finally:
        jobs.hosts.run("h2", f"umount {ray}")
    assert "\nh2: no Ray here\n" in f"\n{jobs.log(job)}"
    assert "error: Ray has ended on h2\n" in jobs.log(job)
    assert not (jobs.hosts.shared / "runs" / "unjoined").exists()


def test_it_refuses_to_run_without_sbatch(jobs: Jobs) -> None:
    said = jobs.hosts.run("h0", "bash /mnt/shared/checkout/experiments/slurm.sh", ok=(2,))
    assert said == "error: slurm.sh must be started by sbatch\n"

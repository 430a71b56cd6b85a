"""A real Slurm on the simulated hosts: h0 has the controller, every node a slurmd.

Needs the packages slurmctld, slurmd, slurm-client and munge beside those of hosts.py.
"""

import shutil

from hosts import Hosts

TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
CONF = """ClusterName=kdtune
SlurmctldHost={control}({address})
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
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def why_no_slurm() -> str | None:
    """Return why Slurm cannot be run here; None if it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin") is None]
    return (
        f"needs {', '.join(missing)} (slurmctld, slurmd, slurm-client, munge)" if missing else None
    )


def start_slurm(hosts: Hosts) -> None:
    """Start Slurm on the nodes, each of one core, and wait until they are idle."""
    nodes = {n: a for n, a in hosts.addresses.items() if n != "ctl"}
    control = next(iter(nodes))
    lines = (f"NodeName={n} NodeAddr={a} CPUs=1 RealMemory=2000" for n, a in nodes.items())
    text = CONF.format(
        control=control, address=nodes[control], nodes="\n".join(lines), names=",".join(nodes)
    )
    (hosts.shared / "slurm.conf").write_text(text)
    table = "".join(f"{address} {name}\\n" for name, address in nodes.items())
    prepare = (
        f"printf '{table}' >> /etc/hosts; cp /mnt/shared/slurm.conf /etc/slurm/;"
        "echo CgroupPlugin=disabled > /etc/slurm/cgroup.conf;"
        "install -d -m 755 -o munge /run/munge; install -d -m 700 -o munge /var/log/munge;"
        "su munge -s /bin/sh -c /usr/sbin/munged;"
    )
    for name in nodes:
        hosts.run(name, prepare)
    hosts.run(control, "mkdir -p /var/lib/slurm-state; slurmctld")
    for name in nodes:
        hosts.run(name, "slurmd")
    ready = f"until [ $(sinfo -h -N -t idle | wc -l) = {len(nodes)} ]; do sleep 0.2; done; sinfo"
    hosts.run(control, ready, seconds=60)

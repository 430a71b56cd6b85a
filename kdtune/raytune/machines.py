"""The machines of a Ray cluster: what they have, their checks, how many trials fit."""

import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import ray
import torch
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from kdtune import __version__
from kdtune.config.fields import takes_features
from kdtune.config.files import join_uri
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import check_signature, ends_of, is_importable, load_function, name_of
from kdtune.config.text import InputError, NodeMismatchError, RayLostError, first_line
from kdtune.data.arrays import with_extra
from kdtune.data.sources import load_data
from kdtune.models.registry import ObjectSource, source_digest
from kdtune.results.comparison import markdown
from kdtune.storage.store import RETRY_TIMEOUT_SECONDS, SHORT_RETRY_TIMEOUT_SECONDS, Store
from kdtune.streams.cache import Cache, device_name
from kdtune.streams.views import (
    check_gpus,
    check_precision,
    count_gpus,
    device_of,
    loader_workers,
    local_cpus,
    losses_of,
    trials_on_gpus,
)
from kdtune.training.recipe import students
from kdtune.training.run import check_objectives, check_study, make_student, try_batch

# The machines of a Ray cluster: what they have, what may be added, how many trials fit.


CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
"""`ray up` leaves the cluster's file there, on the head node, for the autoscaler. Ray 2.60 has no
other way to learn what the autoscaler may add: `get_max_resources_from_cluster_config` is None."""
NODE_POLL_SECONDS = 2.0
"""Time between two requests for the list of machines."""
JOIN_TIMEOUT_SECONDS = 180.0
"""Time to wait for the machines of the cluster's file (min_workers); `ray up` returns as soon as
the head node is up."""
Amounts = Mapping[str, float]
"""Amounts of CPU, GPU and the other resources that Ray counts."""


@dataclass(frozen=True)
class Node:
    """A machine that has joined the cluster."""

    id: str
    name: str
    """Address and host name."""
    resources: Amounts

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.name


class NodeChanges(NamedTuple):
    """The difference between two lists of machines."""

    joined: list[Node]
    lost: list[Node]


class TrialResources(NamedTuple):
    """What one trial takes."""

    cpu: int
    gpu: float


def alive_nodes() -> list[Node]:
    """Return the machines of the cluster, that of the driver first.

    Raises RayLostError if there is none, not even that of the driver.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = [_node(n) for n in ray.nodes() if n["Alive"]]
    if not nodes:
        raise RayLostError("no machine of Ray is alive; run the same command again to resume")
    return sorted(nodes, key=lambda node: (node.id != own, node.name))


def find_node_changes(before: list[Node], after: list[Node]) -> NodeChanges:
    """Return the machines that joined and those that were lost; a restarted one is in both."""
    old, new = {node.id for node in before}, {node.id for node in after}
    return NodeChanges(
        [n for n in after if n.id not in old], [n for n in before if n.id not in new]
    )


def potential_workers(cluster_file: Mapping[str, Any] | None) -> list[Amounts]:
    """Return the resources of the workers that the autoscaler may start, the largest first.

    The file of a cluster of type "local" does not state resources; its workers have none here
    until they have joined.
    """
    if cluster_file is None:
        return []
    types = sorted(
        cluster_file["available_node_types"].values(),
        key=lambda kind: (kind["resources"].get("GPU", 0), kind["resources"].get("CPU", 0)),
        reverse=True,
    )
    workers = [kind["resources"] for kind in types for _ in range(kind.get("max_workers", 0))]
    return workers[: cluster_file["max_workers"]]


def count_trials(machine: Amounts, trial: TrialResources) -> int:
    """Return how many trials fit on a machine; a share of a GPU is never split over two GPUs."""
    counts = [machine.get("CPU", 0) // trial.cpu]
    if trial.gpu:
        counts.append(trials_on_gpus(int(machine.get("GPU", 0)), trial.gpu))
    return int(min(counts))


def trial_resources(study: Study, machines: Sequence[Amounts]) -> TrialResources:
    """Return what one trial takes, the same on all machines.

    If the study leaves the CPU cores open and takes GPUs, the cores of each machine are divided by
    the number of trials that its GPUs run at a time; the smallest share of a machine counts.

    Args:
        study: Says what a trial needs, as far as it is given.
        machines: Those that there are and may be.
    """
    takes_gpu = study.may_use_gpus and _count_gpus(machines) > 0
    gpu = study.gpus_per_trial if takes_gpu else 0.0
    if study.cpus_per_trial is not None or not takes_gpu:
        return TrialResources(study.cpus_per_trial or 1, gpu)
    counts = [(m.get("CPU", 0), trials_on_gpus(int(m.get("GPU", 0)), gpu)) for m in machines]
    shares = [int(cores // count) for cores, count in counts if count]
    return TrialResources(max(1, min(shares, default=1)), gpu)


class Capacity:
    """The number of trials of a study that fit on the cluster, with what the autoscaler may add.

    The constructor waits for the machines that the cluster's file demands (min_workers).

    Args:
        study: Says what a trial needs, and the most GPUs that it may use together.
        tell: Called with a line if machines are waited for.

    Raises:
        InputError: The study asks for more GPUs than there are or may be, or a trial fits on no
            machine.
    """

    def __init__(self, study: Study, tell: Callable[[str], None]):
        path = CLUSTER_FILE.expanduser()
        on_head = study.address is not None and path.exists()
        self._file = yaml.safe_load(path.read_text()) if on_head else None
        self.study = study
        self._concurrent, self._counted = 0, -NODE_POLL_SECONDS
        self._limits: list[tuple[frozenset[str], int]] = []
        self._wait_for_minimum(tell)
        now = [node.resources for node in alive_nodes()]
        workers = potential_workers(self._file)
        gpus = max(_count_gpus(now), _count_gpus([now[0], *workers]))
        if (study.gpus or 0) > gpus:
            raise InputError(
                f"--gpus must be at most {gpus} on this cluster, which has {_count_gpus(now)} now, "
                f"but got --gpus {study.gpus}. Use --gpus {gpus}"
            )
        self.trial = trial_resources(study, [*now, *workers])
        if not any(count_trials(machine, self.trial) for machine in [*now, *workers]):
            raise InputError(
                f"a trial takes {self.trial.cpu} CPU cores and {self.trial.gpu:g} GPUs, but no "
                f"machine of the cluster has these; --cpus-per-trial, --gpus-per-trial"
            )

    def concurrent_trials(self) -> int:
        """Return how many trials may run now; at least one, which waits for a machine."""
        if time.monotonic() - self._counted >= NODE_POLL_SECONDS:
            self._concurrent, self._counted = self._count(), time.monotonic()
        return min([self._concurrent, *(limit for _, limit in self._limits)])

    def lower(self, count: int, trial_ids: Iterable[str]) -> int:
        """Let fewer trials run at a time from now on; return how many, at least 1.

        Args:
            count: How many.
            trial_ids: Of the runs one of which is the cause.
        """
        self._limits.append((frozenset(trial_ids), max(1, count)))
        return min(limit for _, limit in self._limits)

    def restore(self, trial_id: str) -> bool:
        """Drop the limits of which a run may be the cause; return True if there are any."""
        kept = [(causes, limit) for causes, limit in self._limits if trial_id not in causes]
        dropped = len(kept) < len(self._limits)
        self._limits = kept
        return dropped

    def _count(self) -> int:
        nodes = [node.resources for node in alive_nodes()]
        now = sum(map(self._fitting, nodes))
        later = self._fitting(nodes[0]) + sum(map(self._fitting, potential_workers(self._file)))
        count = max(1, now, later)
        if self.study.gpus and self.trial.gpu:
            limit = {"GPU": self.study.gpus, "CPU": count}
            count = min(count, count_trials(limit, TrialResources(1, self.trial.gpu)))
        return count

    def _fitting(self, machine: Amounts) -> int:
        return count_trials(machine, self.trial)

    def _wait_for_minimum(self, tell: Callable[[str], None]) -> None:
        types = self._file["available_node_types"].values() if self._file else ()
        count = 1 + sum(kind.get("min_workers", 0) for kind in types)
        until = time.monotonic() + JOIN_TIMEOUT_SECONDS
        if (have := len(alive_nodes())) < count:
            tell(f"{have} of {count} machines have joined, waiting for the others")
        while len(alive_nodes()) < count and time.monotonic() < until:
            time.sleep(1.0)


def check_local_resources(study: Study, ray_init: Mapping[str, Any] | None) -> None:
    """Raise InputError if a study on this machine alone asks for more than the machine has.

    Args:
        study: Names the GPUs, and what one trial takes.
        ray_init: Arguments of `ray.init` that say what Ray may use, if they are given.
    """
    gpus, cpus = count_gpus(study), local_cpus()
    if ray_init is not None:
        gpus, cpus = ray_init.get("num_gpus", 0), ray_init.get("num_cpus", cpus)
    check_gpus(study, gpus)
    if (study.cpus_per_trial or 1) > cpus:
        raise InputError(
            f"--cpus-per-trial must be at most the {cpus} cores of this machine, but got "
            f"--cpus-per-trial {study.cpus_per_trial}"
        )
    taken = gpus if study.gpus is None else study.gpus
    device = device_of(study, taken)
    if device.type != "cpu" and study.gpus_per_trial > taken:
        raise InputError(
            f"--gpus-per-trial must be at most the {taken} GPUs of the study, but got "
            f"--gpus-per-trial {study.gpus_per_trial:g}"
        )
    check_precision(study.run, device)


def _count_gpus(machines: Sequence[Amounts]) -> int:
    return int(sum(machine.get("GPU", 0) for machine in machines))


def _node(entry: Mapping[str, Any]) -> Node:
    address, host = entry["NodeManagerAddress"], entry["NodeManagerHostname"]
    return Node(entry["NodeID"], f"{address} ({host})", entry["Resources"])


# Checks of every machine of the cluster before a trial runs there.
#
# Without them a study half works on machines that differ: with a folder that only some of them see,
# some trials succeed, some fail, and the exit code is 0.


_ANSWER_SECONDS = 180.0
"""Time for a machine to answer, beside an outage of the store; its worker first imports torch."""
PROPAGATION_SECONDS = 5.0
"""A shared folder may show what other machines wrote with a delay (NFS: 3 s)."""
RUN_BYTES_PER_STUDENT_BYTE = 9
"""Size of a trial's files in sizes of its student: three states, while one of them is written, each
with the weights and up to two moments of the optimiser. The student's own file comes after them."""


class StorageProbe:
    """Small files by which the machines find out whether they share the study's folder or store.

    Args:
        study: Says which place it is.
        retry_timeout: Seconds for which requests to the object store are retried in an outage.
    """

    def __init__(self, study: Study, retry_timeout: float = SHORT_RETRY_TIMEOUT_SECONDS):
        self.retry_timeout = retry_timeout
        self.folder = study.folder / f".preflight-{uuid.uuid4().hex[:8]}"
        self.uri = None if study.uri is None else join_uri(study.uri, self.folder.name)
        self.place = study.uri or str(study.folder)

    def describe_unseen(self, writer: str) -> str:
        """Return the end of a sentence about a machine that does not see a file."""
        return (
            f"does not see what {writer} wrote into {self.place}; --out must be a folder that all "
            f"machines share, or s3://BUCKET/PREFIX"
        )

    def exchange(self, name: str) -> None:
        """Read the driver's file, then write one of this name for the driver.

        Raises:
            InputError: The driver's file is not there.
            OSError: The place cannot be written.
        """
        if not self.sees("driver"):
            raise InputError(self.describe_unseen("the driver"))
        self.write(name)

    def write(self, name: str) -> None:
        """Write a file of this name for the other machines."""
        if self.uri is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(name)
            return
        working_folder = self.folder.parent
        working_folder.mkdir(parents=True, exist_ok=True)
        # temporary: `remove` cannot delete what another machine has in its working folder
        with TemporaryDirectory(prefix=".preflight-", dir=working_folder) as local:
            file = Path(local) / name
            file.write_text(name)
            Store(self.uri, self.retry_timeout).put(file, name)

    def sees(self, name: str) -> bool:
        """Return True if the file of this name is there."""
        if self.uri is not None:
            store = Store(self.uri, self.retry_timeout)
            return store.retry(lambda: store.read(name)) is not None
        until = time.monotonic() + PROPAGATION_SECONDS
        while not (self.folder / name).exists() and time.monotonic() < until:
            time.sleep(0.2)
        return (self.folder / name).exists()

    def remove(self) -> None:
        """Delete the files; those on a store that cannot be reached stay there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.uri is not None:
            with suppress(InputError, OSError):
                store = Store(self.uri, self.retry_timeout)
                for name in store.names():
                    store.delete(name)


@dataclass(frozen=True)
class NodeReport:
    """What one machine reports about itself."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """What must be the same on all machines: versions, and fingerprints of data, models, code."""
    gpus: int = 0
    """GPUs that torch sees."""
    free: Mapping[str, int] = field(default_factory=dict)
    """Free bytes on the disk of each folder that the study uses."""
    faults: tuple[str, ...] = ()
    """Sentences, without the machine's name."""
    cpu_fault: str = ""
    """Why trials must not run on this machine's CPU; no fault if none ever will."""
    no_answer: str = ""
    """Why the machine did not answer: it or its worker was lost, which is no fault."""


def fingerprints_of(study: Study) -> dict[str, str]:
    """Return content hashes of what a study's trials are made of.

    Raises InputError if data, a model, an objective or the training function cannot work.
    """
    if study.train is not None:
        return {"train": _fingerprint(study)}
    data = with_extra(load_data(study.run), study.run)
    objectives = check_objectives(study, len(data.classes))
    return check_study(study, data) | objectives


def report_node(
    study: Study, probe: StorageProbe, fingerprints: Mapping[str, str] | None = None
) -> NodeReport:
    """Return the report of the machine on which this function runs; never raise.

    Args:
        study: The study.
        probe: In whose place the driver has written its file.
        fingerprints: Those of `fingerprints_of`, if this process has computed them.
    """
    faults: list[str] = []

    def attempt(ask: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return ask()
        except Exception as error:  # of the disk, the store, or the user's model
            faults.append(first_line(error))
            return otherwise

    attempt(lambda: probe.exchange(ray.get_runtime_context().get_node_id()), None)
    if fingerprints is None:
        fingerprints = attempt(lambda: fingerprints_of(study), {})
    cache = Cache(study.cache, study.cache_gb)
    gpus = attempt(lambda: _visible_gpus(study), 0)
    folders = (study.folder, cache.folder)
    free = attempt(lambda: {str(folder): _free_bytes(folder) for folder in folders}, {})
    if study.train is None:
        attempt(cache.check, None)
        if fingerprints and free:
            attempt(lambda: _check_disk(study, free[str(study.folder)]), None)
    return NodeReport(
        facts={"kdtune": __version__, "torch": torch.__version__.split("+")[0], **fingerprints},
        gpus=gpus,
        free=free,
        faults=tuple(faults),
        cpu_fault=_describe_cpu_fault(study, gpus),
    )


def find_node_faults(
    nodes: Mapping[Node, NodeReport], trial: TrialResources
) -> dict[Node, list[str]]:
    """Return a sentence for each fault of a machine and for what differs from the first one."""
    first, ours = next(iter(nodes.items()))
    faults = {}
    for node, report in nodes.items():
        faults[node] = [f"{node}: {sentence}" for sentence in report.faults]
        if report.cpu_fault and count_trials(node.resources, trial):
            faults[node].append(f"{node}: {report.cpu_fault}")
        faults[node] += [
            f"{node} has {name} {theirs}, but {first} has {ours.facts[name]}; make them the same"
            for name, theirs in report.facts.items()
            if name in ours.facts and ours.facts[name] != theirs
        ]
    return faults


def find_missing_gpus(node: Node, report: NodeReport) -> list[str]:
    """Return a warning if Ray counts GPUs on a machine that torch does not see."""
    counted = int(node.resources.get("GPU", 0))
    if report.gpus >= counted:
        return []
    return [f"{node}: Ray counts {counted} GPUs, but torch sees {report.gpus}; runs use its CPUs"]


def _describe_cpu_fault(study: Study, gpus: int) -> str:
    try:
        check_precision(study.run, device_of(study, gpus))
    except InputError as error:
        return str(error)
    return ""


def _check_disk(study: Study, free: int) -> None:
    data = load_data(study.run)
    largest = max(make_student(run, data).nbytes for run in students(study))
    need = RUN_BYTES_PER_STUDENT_BYTE * largest
    if free < need:
        raise InputError(f"{study.folder} has {free} free bytes, but one run needs {need}")


def _visible_gpus(study: Study) -> int:
    """Return the number of the machine's GPUs, including those that Ray hides from this task."""
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        return count_gpus(study)
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def _free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def _fingerprint(study: Study) -> str:
    """Return 16 hex digits that change with the code of the training function.

    The code is that of its module and of the user's own modules that it imports. Of a script or a
    notebook it is that which the function needs.

    Raises:
        InputError: It cannot be imported, or called as a training function.
    """
    name = name_of(study.train or "")
    if callable(study.train):
        check_signature(study.train, name)
        if not is_importable(study.train):
            return ObjectSource.of(study.train).digest[:16]
    else:
        load_function(name)
    return source_digest([name.partition(":")[0]], nn.Module())[:16]


def preflight(study: Study, fingerprints: Mapping[str, str], trial: TrialResources) -> list[str]:
    """Inspect every machine of the cluster, and try one batch on its GPU.

    Args:
        study: Whose place, data and weights are inspected.
        fingerprints: Of `fingerprints_of` in this process.
        trial: What one trial takes.

    Returns:
        Lines for the terminal: a table with a row per machine (if there are several), what a trial
        takes (if it takes GPUs) and warnings.

    Raises:
        NodeMismatchError: A machine cannot run the study's trials; one line per fault.
        InputError, OSError: The driver cannot write into the study's place.
        InputError: The concurrent trials of a GPU do not fit into its memory.
    """
    first, *others = alive_nodes()
    reports, faults = inspect_nodes(
        study, first, others, trial, SHORT_RETRY_TIMEOUT_SECONDS, fingerprints
    )
    lines = [sentence for sentences in faults.values() for sentence in sentences]
    lines += [f"{node} {report.no_answer}" for node, report in reports.items() if report.no_answer]
    if lines:
        raise NodeMismatchError("\n".join(lines))
    lines = [_table(study, reports)] if others else []
    for node, report in reports.items():
        lines += [f"warning: {sentence}" for sentence in find_missing_gpus(node, report)]
    if with_gpus := [node for node, report in reports.items() if trial.gpu and report.gpus]:
        lines += check_gpu_memory(study, with_gpus, trial)
        workers = loader_workers(study, device_of(study, gpus=1), trial.cpu)
        lines.append(
            f"Each trial has --gpus-per-trial {trial.gpu:g}, --cpus-per-trial {trial.cpu} and "
            f"--loader-workers {workers}."
        )
    return lines


def inspect_nodes(
    study: Study,
    first: Node,
    others: Sequence[Node],
    trial: TrialResources,
    retry_timeout: float,
    fingerprints: Mapping[str, str] | None = None,
) -> tuple[dict[Node, NodeReport], dict[Node, list[str]]]:
    """Inspect machines from the first of them, that of the driver.

    Args:
        study: Whose place, data and weights are inspected.
        first: The machine on which this function runs.
        others: The other machines.
        trial: What one trial takes.
        retry_timeout: Seconds for which requests to the object store are retried in an outage.
        fingerprints: Of the study on the first machine, if they have been computed.

    Returns:
        The report of each machine, and a sentence for each of its faults.

    Raises:
        InputError, OSError: The first machine cannot write into the study's place.
    """
    probe = StorageProbe(study, retry_timeout)
    try:
        probe.write("driver")
        tasks = {node: start_on(node, report_node, study, probe) for node in others}
        reports = {first: report_node(study, probe, fingerprints)}
        reports |= {node: _wait_for_report(task, retry_timeout) for node, task in tasks.items()}
        faults = find_node_faults(reports, trial)
        for node in others:
            answered = not (reports[node].faults or reports[node].no_answer)
            if answered and not probe.sees(node.id):
                faults[node].append(f"{first} {probe.describe_unseen(str(node))}")
    finally:
        probe.remove()
    return reports, faults


def start_on(node: Node, function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a Ray task on a machine; return its reference."""
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
    return task.remote(*arguments)


def describe_ray_error(error: Exception) -> str:
    """Return the first line of what failed in a Ray task."""
    return first_line(getattr(error, "cause", None) or error)


def _wait_for_report(task: Any, retry_timeout: float) -> NodeReport:
    """Return the report of a machine, or one that says why there is none."""
    seconds = _ANSWER_SECONDS + retry_timeout
    try:
        report: NodeReport = ray.get(task, timeout=seconds)
        return report
    except ray.exceptions.GetTimeoutError:
        return NodeReport(no_answer=f"has not answered in {seconds:.0f} s")
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        reason = describe_ray_error(error)
        return NodeReport(faults=(f"cannot run kdtune {__version__} ({reason}); install it there",))
    except ray.exceptions.RayError as error:  # the machine was lost during its inspection
        return NodeReport(no_answer=f"could not be inspected ({describe_ray_error(error)})")


def _table(study: Study, reports: Mapping[Node, NodeReport]) -> str:
    folders = {"study": study.folder, "cache": Cache(study.cache).folder}
    head = ["machine", "kdtune", "torch", "CPU", "GPU", *(f"free GB, {name}" for name in folders)]
    rows = []
    for node, report in reports.items():
        versions = [report.facts["kdtune"], report.facts["torch"]]
        counts = [f"{node.resources.get(kind, 0):g}" for kind in ("CPU", "GPU")]
        free = [f"{report.free[str(folder)] / 1e9:.1f}" for folder in folders.values()]
        rows.append([str(node), *versions, *counts, *free])
    return markdown(head, rows)


# Memory of a CUDA GPU: one batch of a trial is really computed on a GPU of each machine before the
# study starts, so a share of a GPU that is far too small is known at once. What it does not see,
# such as students that are kept for later runs, ends in the recorder's retry with fewer trials.


CONTEXT_BYTES = 2**29
"""Memory of a process on a GPU before it allocates any: CUDA's context and the kernels."""
MEMORY_SECONDS = 180.0
"""Time for a batch on a GPU; a new worker first imports torch."""
OUT_OF_GPU_MEMORY = ("out of memory", "ALLOC_FAILED")
"""Words in the errors of PyTorch and of cuBLAS."""


def check_gpu_memory(study: Study, nodes: Sequence[Node], trial: TrialResources) -> list[str]:
    """Try a batch on one GPU of each machine, all machines at the same time.

    Args:
        study: Whose largest batch is tried.
        nodes: The machines with GPUs.
        trial: What one trial takes.

    Returns:
        Lines for the terminal: what could not be tried.

    Raises:
        InputError: The concurrent trials of a GPU do not fit; with one line per machine.
    """
    # max_calls: the process ends with the task and frees the GPU
    task: Any = ray.remote(num_cpus=0, num_gpus=trial.gpu, max_calls=1, max_retries=0)(try_on_gpu)
    tasks = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(study, max(1, trials_on_gpus(1, trial.gpu)))
        for node in nodes
    }
    faults, untried = [], []
    for node, reference in tasks.items():
        try:
            fault = ray.get(reference, timeout=MEMORY_SECONDS)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference, force=True)
            untried.append(f"warning: {node} has no free GPU on which a batch could be tried")
            continue
        except ray.exceptions.RayError as error:
            fault = f"a training step fails on this GPU ({first_line(error, 200)})"
        if fault:
            faults.append(f"{node}: {fault}")
    if faults:
        raise InputError("\n".join(faults))
    return untried


def try_on_gpu(study: Study, trials: int) -> str:
    """Compute one batch on the GPU of this Ray task; return why trials would fail, or "".

    Args:
        study: Its largest batch is computed, for each pair of models.
        trials: How many share the GPU.
    """
    device = device_of(study)
    if device.type != "cuda":  # PyTorch sees no GPU here, or one whose memory is the machine's
        return ""
    free, total = torch.cuda.mem_get_info()
    free = min(free + CONTEXT_BYTES, total)  # apart from the context of this process
    needed = 0
    for run in largest_runs(study):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            try_batch(run, device)
        except Exception as error:  # of a user's model, or of the GPU's driver
            if not any(words in str(error) for words in OUT_OF_GPU_MEMORY):
                return f"a training step fails on this GPU ({first_line(error, 200)})"
            needed = max(needed, free + 1)
        needed = max(needed, torch.cuda.max_memory_reserved() + CONTEXT_BYTES)
    return describe_memory_fault(device_name(device), free, needed, trials, run.batch_size)


def describe_memory_fault(gpu: str, free: int, needed: int, trials: int, batch_size: int) -> str:
    """Return a sentence if trials do not fit into the memory of a GPU, else "".

    Args:
        gpu: Its name.
        free: Its free bytes.
        needed: Bytes that one trial needs; more than `free` if its batch did not fit.
        trials: How many share the GPU.
        batch_size: The largest of the study.
    """
    if trials * needed <= free:
        return ""
    larger = "a larger --gpus-per-trial, or " if needed <= free else ""
    return (
        f"{trials} trials of {needed / 1e9:.1f} GB each do not fit into the {free / 1e9:.1f} GB "
        f"that are free on a GPU ({gpu}); use {larger}--batch-size below {batch_size}, which is "
        f"the largest of this study"
    )


def largest_runs(study: Study) -> list[Run]:
    """Return a run with the largest batch for each pair of a student and a teacher of the study.

    A loss of features, which has a projector, is taken where the study has one, and an average of
    the weights, which is a copy of the student.
    """
    values = {name: ends_of(study.values(name)) for name in ("batch_size", "ema")}
    largest: dict[str, Any] = {name: max(ends) for name, ends in values.items()}
    trains_all = "all" in study.values("trainable")  # type: ignore[operator]
    base = replace(study.run, trainable="all" if trains_all else "head", **largest)
    for loss in filter(takes_features, losses_of(study)):
        base = replace(base, loss=loss, alpha=0.5)
    names = (ends_of(study.values(name)) for name in ("student", "teacher"))
    return [replace(base, student=str(s), teacher=str(t)) for s, t in itertools.product(*names)]


class MachineMonitor:
    """A monitor that names the machines that join or are lost, and inspects those that join.

    An inspection may have to wait for the store, or for a machine that is about to be lost. So it
    is a task beside the study: Tune's loop only asks whether the task has ended. A context manager:
    leaving it cancels the inspections that have not ended.

    Args:
        study: Whose trials run on the machines.
        trial: What one trial takes.
        fingerprints: Of the study, with which those of the machines that join are compared.
    """

    def __init__(self, study: Study, trial: TrialResources, fingerprints: Mapping[str, str]):
        self.study, self.trial, self.fingerprints = study, trial, fingerprints
        self.nodes = alive_nodes()
        self._inspections: dict[Node, Any] = {}
        self._last = time.monotonic()

    def __enter__(self) -> "MachineMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._inspections.values():
            ray.cancel(task)
        self._inspections = {}

    def poll(self) -> Iterator[str]:
        """Yield a line for each change since the last call.

        Raises:
            NodeMismatchError: A machine has joined that cannot run the study's trials: they would
                fail one after another, or train on other data.
        """
        if time.monotonic() - self._last < NODE_POLL_SECONDS:
            return
        self._last = time.monotonic()
        now = alive_nodes()
        joined, lost = find_node_changes(self.nodes, now)
        self.nodes = now
        for node in lost:
            self._inspections.pop(node, None)
            yield f"{node} was lost; its runs resume from their last checkpoint on other machines"
        for node in joined:
            arguments = (self.study, now[0], [node], self.trial, RETRY_TIMEOUT_SECONDS)
            task = start_on(now[0], inspect_nodes, *arguments, self.fingerprints)
            self._inspections[node] = task
        for node, task in list(self._inspections.items()):
            if ray.wait([task], timeout=0)[0]:
                yield from self._report(node, self._inspections.pop(node))

    def _report(self, node: Node, task: Any) -> Iterator[str]:
        """Yield the lines that an inspection of a machine gives; raise NodeMismatchError."""
        try:
            reports, faults = ray.get(task)
        except ray.exceptions.RayError as error:  # of the driver's machine: memory, or the store
            yield f"warning: {node} could not be inspected ({describe_ray_error(error)})"
            return
        if of_node := faults.pop(node):
            raise NodeMismatchError("\n".join(of_node))
        yield from (f"warning: {line}" for lines in faults.values() for line in lines)
        if reports[node].no_answer:
            yield f"warning: {node} {reports[node].no_answer}"
            return
        yield f"{node} has joined"
        yield from (f"warning: {line}" for line in find_missing_gpus(node, reports[node]))

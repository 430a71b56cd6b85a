"""The machines of a Ray cluster: what they have, their checks, how many trials fit."""

import importlib
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
from typing import Any, NamedTuple, Protocol

import ray
import torch
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from kdtune import __version__
from kdtune.config.fields import Weights, takes_features
from kdtune.config.files import join_uri
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import check_signature, ends_of, is_importable, load_function, name_of
from kdtune.config.text import InputError, NodeMismatchError, RayLostError, first_line
from kdtune.data.arrays import with_extra
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier
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
from kdtune.training.recipe import students, teachers
from kdtune.training.run import MAX_IDLE_STUDENT_BYTES, Models, make_student, try_batch
from kdtune.training.teacher import initial_teacher

# The machines of a Ray cluster: what they have, what may be added, how many trials fit.


CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
"""`ray up` leaves the cluster's file there, on the head node, for the autoscaler. Ray 2.60 has no
other way to learn what the autoscaler may add: `get_max_resources_from_cluster_config` is None."""
POLL_SECONDS = 2.0
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


def find_changes(before: list[Node], after: list[Node]) -> NodeChanges:
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
        self._concurrent, self._counted = 0, -POLL_SECONDS
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
        if time.monotonic() - self._counted >= POLL_SECONDS:
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


# A probe that tells whether all machines see the study's folder or object store.


PROPAGATION_SECONDS = 5.0
"""A shared folder may show what other machines wrote with a delay (NFS: 3 s)."""


class StorageProbe:
    """Small files by which the machines find out whether they share the study's place.

    Args:
        study: Says which place it is.
        retry_timeout: Seconds for which requests to the object store are retried in an outage.
    """

    def __init__(self, study: Study, retry_timeout: float = SHORT_RETRY_TIMEOUT_SECONDS):
        self.retry_timeout = retry_timeout
        self.folder = study.folder / f".preflight-{uuid.uuid4().hex[:8]}"
        self.uri = None if study.uri is None else join_uri(study.uri, self.folder.name)
        self.place = study.uri or str(study.folder)
        self.advice = "--out must be a folder that all machines share, or s3://BUCKET/PREFIX"

    def exchange(self, name: str) -> None:
        """Read the driver's file, then write one of this name for the driver.

        Raises:
            InputError: The driver's file is not there.
            OSError: The place cannot be written.
        """
        if not self.sees("driver"):
            raise InputError(f"does not see what the driver wrote into {self.place}; {self.advice}")
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
            self._store().put(file, name)

    def sees(self, name: str) -> bool:
        """Return True if the file of this name is there."""
        if self.uri is not None:
            store = self._store()
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
                for name in self._store().names():
                    self._store().delete(name)

    def _store(self) -> Store:
        assert self.uri is not None  # noqa: S101 - the callers have looked
        return Store(self.uri, self.retry_timeout)


# What one machine reports about itself, and what of it keeps a study from running there.


RUN_BYTES_PER_STUDENT_BYTE = 9
"""Size of a trial's files in sizes of its student: three states, while one of them is written, each
with the weights and up to two moments of the optimiser. The student's own file comes after them."""


@dataclass(frozen=True)
class NodeStatus:
    """What one machine reports about itself."""

    kdtune: str = __version__
    torch: str = ""
    """Version, without the suffix that names the device it was built for."""
    gpus: int = 0
    """GPUs that torch sees."""
    free: dict[str, int] = field(default_factory=dict)
    """Free bytes on the disk of each folder that the study uses."""
    data: str = ""
    teacher: str = ""
    student: str = ""
    """Fingerprints of the data set and of the weights before any training."""
    function: str = ""
    """Fingerprint of the code of the study's training function."""
    extra: str = ""
    """Fingerprint of the images without labels; "" without any."""
    faults: tuple[str, ...] = ()
    """Sentences, without the machine's name."""
    precision_fault: str = ""
    """Why trials must not run on this machine's CPU; no fault if none ever will."""
    no_answer: str = ""
    """Why the machine did not answer: it or its worker was lost, which is no fault."""


def inspect_node(study: Study, probe: StorageProbe) -> NodeStatus:
    """Return the status of the machine on which this function runs; never raise."""
    faults: list[str] = []

    def attempt(ask: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return ask()
        except Exception as error:
            faults.append(first_line(error))
            return otherwise

    attempt(lambda: probe.exchange(ray.get_runtime_context().get_node_id()), None)
    own = study.train is not None
    if not own:
        attempt(Cache(study.cache, study.cache_gb).check, None)
    models = (
        []
        if own
        else attempt(lambda: [make_student(run, load_data(run)) for run in students(study)], [])
    )
    folders = (study.folder, Cache(study.cache).folder)
    gpus = attempt(lambda: _visible_gpus(study), 0)
    status = NodeStatus(
        torch=torch.__version__.split("+")[0],
        gpus=gpus,
        free=attempt(lambda: {str(folder): _free_bytes(folder) for folder in folders}, {}),
        function=attempt(lambda: fingerprint(study), "") if own else "",
        data="" if own else attempt(lambda: load_data(study.run).study_fingerprint, ""),
        extra="" if own else attempt(lambda: _fingerprint_extra(study), ""),
        teacher="" if own else attempt(lambda: _fingerprint_teachers(study), ""),
        student=attempt(lambda: " ".join(model.fingerprint() for model in models), ""),
        precision_fault=_precision_fault(study, gpus),
    )
    if models and status.student and status.free:
        largest = max(models, key=lambda model: model.nbytes)
        faults += _disk_faults(study, largest, status.free[str(study.folder)])
    return replace(status, faults=tuple(faults))


def find_faults(node: Node, status: NodeStatus, trial: TrialResources) -> list[str]:
    """Return a sentence for each fault of a machine."""
    found = [f"{node}: {sentence}" for sentence in status.faults]
    if status.precision_fault and count_trials(node.resources, trial):
        found.append(f"{node}: {status.precision_fault}")
    return found


def find_differences(study: Study, statuses: dict[Node, NodeStatus]) -> list[str]:
    """Return a sentence for each difference between a machine and the first, the driver's own."""
    (first, own), *others = statuses.items()
    found = []
    for node, status in others:
        for name in ("kdtune", "torch"):
            have, need = getattr(status, name), getattr(own, name)
            if have and have != need:
                found.append(f"{node} has {name} {have}, but {first} has {need}; install the same")
        for name, what, path in (
            ("data", "data", study.run.data),
            ("extra", "set of images without labels", study.run.extra),
            ("teacher", "teacher", _shown(study.run.teacher_weights)),
            ("student", "student", _shown(study.run.student_weights)),
            ("function", "function", name_of(study.train) if study.train is not None else ""),
        ):
            have, need = getattr(status, name), getattr(own, name)
            if have and need and have != need:  # what cannot be read has no fingerprint
                found.append(f"{node} has another {what} than {first} in {path}; copy it there")
    return found


def _fingerprint_extra(study: Study) -> str:
    extra = with_extra(load_data(study.run), study.run).extra
    return "" if extra is None else extra.fingerprint


def _fingerprint_teachers(study: Study) -> str:
    """Return the fingerprints of all teachers before any fine-tuning."""
    data = load_data(study.run)
    return " ".join(initial_teacher(run, data).fingerprint() for run in teachers(study))


def _students(study: Study) -> list[Classifier]:
    data = load_data(study.run)
    return [make_student(run, data) for run in students(study)]


def _shown(weights: Weights) -> str:
    return weights if isinstance(weights, str) else " ".join(weights)


def find_missing_gpus(node: Node, status: NodeStatus) -> str | None:
    """Return a sentence if Ray counts GPUs on a machine that torch does not see, else None."""
    counted = int(node.resources.get("GPU", 0))
    if status.gpus >= counted:
        return None
    return f"{node}: Ray counts {counted} GPUs, but torch sees {status.gpus}; runs use its CPUs"


def _precision_fault(study: Study, gpus: int) -> str:
    try:
        check_precision(study.run, device_of(study, gpus))
    except InputError as error:
        return str(error)
    return ""


def _disk_faults(study: Study, student: Classifier, free: int) -> list[str]:
    need = RUN_BYTES_PER_STUDENT_BYTE * student.nbytes
    if free >= need:
        return []
    return [f"{study.folder} has {free} free bytes, but one run needs {need}"]


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


# Memory of a GPU: whether the concurrent trials of a study fit on it.
#
# One batch of a trial is really computed on a GPU of each machine before the study starts. Its
# peak,
# times the number of trials that share the GPU, must fit into the free memory. So a share of a
# GPU
# that is too small is known at once, and not when the last of several trials fails.


CONTEXT_BYTES = 2**29
"""Memory of a process on a GPU before it allocates any: CUDA's context and the kernels."""
MEMORY_SECONDS = 180.0
"""Time for a batch on a GPU; a new worker first imports torch."""
LOGIT_BYTES = 4
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
"""Words in the errors of PyTorch and of cuBLAS."""


class MemoryMeter(Protocol):
    """Memory of a GPU as one process sees it, in bytes."""

    def free(self) -> int:
        """Return the memory that no process uses."""

    def peak(self) -> int:
        """Return the most that this process has allocated since `reset`."""

    def reset(self) -> None:
        """Return unused memory to the GPU and forget the peak."""


class CudaMeter:
    """Memory of a CUDA GPU."""

    def free(self) -> int:
        """Return the memory that no process uses, apart from the context of this one."""
        free, total = torch.cuda.mem_get_info()
        return min(free + CONTEXT_BYTES, total)

    def peak(self) -> int:
        """Return the most that PyTorch's allocator has reserved since `reset`."""
        return torch.cuda.max_memory_reserved()

    def reset(self) -> None:
        """Return unused memory to the GPU and forget the peak."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class MpsMeter:
    """Memory of the GPU of an Apple computer, which it shares with the CPU."""

    def free(self) -> int:
        """Return how much of the recommended maximum this process has not allocated."""
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()

    def peak(self) -> int:
        """Return what the driver has allocated, which shrinks at `reset` only."""
        return torch.mps.driver_allocated_memory()

    def reset(self) -> None:
        """Return unused memory to the GPU."""
        torch.mps.empty_cache()


METERS: dict[str, Callable[[], MemoryMeter]] = {"cuda": CudaMeter, "mps": MpsMeter}


@dataclass(frozen=True)
class TrialMemory:
    """Memory of one trial on one GPU, measured with one batch, in bytes."""

    gpu: str
    """Name of the GPU."""
    free: int
    """Memory that no process used before."""
    trial: int
    """Memory of one trial; at least so much if its batch did not fit."""
    fits: bool
    """Whether the batch of one trial alone could be computed."""

    def trials_that_fit(self) -> int:
        """Return how many trials fit on the GPU at a time."""
        return self.free // self.trial if self.fits else 0


def memory_fault(memory: TrialMemory, share: float, batch_size: int) -> str | None:
    """Return a sentence if the trials that share a GPU do not fit into its memory, else None.

    Args:
        memory: Of one trial.
        share: GPUs of a trial, `gpus_per_trial`.
        batch_size: The largest of the study.
    """
    trials, possible = max(1, trials_on_gpus(1, share)), memory.trials_that_fit()
    if trials <= possible:
        return None
    smaller = f"--batch-size below {batch_size}, which is the largest of this study"
    if possible == 0:
        return (
            f"one trial needs {'' if memory.fits else 'more than '}{_gb(memory.trial)} on a GPU "
            f"({memory.gpu}), but {_gb(memory.free)} are free; use {smaller}"
        )
    return (
        f"--gpus-per-trial {share:g} puts {trials} trials on a GPU ({memory.gpu}), which need "
        f"{trials} x {_gb(memory.trial)} = {_gb(trials * memory.trial)}, but {_gb(memory.free)} "
        f"are free; use --gpus-per-trial {share_of(possible):g}, or {smaller}"
    )


def share_of(trials: int) -> float:
    """Return a short decimal share of a GPU with which exactly so many trials fit on one."""
    scales: Iterator[int] = (10**digits for digits in itertools.count(1))
    shares = (scale // trials / scale for scale in scales)
    return next(x for x in shares if x and trials_on_gpus(1, x) == trials)


def largest_runs(study: Study) -> list[Run]:
    """Return a run with the largest batch for each pair of a student and a teacher of the study.

    A loss of features, which has a projector, is taken where the study has one, and an average of
    the weights, which is a copy of the student.
    """
    batch, ema = (_largest(study, name) for name in ("batch_size", "ema"))
    trainable = "all" if "all" in study.values("trainable") else "head"  # type: ignore[operator]
    base = replace(study.run, ema=ema)
    for loss in filter(takes_features, losses_of(study)):
        base = replace(base, loss=loss, alpha=0.5)
    names = (ends_of(study.values(name)) for name in ("student", "teacher"))
    return [
        replace(base, batch_size=batch, trainable=trainable, student=str(s), teacher=str(t))  # type: ignore[arg-type]
        for s, t in itertools.product(*names)
    ]


def _largest(study: Study, name: str) -> Any:
    """Return the largest value of a hyperparameter that is a number."""
    values: Any = ends_of(study.values(name))
    return max(values)


def measure_trial(study: Study, meter: MemoryMeter, device: torch.device) -> TrialMemory:
    """Compute one batch of a trial and return what a trial needs.

    Beside the peak of a batch that is: the context of a process, the students that it keeps for
    later runs, and the logits of an epoch.

    Args:
        study: Its largest batch is computed, for each pair of models.
        meter: Of the GPU.
        device: The GPU.
    """
    free, needed = meter.free(), 0
    for run in largest_runs(study):
        meter.reset()
        try:
            kept = _kept(study, run, try_batch(run, device))
        except RuntimeError as error:  # torch.OutOfMemoryError is one; that of mps has no class
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            return TrialMemory(device_name(device), free, max(meter.peak(), free), False)
        needed = max(needed, meter.peak() + kept)
    return TrialMemory(device_name(device), free, needed + CONTEXT_BYTES, True)


def _kept(study: Study, run: Run, models: Models) -> int:
    """Return the bytes that a process holds beside a batch: idle students and an epoch's logits."""
    student = 2 * models.student.nbytes
    idle = 0 if ":" in run.student else min((study.repeats - 1) * student, MAX_IDLE_STUDENT_BYTES)
    data = load_data(run)
    logits = 2 * LOGIT_BYTES * len(data.classes) * sum(map(len, data.splits.values()))
    return idle + logits


def try_on_gpu(study: Study) -> TrialMemory | str | None:
    """Return what a trial needs on the GPU of this Ray task, or why its batch fails.

    None if PyTorch sees no GPU here.
    """
    device = device_of(study)
    if device.type not in METERS:
        return None
    try:
        return measure_trial(study, METERS[device.type](), device)
    except Exception as error:  # of a user's model, or of the GPU's driver
        return f"a training step fails on this GPU ({first_line(error, 200)})"


def check_gpu_memory(study: Study, nodes: Sequence[Node], trial: TrialResources) -> list[str]:
    """Try a batch on one GPU of each machine, all machines at the same time.

    Args:
        study: Whose largest batch is tried.
        nodes: The machines.
        trial: What one trial takes.

    Returns:
        Lines for the terminal: what could not be tried.

    Raises:
        InputError: The concurrent trials of a GPU do not fit; with one line per machine.
    """
    if not trial.gpu:
        return []
    largest = largest_runs(study)[0].batch_size
    tasks = {node: _start(study, node, trial) for node in nodes if node.resources.get("GPU", 0)}
    faults, untried = [], []
    for node, task in tasks.items():
        try:
            memory: TrialMemory | str | None = ray.get(task, timeout=MEMORY_SECONDS)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(task, force=True)
            untried.append(f"warning: {node} has no free GPU on which a batch could be tried")
            continue
        except ray.exceptions.RayError as error:
            memory = f"a training step fails on this GPU ({first_line(error, 200)})"
        fault = memory if isinstance(memory, str) else None
        if isinstance(memory, TrialMemory):
            fault = memory_fault(memory, trial.gpu, largest)
        if fault:
            faults.append(fault if len(nodes) == 1 else f"{node}: {fault}")
    if faults:
        raise InputError("\n".join(faults))
    return untried


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _start(study: Study, node: Node, trial: TrialResources) -> Any:
    """Start `try_on_gpu` on a machine; its process ends with it and frees the GPU."""
    task: Any = ray.remote(num_cpus=0, num_gpus=trial.gpu, max_calls=1, max_retries=0)
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return task(try_on_gpu).options(scheduling_strategy=strategy).remote(study)


# Checks of every machine of the cluster before a trial runs there.
#
# Without them a study half works on machines that differ: with a folder that only some of them
# see,
# some trials succeed, some fail, and the exit code is 0.


ANSWER_SECONDS = 180.0
"""Time for a machine to answer, beside an outage of the store; its worker first imports torch."""


def preflight(study: Study, trial: TrialResources) -> list[str]:
    """Inspect every machine of the cluster, and try one batch on its GPU.

    Args:
        study: Whose place, data and weights are inspected.
        trial: What one trial takes.

    Returns:
        Lines for the terminal: a table with a row per machine (if there are several), what a trial
        takes (if it takes GPUs) and warnings.

    Raises:
        NodeMismatchError: A machine cannot run the study's trials; one line per fault.
        InputError, OSError: The driver cannot write into the study's place.
        InputError: The concurrent trials of a GPU do not fit into its memory.
    """
    statuses, faults = inspect_nodes(study, alive_nodes(), trial, SHORT_RETRY_TIMEOUT_SECONDS)
    lines = [sentence for found in faults.values() for sentence in found]
    lines += [f"{node} {status.no_answer}" for node, status in statuses.items() if status.no_answer]
    if lines:
        raise NodeMismatchError("\n".join(lines))
    table = [_table(study, statuses)] if len(statuses) > 1 else []
    warnings = [find_missing_gpus(node, status) for node, status in statuses.items()]
    lines = table + [f"warning: {sentence}" for sentence in warnings if sentence]
    if with_gpus := [node for node, status in statuses.items() if trial.gpu and status.gpus]:
        lines += check_gpu_memory(study, with_gpus, trial)
        lines.append(_describe_trial(study, trial))
    return lines


def inspect_nodes(
    study: Study, nodes: list[Node], trial: TrialResources, retry_timeout: float
) -> tuple[dict[Node, NodeStatus], dict[Node, list[str]]]:
    """Inspect machines from the first of them, that of the driver.

    Args:
        study: Whose place, data and weights are inspected.
        nodes: The machines; this function runs on the first.
        trial: What one trial takes.
        retry_timeout: Seconds for which requests to the object store are retried in an outage.

    Returns:
        The status of each machine, and a sentence for each of its faults.

    Raises:
        InputError, OSError: The first machine cannot write into the study's place.
    """
    first, *others = nodes
    probe = StorageProbe(study, retry_timeout)
    try:
        probe.write("driver")
        statuses = {first: inspect_node(study, probe)}
        tasks = {node: start_on(node, inspect_node, study, probe) for node in others}
        statuses |= {node: _wait_for_status(task, retry_timeout) for node, task in tasks.items()}
        faults = {node: find_faults(node, status, trial) for node, status in statuses.items()}
        for node in others:
            status = statuses[node]
            faults[node] += find_differences(study, {first: statuses[first], node: status})
            if not (status.faults or status.no_answer or probe.sees(node.id)):
                faults[node].append(
                    f"{first} does not see what {node} wrote into {probe.place}; {probe.advice}"
                )
    finally:
        probe.remove()
    return statuses, faults


def start_on(node: Node, function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a Ray task on a machine; return its reference."""
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
    return task.remote(*arguments)


def describe_ray_error(error: Exception) -> str:
    """Return the first line of what failed in a Ray task."""
    return first_line(getattr(error, "cause", None) or error)


def _wait_for_status(task: Any, retry_timeout: float) -> NodeStatus:
    """Return the status that a machine reports, or why it does not."""
    seconds = ANSWER_SECONDS + retry_timeout
    try:
        status: NodeStatus = ray.get(task, timeout=seconds)
        return status
    except ray.exceptions.GetTimeoutError:
        return NodeStatus(no_answer=f"has not answered in {seconds:.0f} s")
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        reason = describe_ray_error(error)
        return NodeStatus(faults=(f"cannot run kdtune {__version__} ({reason}); install it there",))
    except ray.exceptions.RayError as error:  # the machine was lost during its inspection
        return NodeStatus(no_answer=f"could not be inspected ({describe_ray_error(error)})")


def _describe_trial(study: Study, trial: TrialResources) -> str:
    """Return the line that says what a trial takes of a machine with GPUs."""
    workers = loader_workers(study, device_of(study, gpus=1), trial.cpu)
    return (
        f"Each trial has --gpus-per-trial {trial.gpu:g}, --cpus-per-trial {trial.cpu} and "
        f"--loader-workers {workers}."
    )


def _table(study: Study, statuses: dict[Node, NodeStatus]) -> str:
    folders = {"study": study.folder, "cache": Cache(study.cache).folder}
    head = ["machine", "kdtune", "torch", "CPU", "GPU", *(f"free GB, {name}" for name in folders)]
    rows = []
    for node, status in statuses.items():
        counts = [f"{node.resources.get(kind, 0):g}" for kind in ("CPU", "GPU")]
        free = [f"{status.free[str(folder)] / 1e9:.1f}" for folder in folders.values()]
        rows.append([str(node), status.kdtune, status.torch, *counts, *free])
    return markdown(head, rows)


# A monitor of the machines that join the cluster or are lost while a study runs.


class MachineMonitor:
    """A monitor that names the machines that join or are lost, and inspects those that join.

    An inspection may have to wait for the store, or for a machine that is about to be lost. So it
    is a task beside the study: Tune's loop only asks whether the task has ended. A context manager:
    leaving it cancels the inspections that have not ended.

    Args:
        study: Whose trials run on the machines.
        trial: What one trial takes.
    """

    def __init__(self, study: Study, trial: TrialResources):
        self.study, self.trial = study, trial
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
        if time.monotonic() - self._last < POLL_SECONDS:
            return
        self._last = time.monotonic()
        now = alive_nodes()
        joined, lost = find_changes(self.nodes, now)
        self.nodes = now
        for node in lost:
            self._inspections.pop(node, None)
            yield f"{node} was lost; its runs resume from their last checkpoint on other machines"
        for node in joined:
            arguments = (self.study, [now[0], node], self.trial, RETRY_TIMEOUT_SECONDS)
            self._inspections[node] = start_on(now[0], inspect_nodes, *arguments)
        for node in self._inspected():
            yield from self._report(node, self._inspections.pop(node))

    def _inspected(self) -> list[Node]:
        tasks = list(self._inspections.values())
        ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0) if tasks else ([], [])
        return [node for node, task in self._inspections.items() if task in ended]

    def _report(self, node: Node, task: Any) -> Iterator[str]:
        """Yield the lines that an inspection of a machine gives; raise NodeMismatchError."""
        try:
            statuses, faults = ray.get(task)
        except ray.exceptions.RayError as error:  # of the driver's machine: memory, or the store
            yield f"warning: {node} could not be inspected ({describe_ray_error(error)})"
            return
        if own := faults.pop(node):
            raise NodeMismatchError("\n".join(own))
        yield from (f"warning: {sentence}" for found in faults.values() for sentence in found)
        if statuses[node].no_answer:
            yield f"warning: {node} {statuses[node].no_answer}"
            return
        yield f"{node} has joined"
        if sentence := find_missing_gpus(node, statuses[node]):
            yield f"warning: {sentence}"


def fingerprint(study: Study) -> str:
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
    return source_digest(importlib.import_module(name.partition(":")[0]), nn.Module())[:16]

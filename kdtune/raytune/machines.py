"""The machines of a Ray cluster: what they have, their checks, how many trials fit."""

import itertools
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from kdtune import __version__
from kdtune.config.fields import takes_features
from kdtune.config.files import join_uri
from kdtune.config.objects import importable_name
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import check_signature, ends_of, load_function, name_of
from kdtune.config.text import InputError, NodeMismatchError, RayLostError, first_line
from kdtune.data.sources import StudyData
from kdtune.models.code_hash import ObjectSource, source_digest
from kdtune.raytune.session import check_address, environment_set
from kdtune.results.formatting import markdown
from kdtune.storage.store import ConflictError, Store
from kdtune.streams import views
from kdtune.streams.cache import Cache, device_name
from kdtune.training.run import check_objectives, check_study, try_batch

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
    resources: Amounts = field(hash=False)

    def __str__(self) -> str:
        return self.name


class TrialResources(NamedTuple):
    """What one trial takes."""

    cpu: int
    gpu: float


def alive_nodes() -> list[Node]:
    """Return the machines of the cluster, that of the driver first.

    Raises RayLostError if there is none, not even that of the driver.
    """
    driver_node = ray.get_runtime_context().get_node_id()
    nodes = [
        Node(n["NodeID"], f"{n['NodeManagerAddress']} ({n['NodeManagerHostname']})", n["Resources"])
        for n in ray.nodes()
        if n["Alive"]
    ]
    if not nodes:
        raise RayLostError("no machine of Ray is alive; run the same command again to resume")
    return sorted(nodes, key=lambda node: (node.id != driver_node, node.name))


def potential_workers(cluster_file: Mapping[str, Any]) -> list[Amounts]:
    """Return the resources of the workers that the autoscaler may start, the largest first.

    The file of a cluster of type "local" does not state resources; its workers have none here
    until they have joined.
    """
    types = sorted(
        cluster_file["available_node_types"].values(),
        key=lambda kind: (kind["resources"].get("GPU", 0), kind["resources"].get("CPU", 0)),
        reverse=True,
    )
    workers = [kind["resources"] for kind in types for _ in range(kind.get("max_workers", 0))]
    return workers[: cluster_file["max_workers"]]


def trials_on_gpus(gpus: int, share: float) -> int:
    """Return how many trials fit on some GPUs, if each takes a share of one or several GPUs.

    A share is never split over two GPUs.
    """
    return gpus * int(1 / share) if share < 1 else int(gpus // share)


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


def fitting_trial(study: Study, machines: Sequence[Amounts]) -> TrialResources:
    """Return what one trial takes; raise InputError if it fits on no machine."""
    trial = trial_resources(study, machines)
    if not any(count_trials(machine, trial) for machine in machines):
        raise InputError(
            f"a trial takes {trial.cpu} CPU cores and {trial.gpu:g} GPUs, but no machine has these "
            f"for the study; lower --cpus-per-trial or --gpus-per-trial"
        )
    return trial


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
        file = (yaml.safe_load(path.read_text()) if on_head else None) or {}
        self.study, self._workers = study, potential_workers(file) if file else []
        self._concurrent, self._counted = 0, -NODE_POLL_SECONDS
        self._limits: list[tuple[frozenset[str], int]] = []
        types = file.get("available_node_types", {}).values()
        _wait_for_nodes(1 + sum(kind.get("min_workers", 0) for kind in types), tell)
        now = [node.resources for node in alive_nodes()]
        gpus = max(_count_gpus(now), _count_gpus([now[0], *self._workers]))
        if (study.gpus or 0) > gpus:
            raise InputError(
                f"--gpus must be at most {gpus} on this cluster, which has {_count_gpus(now)} now, "
                f"but got --gpus {study.gpus}. Use --gpus {gpus}"
            )
        self.trial = fitting_trial(study, [*now, *self._workers])

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
        before = self._limits
        self._limits = [(causes, limit) for causes, limit in before if trial_id not in causes]
        return self._limits != before

    def _count(self) -> int:
        first, *others = [count_trials(node.resources, self.trial) for node in alive_nodes()]
        later = first + sum(count_trials(worker, self.trial) for worker in self._workers)
        count = max(1, first + sum(others), later)
        if self.study.gpus and self.trial.gpu:
            count = min(count, trials_on_gpus(self.study.gpus, self.trial.gpu))
        return count


def _wait_for_nodes(count: int, tell: Callable[[str], None]) -> None:
    """Wait until so many machines have joined, but not for ever."""
    until = time.monotonic() + JOIN_TIMEOUT_SECONDS
    if (have := len(alive_nodes())) < count:
        tell(f"{have} of {count} machines have joined, waiting for the others")
    while len(alive_nodes()) < count and time.monotonic() < until:
        time.sleep(1.0)


def check_resources(study: Study, ray_init: Mapping[str, Any] | None) -> None:
    """Raise InputError if no cluster answers, or if this machine has less than a local study needs.

    Args:
        study: Names the cluster, or the GPUs of this machine, and what one trial takes.
        ray_init: Arguments of `ray.init` that say what Ray may use, if they are given.
    """
    if study.address is not None:
        check_address(study.address)
        return
    gpus, cpus = views.count_gpus(study), views.local_cpus()
    if ray_init is not None:
        gpus, cpus = ray_init.get("num_gpus", 0), ray_init.get("num_cpus", cpus)
    views.check_gpus(study, gpus)
    taken = gpus if study.gpus is None else study.gpus
    fitting_trial(study, [{"CPU": cpus, "GPU": taken}])
    views.check_precision(study.run, views.device_of(study, taken))


def _count_gpus(machines: Sequence[Amounts]) -> int:
    return int(sum(machine.get("GPU", 0) for machine in machines))


# Checks of every machine of the cluster before a trial runs there.
#
# Without them a study half works on machines that differ: with a folder that only some of them see,
# some trials succeed, some fail, and the exit code is 0.


_ANSWER_SECONDS = 300.0
"""Time for a machine to answer, with an outage of the store; its worker first imports torch."""
PROPAGATION_SECONDS = 5.0
"""A shared folder may show what other machines wrote with a delay (NFS: 3 s)."""


class StorageProbe:
    """Small files by which the machines find out whether they share the study's folder or store.

    Args:
        study: Says which place it is.
    """

    def __init__(self, study: Study):
        self.folder = study.folder / f".preflight-{uuid.uuid4().hex[:8]}"
        self.uri = None if study.uri is None else join_uri(study.uri, self.folder.name)

    def answer(self, name: str) -> None:
        """Read the driver's file and write one of another name into the same place.

        Raises:
            InputError: The driver's file is not there.
            OSError: The place cannot be written.
        """
        if not self._sees("driver"):
            raise InputError(
                f"does not see what the driver wrote into {self.uri or self.folder}; --out must be "
                f"a folder that all machines share, or s3://BUCKET/PREFIX"
            )
        self.write(name)

    def write(self, name: str) -> None:
        """Write a file of this name for the other machines."""
        if self.uri is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(name)
            return
        store = Store(self.uri)
        with suppress(ConflictError):  # an attempt whose answer was lost has written it
            store.retry(lambda: store.write_if(None, name.encode(), name))

    def _sees(self, name: str) -> bool:
        if self.uri is not None:
            store = Store(self.uri)
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
                store = Store(self.uri)
                for name in store.names():
                    store.delete(name)


class Inspection(NamedTuple):
    """What every machine of a study is inspected for; the driver makes it once."""

    study: Study
    trial: TrialResources
    fingerprints: Mapping[str, str]
    """Of what its trials are made of, in the driver's process; see `fingerprints_of`."""
    photos: bool = False
    """Whether its examples are image files."""
    run_bytes: int = 0
    """Size of the files of one trial."""


@dataclass(frozen=True)
class NodeReport:
    """What one machine reports about itself."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """What must be the same on all machines: versions, and fingerprints of data, models, code."""
    gpus: int = 0
    """GPUs that torch sees."""
    free: int = 0
    """Free bytes on the disk of the study's folder."""
    faults: tuple[str, ...] = ()
    """Sentences, without the machine's name."""
    no_answer: str = ""
    """Why the machine did not answer: it or its worker was lost, which is no fault."""


def fingerprints_of(study: Study, data: StudyData | None = None) -> dict[str, str]:
    """Return content hashes of what a study's trials are made of: 16 hex digits each.

    That of a training function changes with the code of its module and of the user's own modules
    that it imports. Of a script or a notebook it is that which the function needs.

    Args:
        study: The study.
        data: Its data; None reads them. A training function of the user's own has none.

    Raises:
        InputError: Data, a model, an objective or the training function cannot work.
    """
    if study.train is None:
        study_data = (data or StudyData(study.run)).with_extra(study.run)
        objectives = check_objectives(study, len(study_data.classes))
        return check_study(study, study_data) | objectives
    name = name_of(study.train)
    if callable(study.train):
        check_signature(study.train, name)
        if importable_name(study.train) is None:
            return {"train": ObjectSource.of(study.train).digest[:16]}
    else:
        load_function(name)
    return {"train": source_digest([name.partition(":")[0]], nn.Module())[:16]}


def report_node(
    node: Node, probe: StorageProbe, inspection: Inspection, is_driver: bool = False
) -> NodeReport:
    """Return the report of the machine on which this function runs; never raise.

    Args:
        node: The machine.
        probe: In whose place the driver has written its file.
        inspection: What it is inspected for.
        is_driver: Whether it is the driver's, whose fingerprints are known.
    """
    study, faults = inspection.study, list[str]()

    def attempt(ask: Callable[[], Any], otherwise: Any = None) -> Any:
        try:
            return ask()
        except Exception as error:  # of the disk, the store, or the user's model
            faults.append(first_line(error, 1_000))  # with the path at its end
            return otherwise

    attempt(lambda: probe.answer(node.id))
    found = inspection.fingerprints
    if not is_driver:
        found = attempt(lambda: fingerprints_of(study), {})
    gpus = attempt(lambda: _visible_gpus(study), 0)
    free = attempt(lambda: _free_bytes(study.folder), inspection.run_bytes)
    if study.train is None:
        attempt(Cache(study.cache, study.cache_gb).check)
    if free < (need := inspection.run_bytes):
        faults.append(f"{study.folder} has {free} free bytes, but one run needs {need}")
    if count_trials(node.resources, inspection.trial):
        attempt(lambda: views.check_precision(study.run, views.device_of(study, gpus)))
    facts = {"kdtune": __version__, "torch": torch.__version__.split("+")[0], **found}
    return NodeReport(facts, gpus, free, tuple(faults))


def _find_missing_gpus(node: Node, report: NodeReport) -> list[str]:
    """Return a warning if Ray counts GPUs on a machine that torch does not see."""
    counted = int(node.resources.get("GPU", 0))
    seen = f"Ray counts {counted} GPUs, but torch sees {report.gpus}"
    return [f"warning: {node}: {seen}; runs use its CPUs"] if report.gpus < counted else []


def _visible_gpus(study: Study) -> int:
    """Return the number of the machine's GPUs, including those that Ray hides from this task."""
    with environment_set(CUDA_VISIBLE_DEVICES=None):
        return views.count_gpus(study)


def _free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def preflight(inspection: Inspection) -> list[str]:
    """Inspect every machine of the cluster, and try one batch on its GPU.

    Returns:
        Lines for the terminal: a table with a row per machine (if there are several), what a trial
        takes (if it takes GPUs) and warnings.

    Raises:
        NodeMismatchError: A machine cannot run the study's trials; one line per fault.
        InputError, OSError: The driver cannot write into the study's place.
        InputError: A batch of a trial cannot be computed on a GPU.
    """
    study, trial = inspection.study, inspection.trial
    first, *others = alive_nodes()
    reports, faults = inspect_nodes(inspection, first, others)
    lines = [sentence for sentences in faults.values() for sentence in sentences]
    lines += [f"{node} {report.no_answer}" for node, report in reports.items() if report.no_answer]
    if lines:
        raise NodeMismatchError("\n".join(lines))
    lines = [_table(reports)] if others else []
    for node, report in reports.items():
        lines += _find_missing_gpus(node, report)
    if with_gpus := [node for node, report in reports.items() if trial.gpu and report.gpus]:
        lines += check_gpus_compute(study, with_gpus, trial)
        workers = views.loader_workers(
            study, inspection.photos, views.device_of(study, gpus=1), trial.cpu
        )
        lines.append(
            f"Each trial has --gpus-per-trial {trial.gpu:g}, --cpus-per-trial {trial.cpu} and "
            f"--loader-workers {workers}."
        )
    return lines


def inspect_nodes(
    inspection: Inspection, first: Node, others: Sequence[Node]
) -> tuple[dict[Node, NodeReport], dict[Node, list[str]]]:
    """Inspect machines from the first of them, that of the driver, on which this function runs.

    Returns:
        The report of each machine, and a sentence for each of its faults and for what differs from
        the first one.

    Raises:
        InputError, OSError: The first machine cannot write into the study's place.
    """
    probe = StorageProbe(inspection.study)
    try:
        probe.write("driver")
        tasks = {node: start_on(node, report_node, node, probe, inspection) for node in others}
        reports = {first: report_node(first, probe, inspection, is_driver=True)}
        reports |= {node: _wait_for_report(task) for node, task in tasks.items()}
    finally:
        probe.remove()
    ours, faults = reports[first].facts, {}
    for node, report in reports.items():
        faults[node] = [f"{node}: {sentence}" for sentence in report.faults]
        faults[node] += [
            f"{node} has {name} {theirs}, but {first} has {ours[name]}; make them the same"
            for name, theirs in report.facts.items()
            if name in ours and ours[name] != theirs
        ]
    return reports, faults


def start_on(node: Node, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Start a Ray task on a machine, by default without CPUs of its own; return its reference."""
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy} | options
    return ray.remote(function).options(**options).remote(*arguments)


def describe_ray_error(error: Exception) -> str:
    """Return the first line of what failed in a Ray task."""
    return first_line(getattr(error, "cause", None) or error)


def _wait_for_report(task: Any) -> NodeReport:
    """Return the report of a machine, or one that says why there is none."""
    try:
        report: NodeReport = ray.get(task, timeout=_ANSWER_SECONDS)
        return report
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        reason = describe_ray_error(error)
        return NodeReport(faults=(f"cannot run kdtune {__version__} ({reason}); install it there",))
    except ray.exceptions.RayError as error:  # the machine was lost meanwhile, or did not answer
        return NodeReport(no_answer=f"could not be inspected ({describe_ray_error(error)})")


def _table(reports: Mapping[Node, NodeReport]) -> str:
    head = ["machine", "kdtune", "torch", "CPU", "GPU", "free GB"]
    rows = []
    for node, report in reports.items():
        versions = [report.facts["kdtune"], report.facts["torch"]]
        counts = [f"{node.resources.get(kind, 0):g}" for kind in ("CPU", "GPU")]
        rows.append([str(node), *versions, *counts, f"{report.free / 1e9:.1f}"])
    return markdown(head, rows)


# One batch of a trial is computed on a GPU of each machine before the study starts, so that what
# no trial can do there is known at once. Trials that do not fit beside each other are retried by
# the recorder, fewer at a time.


BATCH_SECONDS = 180.0
"""Time for a batch on a GPU; a new worker first imports torch."""


def check_gpus_compute(study: Study, nodes: Sequence[Node], trial: TrialResources) -> list[str]:
    """Try a batch on one GPU of each machine, all machines at the same time.

    Args:
        study: Whose largest batch is tried.
        nodes: The machines with GPUs.
        trial: What one trial takes.

    Returns:
        Lines for the terminal: what could not be tried.

    Raises:
        InputError: It fails; with one line per machine.
    """
    # max_calls: the process ends with the task and frees the GPU
    options = {"num_gpus": trial.gpu, "max_calls": 1}
    tasks = {node: start_on(node, try_on_gpu, study, **options) for node in nodes}
    faults, untried = [], []
    for node, reference in tasks.items():
        try:
            fault = ray.get(reference, timeout=BATCH_SECONDS)
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


def try_on_gpu(study: Study) -> str:
    """Compute the study's largest batch with each pair of its models on the GPU of this Ray task.

    Returns:
        Why trials would fail; "" if they would not, or if there is no CUDA.
    """
    device = views.device_of(study)
    if device.type != "cuda":
        return ""
    data = StudyData(study.run).of(study.run)
    for run in largest_runs(study):
        try:
            try_batch(run, data, device)
        except Exception as error:  # of a user's model, of the GPU's driver, or for lack of memory
            return (
                f"a training step with --batch-size {run.batch_size}, the largest of this study, "
                f"fails on this GPU ({device_name(device)}: {first_line(error, 200)})"
            )
    return ""


def largest_runs(study: Study) -> list[Run]:
    """Return a run with the largest batch for each pair of a student and a teacher of the study.

    A loss of features, which has a projector, is taken where the study has one, and an average of
    the weights, which is a copy of the student.
    """
    values = {name: ends_of(study.values(name)) for name in ("batch_size", "ema")}
    largest: dict[str, Any] = {name: max(ends) for name, ends in values.items()}
    trains_all = "all" in study.values("trainable")  # type: ignore[operator]
    base = replace(study.run, trainable="all" if trains_all else "head", **largest)
    for loss in filter(takes_features, views.losses_of(study)):
        base = replace(base, loss=loss, alpha=0.5)
    names = (ends_of(study.values(name)) for name in ("student", "teacher"))
    return [replace(base, student=str(s), teacher=str(t)) for s, t in itertools.product(*names)]


class MachineMonitor(AbstractContextManager["MachineMonitor"]):
    """A monitor that names the machines that join or are lost, and inspects those that join.

    An inspection may have to wait for the store, or for a machine that is about to be lost. So it
    is a task beside the study: Tune's loop only asks whether the task has ended. A context manager:
    leaving it cancels the inspections that have not ended.

    Args:
        inspection: What machines that join are inspected for.
    """

    def __init__(self, inspection: Inspection):
        self.inspection = inspection
        self.nodes = alive_nodes()
        self._tasks: dict[Node, Any] = {}
        self._last = time.monotonic()

    def __exit__(self, *_: object) -> None:
        for task in self._tasks.values():
            ray.cancel(task)
        self._tasks = {}

    def poll(self) -> Iterator[str]:
        """Yield a line for each change since the last call.

        Raises:
            NodeMismatchError: A machine has joined that cannot run the study's trials: they would
                fail one after another, or train on other data.
        """
        if time.monotonic() - self._last < NODE_POLL_SECONDS:
            return
        self._last = time.monotonic()
        before, self.nodes = self.nodes, alive_nodes()
        old, new = ({node.id for node in nodes} for nodes in (before, self.nodes))
        for node in before:
            if node.id not in new:
                self._tasks.pop(node, None)
                yield (
                    f"{node} was lost; its runs resume from their last checkpoint on other machines"
                )
        first = self.nodes[0]
        for node in self.nodes:
            if node.id not in old:  # also one that has restarted
                self._tasks[node] = start_on(first, inspect_nodes, self.inspection, first, [node])
        for node, task in list(self._tasks.items()):
            if ray.wait([task], timeout=0)[0]:
                yield from self._report(node, self._tasks.pop(node))

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
        yield from _find_missing_gpus(node, reports[node])

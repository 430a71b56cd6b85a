"""What must hold on every machine before a trial runs there: one table, one sentence a fault.

Ray half-works on a cluster whose machines differ: with a folder that others do not see, some trials
succeed, some fail, and the exit code is 0.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.files import join_uri
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.raytune.machines import Node, alive
from kdtune.results.tables import markdown
from kdtune.storage.object_store import SHORT_RETRY_TIMEOUT_SECONDS, Store
from kdtune.streams.cache import Cache
from kdtune.training.run import make_student
from kdtune.training.teacher import initial_teacher

ANSWER_SECONDS = 180.0
"""A machine must answer in so long, and an outage of the store: its worker first imports torch."""
SHARE_SECONDS = 5.0
"""A shared folder may show what others wrote a little later (NFS: 3 s)."""
CHECKPOINT_SHARE = 4
"""A run's files, in sizes of its student: its weights, in its checkpoint again with up to two
moments of the optimiser."""


@dataclass(frozen=True)
class NodeStatus:
    """What one machine says of itself."""

    kdtune: str = __version__
    torch: str = ""
    """Version, without the part that says for which device it was built."""
    gpus: int = 0
    """That torch sees."""
    free: dict[str, int] = field(default_factory=dict)
    """Bytes that may be written into each of the folders used."""
    data: str = ""
    teacher: str = ""
    student: str = ""
    """Fingerprints: what they were made from and their weights."""
    faults: tuple[str, ...] = ()
    """Sentences, without the machine's name."""
    unseen: str = ""
    """Why the machine said nothing: it went, or its worker did, which is no fault found on it."""


def preflight(study: Study) -> list[str]:
    """NodeStatus at every machine of the cluster.

    Returns:
        A line each: a table with a row a machine, warnings; nothing of one that is all right alone.

    Raises:
        InputError: a machine will not do; a line a fault.
    """
    looks, faults = survey(study, alive(), SHORT_RETRY_TIMEOUT_SECONDS)
    words = [sentence for said in faults.values() for sentence in said]
    words += [f"{node} {seen.unseen}" for node, seen in looks.items() if seen.unseen]
    if words:
        raise InputError("\n".join(words))
    table = [_table(study, looks)] if len(looks) > 1 else []
    warnings = [too_few_gpus(node, seen) for node, seen in looks.items()]
    return table + [f"warning: {words}" for words in warnings if words]


def survey(
    study: Study, nodes: list[Node], patience: float
) -> tuple[dict[Node, NodeStatus], dict[Node, list[str]]]:
    """NodeStatus at machines from the first of them, the driver's own.

    Args:
        study: whose place, data and weights are looked at.
        nodes: the machines; this runs on the first.
        patience: seconds for which an outage of the store is ridden out.

    Returns:
        What each machine says of itself, and a sentence for each fault of it.

    Raises:
        InputError, OSError: the first machine cannot write into the study's place.
    """
    first, *others = nodes
    probe = Probe(study, patience)
    try:
        probe.write("driver")
        looks = {first: look(study, probe)}
        tasks = {node: ask(node, look, study, probe) for node in others}
        looks |= {node: _answer(node, task, patience) for node, task in tasks.items()}
        faults = {
            node: [f"{node}: {words}" for words in seen.faults] for node, seen in looks.items()
        }
        for node in others:
            faults[node] += differences(study, {first: looks[first], node: looks[node]})
            if not (looks[node].faults or looks[node].unseen or probe.sees(node.id)):
                faults[node].append(
                    f"{first} does not see what {node} wrote into {probe.place}; {probe.advice}"
                )
    finally:
        probe.remove()
    return looks, faults


def look(study: Study, probe: "Probe") -> NodeStatus:
    """NodeStatus at the machine on which this runs; never raises."""
    faults: list[str] = []

    def tell(ask: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return ask()
        except Exception as error:
            faults.append(str(error).splitlines()[0] if str(error) else repr(error))
            return otherwise

    tell(lambda: probe.pass_on(ray.get_runtime_context().get_node_id()), None)
    student = tell(lambda: make_student(study.run), None)
    folders = (study.folder, Cache(study.cache).folder)
    seen = NodeStatus(
        torch=torch.__version__.split("+")[0],
        gpus=tell(_visible_gpus, 0),
        free=tell(lambda: {str(folder): _free(folder) for folder in folders}, {}),
        data=tell(lambda: load_data(study.run.data).fingerprint, ""),
        teacher=tell(lambda: initial_teacher(study.run).fingerprint(), ""),
        student=tell(student.fingerprint, "") if student else "",
    )
    if student and seen.student and seen.free:
        need = CHECKPOINT_SHARE * sum(v.nbytes for v in student.net.state_dict().values())
        if (free := seen.free[str(study.folder)]) < need:
            faults.append(f"{study.folder} has room for {free} bytes, but one run needs {need}")
    return replace(seen, faults=tuple(faults))


def differences(study: Study, looks: dict[Node, NodeStatus]) -> list[str]:
    """A sentence for each way in which a machine differs from the first, the driver's own."""
    (first, own), *others = looks.items()
    words = []
    for node, seen in others:
        for name in ("kdtune", "torch"):
            have, need = getattr(seen, name), getattr(own, name)
            if have and have != need:
                words.append(f"{node} has {name} {have}, but {first} has {need}; install the same")
        for name, path in (
            ("data", study.run.data),
            ("teacher", study.run.teacher_weights),
            ("student", study.run.student_weights),
        ):
            have, need = getattr(seen, name), getattr(own, name)
            if have and need and have != need:  # what cannot be read has no fingerprint
                words.append(f"{node} has another {name} than {first} in {path}; copy it there")
    return words


def too_few_gpus(node: Node, seen: NodeStatus) -> str | None:
    """A sentence where Ray counts GPUs that torch does not see."""
    counted = int(node.resources.get("GPU", 0))
    if seen.gpus >= counted:
        return None
    return f"{node}: Ray counts {counted} GPUs, but torch sees {seen.gpus}; runs use its CPUs"


class Probe:
    """Files by which the machines tell whether all of them see the study's place.

    Args:
        study: whose place it is.
        patience: seconds for which an outage of the store is ridden out.
    """

    def __init__(self, study: Study, patience: float = SHORT_RETRY_TIMEOUT_SECONDS):
        self.patience = patience
        self.folder = study.folder / f".preflight-{uuid.uuid4().hex[:8]}"
        self.uri = None if study.uri is None else join_uri(study.uri, self.folder.name)
        self.place = study.uri or str(study.folder)
        self.advice = "--out must be a folder that all machines share, or s3://BUCKET/PREFIX"

    def pass_on(self, name: str) -> None:
        """Read what the driver wrote, and write for the driver; raises InputError, OSError."""
        if not self.sees("driver"):
            raise InputError(f"does not see what the driver wrote into {self.place}; {self.advice}")
        self.write(name)

    def write(self, name: str) -> None:
        """Leave a file of this name for the others."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        if self.uri is not None:
            self._store().put(file, name)

    def sees(self, name: str) -> bool:
        """Whether the file of this name is there."""
        if self.uri is not None:
            return self._store().get(name, self.folder / f"{name}.seen") is not None
        until = time.monotonic() + SHARE_SECONDS
        while not (self.folder / name).exists() and time.monotonic() < until:
            time.sleep(0.2)
        return (self.folder / name).exists()

    def remove(self) -> None:
        """Leave nothing behind; a store that cannot be reached keeps it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.uri is not None:
            with suppress(InputError, OSError):
                for name in self._store().names():
                    self._store().delete(name)

    def _store(self) -> Store:
        assert self.uri is not None
        return Store(self.uri, self.patience)


def ask(node: Node, what: Callable[..., Any], *arguments: Any) -> Any:
    """A call on a machine, as a task that has begun there."""
    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task = ray.remote(what).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return task.remote(*arguments)


def _answer(node: Node, task: Any, patience: float) -> NodeStatus:
    """What the machine says, or why it says nothing."""
    seconds = ANSWER_SECONDS + patience
    try:
        seen: NodeStatus = ray.get(task, timeout=seconds)
        return seen
    except ray.exceptions.GetTimeoutError:
        return NodeStatus(unseen=f"has not answered in {seconds:.0f} s")
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        words = f"cannot run kdtune {__version__} ({reason(error)}); install it there"
        return NodeStatus(faults=(words,))
    except ray.exceptions.RayError as error:  # it was taken while it was asked
        return NodeStatus(unseen=f"could not be looked at ({reason(error)})")


def reason(error: Exception) -> str:
    """The first line of what has failed there."""
    cause = getattr(error, "cause", None) or error
    return (str(cause).strip() or repr(cause)).splitlines()[0][:200]


def _table(study: Study, looks: dict[Node, NodeStatus]) -> str:
    folders = {"study": study.folder, "cache": Cache(study.cache).folder}
    head = ["machine", "kdtune", "torch", "CPU", "GPU", *(f"free GB, {name}" for name in folders)]
    rows = []
    for node, seen in looks.items():
        counts = [f"{node.resources.get(kind, 0):g}" for kind in ("CPU", "GPU")]
        free = [f"{seen.free[str(folder)] / 1e9:.1f}" for folder in folders.values()]
        rows.append([str(node), seen.kdtune, seen.torch, *counts, *free])
    return markdown(head, rows)


def _visible_gpus() -> int:
    """GPUs that torch would see, had Ray not hidden those that this task has not asked for."""
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        return torch.cuda.device_count()
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def _free(folder: Path) -> int:
    """Bytes that may be written below a folder, which need not be there yet."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free

"""What one machine reports about itself, and what of it keeps a study from running there."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import torch

from kdtune import __version__
from kdtune.config.errors import InputError, first_line
from kdtune.config.function_run import name_of
from kdtune.config.names import Weights
from kdtune.config.study import Study
from kdtune.data.extra import with_extra
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier
from kdtune.raytune.machines import Node, TrialResources, count_trials
from kdtune.raytune.own_function import fingerprint
from kdtune.raytune.storage_probe import StorageProbe
from kdtune.streams.cache import Cache
from kdtune.streams.resources import check_precision, count_gpus, device_of
from kdtune.training.recipe import students, teachers
from kdtune.training.run import make_student
from kdtune.training.teacher import initial_teacher

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
    models = [] if own else attempt(lambda: [make_student(run) for run in students(study)], [])
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
    return " ".join(initial_teacher(run).fingerprint() for run in teachers(study))


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

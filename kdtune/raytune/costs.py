"""Cost of the study's students and teachers, measured once before its trials."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import ray
import torch

from kdtune.config.cost import Cost, read_costs, write_costs
from kdtune.config.errors import first_line
from kdtune.config.files import COSTS
from kdtune.config.names import Role, is_output_file
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.data.views import samples
from kdtune.models.cost import measure
from kdtune.models.ensemble import networks
from kdtune.raytune.machines import TrialResources
from kdtune.storage.mirror import Mirror
from kdtune.streams.resources import Resources
from kdtune.streams.shards import view_size
from kdtune.training.run import make_student
from kdtune.training.teacher import initial_teacher


def measure_before_ray(study: Study, mirror: Mirror, say: Callable[[str], None] = print) -> None:
    """Measure what costs.json lacks if the study runs on the CPUs of this machine.

    The machine is idle now; workers of Ray would use its cores.
    """
    if _runs_on_these_cpus(study):
        _add(study, mirror, say, lambda missing: measure_all(study, missing))


def measure_with_ray(
    study: Study, mirror: Mirror, trial: TrialResources, say: Callable[[str], None]
) -> None:
    """Measure what costs.json still lacks in a Ray task that has the resources of a trial.

    The task releases its GPU on return, which the driver's own process could not.
    """
    if _runs_on_these_cpus(study):
        return  # what is lacking now could not be measured
    task = ray.remote(num_cpus=trial.cpu, num_gpus=trial.gpu, max_retries=0)(measure_all)
    _add(study, mirror, say, lambda missing: ray.get(task.remote(study, missing)))


def _runs_on_these_cpus(study: Study) -> bool:
    return not study.address and Resources.of(study).device.type == "cpu"


Missing = list[tuple[Role, str]]


def _add(
    study: Study,
    mirror: Mirror,
    say: Callable[[str], None],
    measure_missing: Callable[[Missing], tuple[list[Cost], list[str]]],
) -> None:
    """Add what costs.json lacks; what is there is never measured again."""
    known = read_costs(study.folder)
    done = {(cost.role, cost.model) for cost in known}
    missing: Missing = [pair for pair in _models(study) if pair not in done]
    if not missing:
        return
    names = dict.fromkeys(model for _, model in missing)
    say(f"Measuring parameters, FLOPs and latency of {', '.join(names)}.")
    try:
        costs, faults = measure_missing(missing)
    except ray.exceptions.RayError as error:
        costs, faults = [], [f"cost of the models cannot be measured ({first_line(error)})"]
    for fault in faults:
        say(f"warning: {fault}")
    if costs:
        write_costs(study.folder, [*known, *costs])
        mirror.push(COSTS)


def measure_all(study: Study, missing: Missing) -> tuple[list[Cost], list[str]]:
    """Return the costs of models, and a sentence for each that cannot be measured."""
    device = Resources.of(study).device
    costs, faults = [], []
    for role, name in missing:
        try:
            costs.append(_measure(study, role, name, device))
        except Exception as error:  # out of memory, for instance; the study does not need it
            faults.append(f"the cost of the {role} {name} cannot be measured ({first_line(error)})")
    return costs, faults


def _measure(study: Study, role: Role, name: str, device: torch.device) -> Cost:
    run: Run = replace(study.run, **{role: name})  # type: ignore[arg-type]
    data, student = load_data(run), make_student(run)
    teacher = [initial_teacher(member) for member in run.teacher_members]
    views = samples(data, run, view_size(run, data, student, *teacher))
    members = (student,) if role == "student" else networks(teacher)
    placed = [model.place(device, run.precision) for model in members]
    return replace(measure(placed, role, views, study.cpus_per_trial or 1), model=name)


def _models(study: Study) -> Iterator[tuple[Role, str]]:
    """Yield every student and teacher of the study that is a network."""
    roles: tuple[Role, ...] = ("student", "teacher")
    for role in roles:
        names = map(str, study.values(role))  # type: ignore[arg-type]
        yield from ((role, name) for name in names if not is_output_file(name))

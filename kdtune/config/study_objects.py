"""Objects and files of outputs in a study: those that its space lists, those that it lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdtune.config.names import is_object
from kdtune.config.objects import KINDS, missing_error
from kdtune.config.run_checks import with_own_weights
from kdtune.config.teacher_outputs import with_output_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdtune.config.run import Run
    from kdtune.config.study import Study


def take_objects(study: Study) -> None:
    """Put models that the space lists as objects into the run's objects, and drop unused ones.

    The space then lists their names. Call it while the study is being made: it is changed.

    Raises:
        InputError: The space cannot have an object.
    """
    objects, space, changes = study.run.objects, dict(study.space), dict[str, Any]()
    for role in ("teacher", "student"):
        if isinstance(values := space.get(role), list | tuple):
            names = []
            for value in values:
                name, objects = objects.named(role, value)
                names.append(name)
            space[role] = tuple(names)
            are_objects = all(a is not b for a, b in zip(names, values, strict=True))
            given = study.run.teacher_epochs is not None or "teacher_epochs" in space
            if role == "teacher" and are_objects and not given:
                changes["teacher_epochs"] = 0
    if not (objects or objects.functions):
        return
    models = {role: _models(study.run, space, role) for role in ("teacher", "student")}
    used = [study.run.data, *models["teacher"], *models["student"]]
    unused = {f"{name}=none" for name in objects.functions - set(used)}
    for role, names in models.items():
        weights = with_own_weights(getattr(study.run, f"{role}_weights"), names, objects)
        if not isinstance(weights, str):  # without those of functions that the study lacks
            weights = tuple(pair for pair in weights if pair not in unused) or "default"
        changes[f"{role}_weights"] = weights
    run = replace(study.run, **changes, objects=objects.only(used))
    object.__setattr__(study, "run", run)
    object.__setattr__(study, "space", space)


def take_output_files(study: Study) -> None:
    """Replace the paths of teachers in the space that are files by their names.

    Their paths become weights of the run. Call it while the study is being made: it is changed.

    Raises:
        InputError: Two files have the same name.
    """
    values = study.space.get("teacher")
    if not isinstance(values, list | tuple):
        return
    run = study.run
    named, weights = with_output_files(run.teacher_weights, run.teacher, values)
    if weights == run.teacher_weights:
        return
    object.__setattr__(study, "run", replace(run, teacher_weights=weights))
    object.__setattr__(study, "space", {**study.space, "teacher": named})


def _models(run: Run, space: Mapping[str, Any], role: str) -> list[str]:
    """Return the names of a study's teachers or students, the members of ensembles one by one."""
    listed = space.get(role, (getattr(run, role),))
    values = listed if isinstance(listed, tuple) else ()
    return [name for value in values for name in str(value).split("+")]


def check_objects(study: Study) -> None:
    """Raise InputError if the study names objects that have not been passed."""
    missing = {n: k for n, k in object_names(study).items() if n not in study.run.objects.passed}
    if missing:
        raise missing_error(missing, str(study.uri or study.folder))


def object_names(study: Study) -> dict[str, str]:
    """Return the name of each object of a study, with the field of a run that it is for."""
    found: dict[str, str] = {}
    for kind in KINDS:
        values: Any = (study.run.data,) if kind == "data" else study.values(kind)
        for name in (part for value in values for part in str(value).split("+")):
            if is_object(name):
                found.setdefault(name, kind)
    return found


def describe_fixed_students(study: Study) -> list[str]:
    """Return a sentence for students that begin with the same weights in every repeat."""
    passed = study.run.objects.passed
    names = [name for name in _models(study.run, study.space, "student") if name in passed]
    return [
        f"the student {name} is a module, so all repeats begin with its weights and differ only in "
        f"order, augmentation and dropout; pass a function that makes the module if the initial "
        f"weights should vary, too"
        for name in names
        if passed[name].is_module
    ]

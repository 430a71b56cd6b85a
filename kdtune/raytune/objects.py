"""Objects that were passed, before a study: whether it can have them; copies of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray

from kdtune.config.errors import InputError
from kdtune.config.objects import Objects, Passed, describe
from kdtune.config.study import Study
from kdtune.config.study_objects import object_names
from kdtune.raytune.frozen import Frozen


def take_objects(study: Study, ray_init: Mapping[str, Any] | None = None) -> Study:
    """Return the study with copies of the models that were passed as objects.

    Data are not copied, but read once, when they are needed. Whatever the user changes later, also
    in the objects themselves, is another study's.

    Args:
        study: The study.
        ray_init: Arguments of `ray.init` in place of those that the study asks for.

    Raises:
        InputError: A model cannot be copied, or the study does not run on this machine alone.
    """
    if not study.run.objects:
        return study
    names = object_names(study)
    given = {name: kind for name, kind in names.items() if name in study.run.objects.passed}
    if not given:
        return study
    _check_place(study, ray_init, given)
    passed = {
        name: _taken(kind, name, study.run.objects.passed[name]) for name, kind in given.items()
    }
    return with_objects(study, passed)


def _taken(kind: str, name: str, passed: Passed) -> Passed:
    return Passed(passed.value) if kind == "data" else Frozen(kind, name, passed.value)


def with_objects(study: Study, passed: Mapping[str, Passed]) -> Study:
    """Return the study with other objects under the same names."""
    objects = Objects(passed, study.run.objects.functions)
    return replace(study, run=replace(study.run, objects=objects))


def _check_place(
    study: Study, ray_init: Mapping[str, Any] | None, names: Mapping[str, str]
) -> None:
    """Raise InputError if other machines take part, which do not have this process's objects."""
    address = (ray_init or {}).get("address", study.address)
    if study.uri is not None:
        where = f"--out {study.out}"
    elif address not in (None, "local"):
        where = f"--address {address}"
    elif ray.is_initialized() and len([node for node in ray.nodes() if node["Alive"]]) > 1:
        where = "a Ray cluster of several machines"
    else:
        return
    name, kind = next(iter(names.items()))
    raise InputError(
        f"objects can be passed only if everything runs and stays on this machine, but got {where} "
        f"and {describe(kind, name)}; put a function that makes the {kind} into a module that "
        f'every machine can import, and give its name: {kind}="my_module:my_function"'
    )

"""The job of a study of a training function of the user's own."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray import cloudpickle
from torch import nn

from kdtune.config.errors import InputError, first_line
from kdtune.config.function_run import check_signature, is_importable, load_function, name_of
from kdtune.config.study import Study
from kdtune.models.object_source import ObjectSource
from kdtune.models.user_source import source_digest
from kdtune.raytune.function_trial import run_function_trial
from kdtune.raytune.job import Job
from kdtune.storage.records import SavedStudy


class FunctionJob(Job):
    """Trials are calls of a function that yields metrics."""

    def begin(self, study: Study) -> Study:
        """Return the study; raise InputError if other machines cannot import its function."""
        if callable(study.train) and not is_importable(study.train):
            if study.address is not None or study.uri is not None:
                raise InputError(
                    f"train must be importable on every machine of a cluster, but "
                    f"{name_of(study.train)} is defined in a notebook, a script or another "
                    f"function; put it into a module and give train='module:function'"
                )
            try:
                cloudpickle.dumps(study.train)
            except Exception as error:  # whatever an object of the user raises
                raise InputError(
                    f"train cannot be sent to another process ({first_line(error)}); put it into a "
                    f"module and give train='module:function'"
                ) from None
        return study

    def fingerprints(self, study: Study) -> dict[str, str]:
        """Return the fingerprint of the function's module and of what it imports of the user's."""
        return {"train": fingerprint(study)}

    def provenance(self, asked: Study, study: Study, saved: SavedStudy | None) -> Mapping[str, Any]:
        """Return nothing: kdtune knows nothing of the function's data and models."""
        return {}

    def describe(self, provenance: Mapping[str, Any]) -> Sequence[str]:
        """Return no lines."""
        return []

    def warnings(self, study: Study, count: int) -> Iterator[str]:
        """Yield a sentence if there will be no verdict."""
        if not study.has_plain:
            yield "the study has no baseline (baseline={...}), so there will be no verdict"

    def trainable(self, study: Study) -> Callable[..., None]:
        """Return the function that calls the user's."""
        return run_function_trial


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

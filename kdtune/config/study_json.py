"""JSON of a study: the content of study.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdtune.config.function_run import name_of
from kdtune.config.hyperparameters import Range
from kdtune.config.migrations import SCHEMA
from kdtune.config.run import Run
from kdtune.config.study_checks import OF_FUNCTION

if TYPE_CHECKING:
    from kdtune.config.study import Study

NOT_SAVED = ("flags", "tracker", "notify", "dump")
"""Fields that are no part of a study: how it was asked for and who hears of it. A command for
notify may hold a password."""


def to_json(study: Study, fingerprints: Mapping[str, str]) -> str:
    """Return the text of study.json, see `Study.to_json`."""
    own: dict[str, Any] = {"schema": SCHEMA, "fingerprints": dict(fingerprints)}
    others = ("train", *OF_FUNCTION) if study.train is None else ("run",)
    values = dataclasses.asdict(study)
    own |= {name: value for name, value in values.items() if name not in (*NOT_SAVED, *others)}
    if study.train is None:
        own["run"] = {n: value for n, value in own["run"].items() if n != "objects"}
    else:
        own["train"] = name_of(study.train)
    return json.dumps(own, indent=2)


def arguments_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Study` that migrated JSON stands for.

    Raises TypeError, KeyError or ValueError if it is no study.
    """
    own = {k: v for k, v in values.items() if k not in ("schema", "fingerprints")}
    space = {k: Range(**v) if isinstance(v, dict) else v for k, v in own["space"].items()}
    run = {} if own.get("train") else {"run": Run(**own["run"])}
    return {**own, **run, "space": space}

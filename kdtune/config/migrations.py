"""Schema of study.json, and migrations from older ones.

The schema is raised when the meaning of a study's files changes, not for a new field with a
default.

    1   version 0.1: the fields of the study alone; the fingerprints stand in provenance.json
    2   `schema`, `fingerprints` of data, teacher and student, and the fields of the study
    3   the teacher has a recipe of its own (teacher_*), val and test a transform of their own
    4   the finalists are recorded before their final repeats start, see `storage.records`
"""

from collections.abc import Mapping
from typing import Any

from kdtune.config.text import InputError

SCHEMA = 4
INTERPOLATIONS = ("eval_interpolation", "teacher_interpolation", "student_interpolation")


def schema_of(values: Mapping[str, Any]) -> int:
    """Return the schema of a study's JSON."""
    return int(values.get("schema", 1))


def check_schema(schema: int, what: str = "this study") -> None:
    """Raise InputError if a schema is newer than this version of kdtune."""
    if schema > SCHEMA:
        raise InputError(
            f"{what} was written by a newer version of kdtune (schema {schema}, but this version "
            f"reads schema {SCHEMA} and older); update kdtune to read it"
        )


def migrate(
    values: Mapping[str, Any], provenance: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the JSON of a study in the present schema.

    Args:
        values: The content of study.json.
        provenance: The content of provenance.json, where schema 1 has the fingerprints.

    Raises:
        InputError: The schema is newer than this version of kdtune.
    """
    schema = schema_of(values)
    check_schema(schema)
    migrated = dict(values)
    if schema == 1:
        migrated = _from_1(migrated, provenance or {})
    if schema <= 2:
        migrated = _from_2(migrated)
    if isinstance(run := migrated.get("run"), Mapping):
        migrated["run"] = _with_orientation(run)
    return migrated | {"schema": SCHEMA}


def _with_orientation(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run whose images were read before `Run.orientation` was introduced."""
    return {"orientation": "stored", **run}


def migrate_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run that was saved by an earlier version in the present schema.

    Until schema 2 the teacher was fine-tuned with the student's settings, all layers on all of
    train, and the augmentation decided how val and test were cropped.
    """
    if "teacher_trainable" in values:
        return _with_orientation(values)
    copied = ("optimizer", "momentum", "weight_decay", "schedule", "lr_step_size", "lr_gamma")
    photos = values.get("data", "fashion") != "fashion"
    augment = values.get("augment") or ("resized-crop" if photos else "crop")
    shrinks = {name: "bilinear" for name in INTERPOLATIONS}
    return {
        **_with_orientation(values),
        **{f"teacher_{name}": values[name] for name in (*copied, "batch_size") if name in values},
        "teacher_trainable": "all",
        "teacher_batch_norm": "train",
        "teacher_augment": augment,
        "augment": augment,
        "eval_crop": 0.875 if augment == "resized-crop" else 1.0,
        **shrinks,
    }


def _from_1(values: dict[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    # Version 0.1 hashed the source of a factory's module into the fingerprint of a model. For the
    # models of kdtune that was kdtune/models.py, which no longer exists. So only the fingerprints
    # of models from libraries, which have no such source, are kept.
    run = values["run"]
    kept = ["data", *(m for m in ("teacher", "student") if ":" not in str(run[m]))]
    fingerprints = {name: provenance[name] for name in kept if name in provenance}
    return {"fingerprints": fingerprints, **values}


def _from_2(values: dict[str, Any]) -> dict[str, Any]:
    # earlier versions kept the students of all runs: a resumed study must not delete them
    return {"keep": "all", **values, "run": migrate_run(values["run"])}

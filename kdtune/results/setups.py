"""Setups of several studies: whether they have the same data, can be paired, and what differs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.fields import declarations
from kdtune.config.hyperparameters import HYPERPARAMETERS, Range, Values
from kdtune.config.numbers import short
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.results.study_results import Results
from kdtune.storage.records import read_saved

SHARED_BY_PAIRS = ("seed", "train_images", "augmentation", "folds", "teachers")
"""What a repeat of two studies must share: it fixes order and augmentation of the same images, the
split into train and val, and which of the teachers it learns from."""
NOT_COMPARED = {
    *("name", "out", "run", "space", "keep", "rerun_dropped", "address", "cache", "cache_gb"),
    *("gpus", "gpus_per_trial", "loader_workers", "data", "extra", "repeat", "study_values"),
}
"""Fields of `Study` and `Run` without an influence on results, or that are compared otherwise: data
by their content, the run and the space value by value."""


def fingerprints_of(results: Results) -> dict[str, str]:
    """Return the content hashes of a study's data, teacher and student, as far as known."""
    return read_saved(results.folder).fingerprints


def check_same_data(studies: Mapping[str, Results]) -> str:
    """Raise InputError if studies, by name, are known to have different data.

    Returns:
        A sentence if that is not known for some of them, else "".
    """
    prints = {name: fingerprints_of(results).get("data") for name, results in studies.items()}
    known = {name: text for name, text in prints.items() if text is not None}
    if len(set(known.values())) > 1:
        shown = ", ".join(f"{name}: {studies[name].study.run.data}" for name in known)
        raise InputError(
            f"studies can be compared on the same data only, but these have different data "
            f"({shown}; fingerprints {', '.join(known.values())}); name studies of one data set, "
            f"or one study"
        )
    sizes = {name: val_size(results) for name, results in studies.items()}
    if len(set(sizes.values()) - {0}) > 1:
        shown = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise InputError(
            f"studies can be compared on the same val images only, but their numbers of val images "
            f"differ ({shown}); name studies with the same ones, or one study"
        )
    unknown = [name for name, text in prints.items() if text is None]
    if not unknown:
        return ""
    have = "has" if len(unknown) == 1 else "have"
    return (
        f"It is not known whether the data are the same, since {' and '.join(unknown)} {have} no "
        f"fingerprint of them; the comparison assumes it."
    )


def val_size(results: Results) -> int:
    """Return the number of val images of a study; 0 before its first epoch."""
    val = results.epochs[results.epochs.split == "val"]
    return int(val.n_examples.max()) if len(val) else 0


def pairing_obstacles(one: Study, other: Study) -> list[str]:
    """Return why the repeats of two studies are independent: "seed 0 and 1"; [] if they pair."""
    pairs = ((n, getattr(one.run, n), getattr(other.run, n)) for n in SHARED_BY_PAIRS)
    return [
        f"{name.replace('_', ' ')} {_shown(a)} and {_shown(b)}" for name, a, b in pairs if a != b
    ]


def differing_settings(studies: Mapping[str, Results]) -> pd.DataFrame:
    """Return the settings that differ between studies, by name: a row each, a column per study.

    Settings are those that can change results: of the run, of the space, of the search; and the
    fingerprints of teacher and student, where the names alone are equal.
    """
    columns = [dict(_settings(results)) for results in studies.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for name in names:
        values = [column.get(name, "-") for column in columns]
        if len(set(values)) > 1:
            rows.append([name, *values])
    return pd.DataFrame(rows, columns=["setting", *studies])


def _settings(results: Results) -> Iterator[tuple[str, str]]:
    study = results.study
    for name, declared in declarations(Run).items():
        if name in HYPERPARAMETERS:
            yield name, _shown(_all_values(study, name) if study.has_effect(name) else "-")
        elif name not in NOT_COMPARED and declared.setting.defines:
            resolved = "augmentation" if name == "augment" else name  # None is a default
            yield name, _shown(getattr(study.run, resolved))
    for f in fields(Study):
        if f.name not in NOT_COMPARED:
            yield f.name, _shown(getattr(study, f.name))
    for name, text in fingerprints_of(results).items():
        if name != "data":
            yield f"fingerprint of the {name}", text


def _all_values(study: Study, name: str) -> Values:
    """Return the values of a hyperparameter in their order, those of the baseline included."""
    values = study.values(name)
    if isinstance(values, Range):
        return values
    baseline = study.task.baseline
    more = (baseline[name],) if name in baseline and study.has_plain else ()
    values = tuple(dict.fromkeys((*values, *more)))
    return values if any(isinstance(v, str) for v in values) else tuple(sorted(values))


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | Range):
        return ", ".join(map(_shown, value))
    return short(value, 6) if isinstance(value, float) else str(value)

"""Working set of a study: the bytes of its streams, which a cache should hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range, ends_of
from kdtune.data.dataset import Data
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Model, networks
from kdtune.streams.cache import MAX_VIEWS_SHARE
from kdtune.streams.views import (
    compares_features,
    extra_computed,
    view_bytes,
    view_size,
    views_are_read_again,
)

FLOAT_BYTES = 4
MIXING = ("mixup", "cutmix")
OF_BATCHES = ("batch_size", "extra_share")
"""Hyperparameters that change mixed images and features computed batch by batch."""


@dataclass(frozen=True)
class WorkingSet:
    """Bytes, at most, of the streams of those repeats that runs read in turn."""

    repeats: int
    views: int
    outputs: int
    """Logits and features, of teacher and student."""

    @property
    def needed_cache(self) -> float:
        """Bytes of a cache that holds all of it."""
        return max(self.views + self.outputs, self.views / MAX_VIEWS_SHARE)


def working_set(
    study: Study, trials: int, data: Data, student: Classifier, teacher: Sequence[Model]
) -> WorkingSet:
    """Return the working set of a study, in which all values of hyperparameters are combined.

    Args:
        study: before it starts.
        trials: trials that run at a time. A grid and a random search finish so many repeats of all
            configurations before they begin others.
        data: its data, with any images without labels.
        student: one of its students.
        teacher: all its teachers, fine-tuned or not.
    """
    run = _largest_run(study)
    in_turn = study.search != "tpe" and study.policy == "all"
    repeats = min(study.repeats, trials) if in_turn else study.repeats
    folds = repeats if run.folds is not None else 1  # each with other images in train and val
    augments = {
        replace(run, augment=value).augmentation  # type: ignore[arg-type]
        for value in ends_of(study.values("augment"))
    }
    mixes = any(set(ends_of(study.values(name))) != {0} for name in MIXING)
    counts = {split: len(own) for split, own in data.splits.items()}
    learned = {"train": run.train_images or counts.pop("train")}
    evaluated = {split: counts[split] * folds for split in ("val", "test") if split in counts}
    seen = {"train": run.epochs * learned["train"]}
    if run.unlabelled_per_batch:
        learned["extra"] = counts["extra"]
        seen["extra"] = extra_computed(run, learned["train"], counts["extra"])

    def inputs(changing: bool, variants: int) -> dict[str, int]:
        """Return how many different inputs each split has in all epochs and repeats."""
        each = {split: n * repeats for split, n in seen.items()} if changing else learned
        return {split: n * variants for split, n in each.items()} | evaluated

    augmented = augments != {"none"}
    views = inputs(augmented, len(augments))
    view = view_bytes(data, view_size(run, data, student, *teacher))
    stored = [split for split in views if views_are_read_again(run, split, data, teacher)]

    mixtures = _combinations(study, *MIXING, *OF_BATCHES) if mixes else 1
    members = networks(teacher)  # a table of outputs is a file itself
    numbers = len(data.classes) * len(members)
    if compares_features(study):
        numbers += sum(model.feature_size for model in members)
    logits = inputs(augmented or mixes, len(augments) * mixtures)
    outputs = numbers * sum(logits.values()) * (1 if augmented or mixes else run.teachers)

    by_batch = run.batch_norm == "train"
    if run.trainable == "head" and not (run.unlabelled_per_batch and by_batch):
        variants = len(augments) * _combinations(study, "batch_norm", *MIXING, *OF_BATCHES)
        features = inputs(changing := augmented or mixes or by_batch, variants)
        random_weights = run.weights_of("student") == "none" and run.folds is None
        for split, count in features.items():
            if by_batch and split in evaluated:  # by the running statistics after an epoch
                epochs = run.epochs if split == "val" else 1
                features[split] = counts[split] * epochs * repeats * variants
            elif random_weights and not (changing and split in seen):
                features[split] = count * repeats  # each with other weights
        outputs += student.feature_size * sum(features.values())
    return WorkingSet(repeats, view * sum(views[split] for split in stored), FLOAT_BYTES * outputs)


def _largest_run(study: Study) -> Run:
    """Return the study's run with those values of hyperparameters that have the largest streams."""
    values: dict[str, Any] = {}
    for name, largest in {"epochs": max, "extra_share": max, "alpha": min}.items():
        values[name] = largest(ends_of(study.values(name)))
    for name, value in {"trainable": "head", "batch_norm": "train"}.items():
        if value in ends_of(study.values(name)):
            values[name] = value
    return replace(study.run, **values)


def _combinations(study: Study, *names: str) -> int:
    """Return the number of combinations of values; the number of samples if one has a range."""
    values = [study.values(name) for name in names]
    if any(isinstance(v, Range) for v in values):
        return study.samples
    return math.prod(len(set(ends_of(v))) for v in values)


def cache_warning(
    study: Study, trials: int, data: Data, student: Classifier, teacher: Sequence[Model]
) -> str | None:
    """Return a sentence if the cache is too small for the study's streams, else None.

    The arguments are those of `working_set`.
    """
    needed = working_set(study, trials, data, student, teacher)
    if not study.cache_gb or needed.needed_cache <= study.cache_gb * 1e9:
        return None
    return (
        f"the streams of {needed.repeats} repeats need up to "
        f"{(needed.views + needed.outputs) / 1e9:.2g} GB, {needed.views / 1e9:.2g} GB of it for "
        f"views, but --cache-gb is {study.cache_gb:g}, half of it for views: every run computes "
        f"again what does not fit; --cache-gb {math.ceil(needed.needed_cache / 1e8) / 10:g} holds "
        f"everything"
    )

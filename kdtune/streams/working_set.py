"""Working set of a study: the bytes that its streams need in the cache, and what is stored there.

All configurations read the streams of the same repeats in turn. If these are larger than the cache,
the least recently used entry is always the next one to be read, and nothing is ever found. So only
the streams of as many repeats as fit are stored; the others would be read once and evicted.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import ends_of
from kdtune.data.arrays import with_extra
from kdtune.data.dataset import Data
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Model, networks
from kdtune.streams.cache import Key
from kdtune.streams.views import (
    Resources,
    Variant,
    extra_computed,
    variants_with,
    view_bytes,
    view_size,
)

FLOAT_BYTES = 4
LARGEST = {"trainable": "head", "batch_norm": "train"}
"""Values of hyperparameters with the largest working set, if a study searches them."""


@dataclass(frozen=True)
class WorkingSet:
    """Bytes of the streams that runs read in turn, beside the size of the cache."""

    views: Mapping[str, int]
    """Bytes by split of the views that are worth storing, of all these streams."""
    per_repeat: int
    """Bytes of the logits and features, of teacher and student, that one repeat has for itself."""
    shared: int
    """Bytes of the logits and features that all repeats share."""
    repeats: int
    """Streams that are read in turn."""
    limit: int
    """Bytes that the cache may hold."""

    @property
    def needed(self) -> int:
        """Bytes of all of it."""
        return sum(self.views.values()) + self.shared + self.per_repeat * self.repeats

    def keeps_views(self, split: str) -> bool:
        """Return True if the views of the split are worth storing and fit half of the cache."""
        return split in self.views and self.views[split] <= self.limit / 2

    @property
    def kept_repeats(self) -> int:
        """Repeats whose logits and features fit the cache beside all else that is kept."""
        if not self.per_repeat:
            return self.repeats
        views = sum(size for split, size in self.views.items() if self.keeps_views(split))
        fit = (self.limit - views - self.shared) // self.per_repeat
        return min(max(fit, 0), self.repeats)

    def keeps(self, key: Key, run: Run) -> bool:
        """Return True if the logits or features of this key are stored by this run."""
        # random weights are another backbone in each repeat; folds are other images
        random_weights = run.weights_of("student") == "none"
        own = run.folds is not None or (key.kind == "features" and random_weights)
        shared = not (own or key.of_one_repeat)
        return shared or run.repeat % self.repeats < self.kept_repeats


def working_set(
    run: Run,
    data: Data,
    student: Classifier,
    teacher: Sequence[Model],
    resources: Resources,
) -> WorkingSet:
    """Return the working set of a study, estimated from one of its runs.

    Args:
        run: with the largest number of epochs.
        data: its data set.
        student: its student.
        teacher: all its teachers; none when a teacher is fine-tuned.
        resources: the cache, and the repeats and variants of streams that share it.
    """
    variants = variants_with(run, resources.variants)
    counts = {split: len(values) for split, values in data.splits.items()}
    counts["train"] = run.train_images or counts["train"]
    if not run.unlabelled_per_batch:
        counts.pop("extra", None)
    members = networks(teacher)
    # a table of outputs is a file itself
    outputs = FLOAT_BYTES * len(data.classes) * len(members)
    if run.compares_features or resources.teacher_features:
        outputs += FLOAT_BYTES * sum(model.feature_size for model in members)
    own, once = _count_outputs(run, variants, counts, lambda variant: variant.logit_sets)
    per_repeat, shared = own * outputs, once * outputs * min(run.teachers, resources.repeats)
    if run.trainable == "head":
        own, once = _feature_bytes(run, variants, counts, student)
        per_repeat, shared = per_repeat + own, shared + once
    view = view_bytes(data, view_size(run, data, student, *teacher))
    own_splits = 1
    if run.folds is not None:  # each repeat has other images in train and val
        per_repeat, shared, own_splits = per_repeat + shared, 0, resources.repeats
    of_one, seen = {s: count * own_splits for s, count in counts.items()}, _seen(run, counts)
    views = {
        split: view * _of_all(variants, of_one[split], seen.get(split), resources.repeats)
        for split in counts
        if data.kind != "tensors" and _read_again(run, split, teacher)
    }
    return WorkingSet(views, per_repeat, shared, resources.repeats, resources.cache.limit)


def _of_all(variants: Iterable[Variant], once: int, seen: int | None, repeats: int) -> int:
    """Return the views of a split in all augmentations.

    Args:
        variants: Of the study.
        once: Views that are the same in every epoch.
        seen: Views that one run learns from; None for val and test, which have no augmentation.
        repeats: Repeats, which have other views.
    """
    if seen is None:
        return once
    augments = {variant.augment for variant in variants}
    return sum(once if augment == "none" else seen * repeats for augment in augments)


def _count_outputs(
    run: Run,
    variants: Sequence[Variant],
    counts: Mapping[str, int],
    sets: Callable[[Variant], int],
) -> tuple[int, int]:
    """Return the number of outputs that one repeat has for itself, and of those that all share.

    Args:
        run: Its epochs, and what of a batch has no label.
        variants: Of the study.
        counts: Images by split.
        sets: Returns how many different outputs of train a variant has in one epoch.
    """
    augments = {variant.augment for variant in variants}
    of_repeat = {"train": sum(sets(v) for v in variants if not v.same)}
    of_repeat["extra"] = len(augments - {"none"})  # which is never mixed
    same = {"train": any(v.same for v in variants), "extra": "none" in augments}
    own = sum(of_repeat[split] * count for split, count in _seen(run, counts).items())
    return own, sum(count for split, count in counts.items() if same.get(split, True))


def _seen(run: Run, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the number of views that one run learns from in all epochs, of each split."""
    seen = {"train": run.epochs * counts["train"]}
    if "extra" in counts:
        seen["extra"] = extra_computed(run, counts["train"], counts["extra"])
    return seen


def _read_again(run: Run, split: str, teacher: Sequence[Model]) -> bool:
    """Return True if more than one run, or more than one builder, reads the views of the split."""
    if not teacher:  # fine-tuning reads each view of train once; val would be worth little
        return False
    # with batch norm in train mode, each share of images without labels has other features
    if run.trainable == "all" or (run.unlabelled_per_batch and run.batch_norm == "train"):
        return True
    # features replace views, but those of val are computed after each epoch of drifting statistics
    return run.batch_norm == "train" and split != "train"


def _feature_bytes(
    run: Run, variants: Sequence[Variant], counts: Mapping[str, int], student: Classifier
) -> tuple[int, int]:
    """Return the bytes of the features: those of one repeat, and those that all share.

    Without augmentation and mixing the backbone is taken to treat each image by itself.
    """
    image = FLOAT_BYTES * student.feature_size
    size = {split: count * image for split, count in counts.items()}
    if run.unlabelled_per_batch and run.batch_norm == "train":
        return 0, 0  # none are stored
    if run.batch_norm == "train":
        statistics = sum(buffer.nbytes for buffer in student.net.buffers())
        epoch = size["train"] + statistics + size["val"]
        one = run.epochs * epoch + size.get("test", 0)
        return one * sum(v.feature_sets for v in variants), 0
    counted = _count_outputs(run, variants, counts, lambda variant: variant.feature_sets)
    own, once = (count * image for count in counted)
    return (own + once, 0) if run.weights_of("student") == "none" else (own, once)


def cache_warning(
    study: Study, trials: int, student: Classifier, teacher: Sequence[Model]
) -> str | None:
    """Return a sentence if the cache is too small for the study's streams, else None.

    Args:
        study: before it starts.
        trials: trials that run at a time.
        student: one of its students.
        teacher: its teachers, fine-tuned or not.
    """
    resources = Resources.of(study, trials)
    if not resources.cache.limit:
        return None
    epochs: Any = ends_of(study.values("epochs"))
    largest: dict[str, Any] = {"epochs": max(epochs)}
    shares: Any = ends_of(study.values("extra_share"))
    alphas: Any = ends_of(study.values("alpha"))
    largest |= {"extra_share": max(shares), "alpha": min(alphas)}
    largest |= {n: value for n, value in LARGEST.items() if value in ends_of(study.values(n))}
    run = replace(study.run, **largest)
    need = working_set(run, with_extra(load_data(run), run), student, teacher, resources)
    missing = [split for split in need.views if not need.keeps_views(split)]
    enough = max(need.needed, 2 * max(need.views.values(), default=0))
    advice = f"--cache-gb {math.ceil(enough / 1e8) / 10:g} keeps everything"
    if need.kept_repeats < need.repeats:
        has_features = run.trainable == "head" or resources.teacher_features
        what = "logits and features" if has_features else "logits"
        return (
            f"the streams of {need.repeats} repeats need {need.needed / 1e9:.2g} GB, but --cache-gb"
            f" is {study.cache_gb:g}: {what} of {need.kept_repeats} repeats are stored, and every "
            f"run computes those of the other repeats again; {advice}"
        )
    if missing:
        size = sum(need.views[split] for split in missing)
        return (
            f"the views of {need.repeats} repeats need {size / 1e9:.2g} GB, more than half of "
            f"--cache-gb {study.cache_gb:g}, so every run makes its views again; {advice}"
        )
    return None

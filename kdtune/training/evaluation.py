"""Accuracy of a teacher on the splits of the data, over the stream that the runs share."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.config.teacher_accuracy import Accuracy
from kdtune.data.sources import load_data
from kdtune.models.ensemble import Teacher
from kdtune.streams.cache import Cache
from kdtune.streams.resources import Resources
from kdtune.streams.stream import Stream
from kdtune.training.recipe import untrained


def evaluate(
    run: Run, teacher: Teacher, resources: Resources, splits: Sequence[str]
) -> dict[str, Accuracy]:
    """Return the accuracy of a teacher on those of the splits that the data have.

    Args:
        run: Names the data and the student, whose input size decides that of the views.
        teacher: On the device of the resources; it is frozen.
        resources: Device, cache and loader workers.
        splits: Names of splits. Of train only the images that the run's student learns from are
            taken, without augmentation.

    Raises:
        InputError: Some of its logits are NaN or infinite.
    """
    accuracies = {}
    for split in filter(load_data(run).splits.__contains__, splits):
        logits, labels = teacher_logits(run, teacher, resources, split)
        _check_finite(run, logits, split)
        correct = int((logits.argmax(1) == labels).sum())
        accuracies[split] = Accuracy(len(labels), correct, int(labels.bincount().max()))
    return accuracies


def _check_finite(run: Run, logits: Tensor, split: str) -> None:
    """Raise InputError if logits of the teacher are NaN or infinite: argmax says nothing then."""
    wrong = ~logits.isfinite().all(1)
    if wrong.any():
        raise InputError(
            f"the teacher {run.teacher} must return finite logits, but they are NaN or infinite "
            f"for {int(wrong.sum()):,} of {len(wrong):,} examples of {split} (first: number "
            f"{int(wrong.int().argmax())}); check its weights, its forward and these examples"
        )


def teacher_logits(
    run: Run, teacher: Teacher, resources: Resources, split: str
) -> tuple[Tensor, Tensor]:
    """Return the logits of a teacher, float32 [N, K], and the labels, int64 [N], of a split.

    They are in the split's own order; the arguments are those of `evaluate`.
    """
    data = load_data(run)
    student = untrained(run, "student")  # only its input size matters
    own = replace(run, trainable="all", mixup=0.0, cutmix=0.0, extra=None, extra_share=0.0)
    used = resources
    if split == "train" and run.augmentation != "none":  # no run needs these views
        own = replace(own, augment="none")
        used = replace(resources, cache=Cache(gigabytes=0), teacher_features=False)
    return Stream(own, data, student, teacher, used).teacher_logits(split)

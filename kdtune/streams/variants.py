"""Variants of a repeat's stream: those that the configurations of a study read in turn.

Augmentation, mixing and batch size are hyperparameters that decide what the models see, so each
combination has views, logits or features of its own.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kdtune.config.hyperparameters import Range, ends_of
from kdtune.config.run import Run
from kdtune.config.run_data import Augment
from kdtune.config.study import Study

MIXING = ("mixup", "cutmix")
LOGITS = ("batch_size", "extra_share")
"""Hyperparameters, besides the augmentation and the mixing, that logits of mixed images depend on.
"""
FEATURES = ("batch_size", "extra_share", "batch_norm")
"""The same of the features of a frozen backbone, computed batch by batch."""


@dataclass(frozen=True)
class Variant:
    """Streams with the same augmentation that are all mixed, or all not."""

    augment: Augment
    mixed: bool = False
    logit_sets: int = 1
    """Different logits of train: those of mixed images depend on the mixing and the batch size."""
    feature_sets: int = 1
    """Different features of train, if the backbone is frozen: those of each mixing, batch size and
    mode of batch norm."""

    @property
    def same(self) -> bool:
        """Whether the models see the same in every epoch but for the order."""
        return self.augment == "none" and not self.mixed


def variants_of(study: Study) -> tuple[Variant, ...]:
    """Return the variants of the streams of a study's repeats."""
    augments = dict.fromkeys(
        replace(study.run, augment=value).augmentation  # type: ignore[arg-type]
        for value in ends_of(study.values("augment"))
    )
    ends = [ends_of(study.values(name)) for name in MIXING]
    has_plain = all(0 in values for values in ends)
    has_mixed = any(value != 0 for values in ends for value in values)
    # at alpha = 1 the teacher does not see mixed images
    teaches = any(value != 1 for value in ends_of(study.values("alpha")))
    modes = _count(study, *FEATURES)
    found = []
    for augment in augments:
        if has_plain:
            found.append(Variant(augment, False, 1, modes))
        if has_mixed:
            logits, features = (
                _count_mixed(study, has_plain, *names) for names in (LOGITS, FEATURES)
            )
            found.append(Variant(augment, True, logits if teaches else 0, features))
    return tuple(found)


def variants_with(run: Run, variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return the variants, if the run's stream is among them, else only that of the run.

    A teacher's fine-tuning has its own augmentation, and runs outside of a study have no variants.
    """
    found = tuple(variants)
    own = Variant(run.augmentation, run.mixes, 0 if run.mixes and run.alpha == 1 else 1)
    return found if (own.augment, own.mixed) in [(v.augment, v.mixed) for v in found] else (own,)


def _count(study: Study, *names: str) -> int:
    """Return the number of combinations of values; the number of samples if one has a range."""
    values = [study.values(name) for name in names]
    if any(isinstance(v, Range) for v in values):
        return study.samples
    return math.prod(len(set(ends_of(v))) for v in values)


def _count_mixed(study: Study, has_plain: bool, *names: str) -> int:
    """Return the number of combinations of mixing and other hyperparameters.

    Args:
        study: The study.
        has_plain: Whether its lists or ranges of mixup and cutmix have a 0, which does not count.
        names: Of the other hyperparameters.
    """
    every = _count(study, *MIXING, *names)
    if any(isinstance(study.values(name), Range) for name in (*MIXING, *names)):
        return every
    return every - has_plain * _count(study, *names)

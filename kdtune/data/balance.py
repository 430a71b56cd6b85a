"""Examples of each class: what is recorded of a data set, and what is said before a study."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdtune.config.names import REST, is_named_extra
from kdtune.data.dataset import Data, Extra

IMBALANCED = 1.5
"""A split is imbalanced if its largest class has more than this many times the examples of the
smallest."""
MAX_LISTED = 10
"""Classes that are listed one by one; of more, the smallest and the largest ones."""
MAX_ENDS = 3


def class_counts(data: Data) -> dict[str, dict[str, int]]:
    """Return the number of examples by split and class.

    Classes with equal names (ImageNet has two cranes) are told apart by their number.
    """
    named = Counter(data.classes)
    classes = [f"{c} (class {k})" if named[c] > 1 else c for k, c in enumerate(data.classes)]
    return {
        name: dict(zip(classes, _counts(split.labels, len(classes)), strict=True))
        for name, split in data.splits.items()
        if name != "extra"  # which has no labels
    }


def data_record(data: Data) -> dict[str, Any]:
    """Return what provenance.json keeps of a data set: counts, and how val was cut from train."""
    cut = data.cut and {"seed": data.cut.seed, "share": data.cut.share}
    counts = class_counts(data)
    text = {name: f"{sum(own.values())} ({describe_counts(own)})" for name, own in counts.items()}
    record: dict[str, Any] = {
        "kind": data.kind,
        "examples": counts,
        "examples_text": text,
        "val_cut": cut,
    }
    if data.fold is not None:  # the counts are those of repeat 0
        record["folds"] = {"folds": data.fold.folds, "seed": data.fold.seed}
    if data.extra is not None:  # with folds, rest is that of repeat 0
        source = data.extra.source
        name = source if is_named_extra(source) else Path(source).name
        record["extra"] = {"examples": len(data.splits["extra"]), "source": name}
    return record


def describe_data(data: Data) -> list[str]:
    """Return lines about a data set that a user should know before a study.

    They say how val was cut from train, how many examples each class of an imbalanced split has,
    and which classes val or test lack.
    """
    lines, counts = [], class_counts(data)
    if data.cut is not None:
        both = len(data.splits["train"]) + len(data.splits["val"])
        lines.append(
            f"Val is cut from train: {len(data.splits['val'])} of {both} examples, "
            f"{data.cut.share:.0%} of each class (--val-share), drawn with --seed {data.cut.seed}."
        )
    if (fold := data.fold) is not None:
        lines.append(
            f"Train and val are pooled ({len(fold.train) + len(fold.val)} examples) and split anew "
            f"in each repeat: one of {fold.folds} stratified folds (--folds), drawn with --seed "
            f"{fold.seed}, is val."
        )
    if data.extra is not None:
        lines.append(
            f"Images without labels: {len(data.splits['extra']):,} ({_source(data.extra)})."
        )
    lines += [f"{remark}." for remark in data.remarks]
    for split, own in counts.items():
        smallest, largest = min(own.values()), max(own.values())
        if smallest and largest > IMBALANCED * smallest:
            lines.append(f"Classes of {split} are imbalanced: {describe_counts(own)}.")
        if missing := [name for name, count in own.items() if not count]:
            lines.append(
                f"warning: {split} has no example of {', '.join(missing[:MAX_LISTED])}"
                f"{' and others' if len(missing) > MAX_LISTED else ''}, so its metrics say nothing "
                f"about {'these classes' if len(missing) > 1 else 'this class'}"
            )
    return lines


def _source(extra: Extra) -> str:
    """Return where images without labels come from, in words."""
    if extra.source == REST:
        return "--extra rest: those of train that --train-images leaves out"
    return f"--extra {extra.source}"


def describe_counts(counts: dict[str, int]) -> str:
    """Return the examples of each class in words, the largest class first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) <= MAX_LISTED:
        return _listed(ordered)
    ends = _listed(ordered[:MAX_ENDS]), _listed(ordered[-MAX_ENDS:])
    return f"{ends[0]}, ..., {ends[1]} ({len(ordered)} classes)"


def _listed(pairs: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in pairs)


def _counts(labels: torch.Tensor, classes: int) -> list[int]:
    return torch.bincount(labels, minlength=classes).tolist()

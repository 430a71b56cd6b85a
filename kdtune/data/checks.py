"""Checks of data: class balance, copies, changes while a study runs."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from kdtune.config.fields import REST, is_named_extra
from kdtune.config.run import Run
from kdtune.config.text import DataChangedError, InputError, list_some, printable
from kdtune.data.dataset import Data, Groups, keep_note, read_note
from kdtune.data.sources import StudyData

# Examples of each class, as provenance.json records them and as lines before a study.

_IMBALANCED = 1.5
"""A split is imbalanced if its largest class has more than this many times the examples of the
smallest."""
_SMALL_VAL = 200
"""Examples of val below which one of them is more than half a point of accuracy."""
_MAX_LISTED = 10
"""Classes that are listed one by one; of more, the smallest and the largest ones."""
_MAX_ENDS = 3


def class_counts(data: Data) -> dict[str, dict[str, int]]:
    """Return the number of examples by split and class.

    Classes with equal names (ImageNet has two cranes) are told apart by their number.
    """
    named = Counter(data.classes)
    classes = [f"{c} (class {k})" if named[c] > 1 else c for k, c in enumerate(data.classes)]
    counts = {
        name: split.labels.bincount(minlength=len(classes)).tolist()
        for name, split in data.splits.items()
        if name != "extra"
    }
    return {name: dict(zip(classes, each, strict=True)) for name, each in counts.items()}


def data_record(data: Data) -> dict[str, Any]:
    """Return what provenance.json keeps of a data set: counts, and how val was cut from train."""
    cut = data.cut and {"seed": data.cut.seed, "share": data.cut.share}
    counts = class_counts(data)
    text = {name: f"{sum(n.values())} ({describe_counts(n)})" for name, n in counts.items()}
    record: dict[str, Any] = {"kind": data.kind, "examples": counts, "examples_text": text}
    record["val_cut"] = cut
    if data.fold is not None:  # the counts are those of repeat 0
        record["folds"] = {"folds": data.fold.folds, "seed": data.fold.seed}
    if groups := _groups_by_split(data):
        record["groups"] = {name: len(set(names)) for name, names in groups.items()}
    if data.extra is not None:  # with folds, rest is that of repeat 0
        source = data.extra.source
        name = source if is_named_extra(source) else Path(source).name
        record["extra"] = {"examples": len(data.splits["extra"]), "source": name}
    return record


def _groups_by_split(data: Data) -> dict[str, Groups]:
    """Return the groups of labelled examples by split; {} without groups."""
    labelled = {name: split.groups for name, split in data.splits.items() if name != "extra"}
    return {name: groups for name, groups in labelled.items() if groups is not None}


def describe_data(data: Data) -> list[str]:
    """Return lines about a data set that a user should know before a study.

    They say how val was cut from train, whether it is small, how many examples each class of an
    imbalanced split has, and which classes val or test lack.
    """
    lines, counts, groups = [], class_counts(data), _groups_by_split(data)
    if data.cut is not None:
        both = len(data.splits["train"]) + len(data.splits["val"])
        lines.append(
            f"Val is cut from train: {len(data.splits['val'])} of {both} examples, "
            f"{'about ' * bool(groups)}{data.cut.share:.0%} of each class (--val-share), drawn "
            f"with --seed {data.cut.seed}."
        )
    if (fold := data.fold) is not None:
        lines.append(
            f"Train and val are pooled ({len(fold.train) + len(fold.val)} examples) and split anew "
            f"in each repeat: one of {fold.folds} stratified folds (--folds), drawn with --seed "
            f"{fold.seed}, is val. A multiple of {fold.folds} --repeats uses all equally."
        )
    elif (on_val := len(data.splits["val"])) < _SMALL_VAL:
        lines.append(
            f"Val has {on_val} examples, so one of them is {100 / on_val:.1f} points of accuracy; "
            f"a larger val{' (--val-share)' * (data.cut is not None)} would show smaller "
            f"differences."
        )
    if groups:
        sizes = ", ".join(f"{name} {len(set(names)):,}" for name, names in groups.items())
        lines.append(f"Groups: {sizes}.")
    if data.extra is not None:
        source = f"--extra {data.extra.source}"
        if data.extra.source == REST:
            source += ": those of train that --train-images leaves out"
        lines.append(f"Images without labels: {len(data.splits['extra']):,} ({source}).")
    lines += [f"{remark}." for remark in data.remarks]
    for split, by_class in counts.items():
        smallest, largest = min(by_class.values()), max(by_class.values())
        if smallest and largest > _IMBALANCED * smallest:
            remedy = " (--class-weights balanced, --sampler balanced)" if split == "train" else ""
            lines.append(f"Classes of {split} are imbalanced{remedy}: {describe_counts(by_class)}.")
        if missing := [name for name, count in by_class.items() if not count]:
            lines.append(
                f"warning: {split} has no example of {list_some(missing, _MAX_LISTED)}, so its "
                f"metrics say nothing about these classes"
            )
    return lines


def describe_counts(counts: dict[str, int]) -> str:
    """Return the examples of each class in words, the largest class first."""
    ordered = [f"{name} {n}" for name, n in sorted(counts.items(), key=lambda item: -item[1])]
    if len(ordered) <= _MAX_LISTED:
        return ", ".join(ordered)
    first, last = ", ".join(ordered[:_MAX_ENDS]), ", ".join(ordered[-_MAX_ENDS:])
    return f"{first}, ..., {last} ({len(ordered)} classes)"


# Copies of examples: in several splits, which makes a metric too good, or in several classes.

_Group = tuple[str, ...]
"""Splits that are looked at together."""


def _overlaps(data: Data) -> Iterator[tuple[_Group, _Group, bool]]:
    """Yield where copies would make the results of a study wrong.

    Yields:
        Splits whose examples are looked at, splits in which copies of them are looked for, and
        whether only copies with another label count.
    """
    groups: list[_Group] = [(name,) for name in data.splits if name != "extra"]
    if data.fold is not None:  # an example of train is in val in another repeat
        pool = ("train", "val")
        groups = [pool, *(group for group in groups if group[0] not in pool)]
        yield pool, pool, False
    for number, group in enumerate(groups):
        yield from ((group, other, False) for other in groups[:number])
    yield from ((group, group, True) for group in groups)
    if data.other_extra is not None:
        yield from ((group, ("extra",), False) for group in groups if group != ("train",))


def find_copies(data: Data) -> list[str]:
    """Return a sentence for each pair of splits that share examples, and for contradictory labels.

    Examples are copies if the bytes of their files or tensors are equal. Labels contradict each
    other if copies in one split are in several classes. The answer is kept for later calls, in this
    or another process.
    """
    note = f"{data.study_fingerprint}-copies"
    if data.other_extra is not None:
        note += f"-with-{data.other_extra.fingerprint}"
    if (text := read_note(note)) is not None:
        return [str(sentence) for sentence in json.loads(text)]
    columns = []
    for name, split in data.splits.items():
        values = {"content": list(split.contents()), "label": split.labels.numpy()}
        columns.append(pd.DataFrame(values).assign(split=name))
    examples = pd.concat(columns).rename_axis("number").reset_index()
    examples["row"] = examples.index
    found = (_describe_copies(data, examples, *overlap) for overlap in _overlaps(data))
    sentences = [sentence for sentence in found if sentence]
    keep_note(note, json.dumps(sentences))
    return sentences


def find_shared_groups(data: Data) -> Iterator[str]:
    """Yield a sentence for each pair of splits that have groups in common.

    With --folds, train and val are those of one repeat.
    """
    for (name, ours), (other, theirs) in combinations(_groups_by_split(data).items(), 2):
        if shared := sorted({*ours} & {*theirs}):
            count = int(np.isin(theirs, shared).sum())
            yield (
                f"{len(shared)} of the {len(set(theirs))} groups of {other} are also in {name} "
                f"({list_some(shared, 3)}), with {count} of its {len(theirs)} examples, so metrics "
                f"on {other} are optimistic; divide the data by group"
                f"{', or use --folds' if other == 'val' else ''}"
            )


def _describe_copies(
    data: Data, examples: pd.DataFrame, group: _Group, others: _Group, of_other_class: bool
) -> str:
    """Return a sentence on the examples of a group that have copies in others; "" without any.

    Args:
        data: The data.
        examples: Of all splits: row, split, number in it, content and label.
        group: Splits, see `_overlaps`.
        others: Splits in which copies are looked for.
        of_other_class: Whether only copies with another label count.
    """
    ours, theirs = (examples[examples["split"].isin(splits)] for splits in (group, others))
    firsts = theirs.drop_duplicates(["content", "label"] if of_other_class else ["content"])
    copies = ours.merge(firsts, on="content", suffixes=("", "_other"))
    copies = copies[copies["row"] != copies["row_other"]]
    if of_other_class:
        copies = copies[copies["label"] != copies["label_other"]]
    copies = copies.drop_duplicates("row")
    if copies.empty:
        return ""
    first = copies.iloc[0]
    name = _name(data, first["split"], first["number"], of_other_class)
    other = _name(data, first["split_other"], first["number_other"], of_other_class)
    relation = f"also in {' and '.join(others)}" if group != others else "copies of others"
    result = f"metrics on {group[-1]} are optimistic"
    if of_other_class:
        relation += " in another class"
        result = "their labels contradict each other; remove the copies in the wrong class"
    return (
        f"{len(copies)} of the {len(ours)} {'images' if data.kind != 'tensors' else 'examples'} in "
        f"{' and '.join(group)} are {relation} (such as {name} = {other}), so {result}"
    )


def _name(data: Data, split: str, index: int, with_class: bool) -> str:
    """Return an example's file below the folder of the data, or its split and index."""
    examples = data.splits[split]
    if not isinstance(examples.inputs, Tensor):
        root = data.extra.root if split == "extra" and data.extra is not None else data.root
        return printable(examples.inputs[index].removeprefix(root).lstrip("/\\"))
    is_pooled = data.fold is not None and split in ("train", "val")
    name = f"{'pool' if is_pooled else split}[{data.numbers(split)[index]}]"
    return f"{name} of {data.classes[int(examples.labels[index])]}" if with_class else name


# Changes of a study's data while it runs.
#
# What a run reads must be what the study's fingerprint says. Each file is compared with its stamp
# when it is read, and where that is another with its content (`Split.example`); a process that
# reads the data later compares their fingerprint (`Contents.read`); and at its end a study looks
# at all files once more (`find_changes`).


@dataclass(frozen=True)
class Contents:
    """Fingerprints of the data that a study began with, for the processes of its runs."""

    data: str
    extra: str = ""
    """Of the images without labels; "" if there are none, or if they are part of train."""
    token: str = field(default="", compare=False)
    """That of the `StudyData`."""

    @staticmethod
    def of(data: StudyData) -> "Contents":
        """Return those of the data, with any images without labels."""
        whole = data.with_extra(data.run)
        extra = "" if whole.other_extra is None else whole.other_extra.fingerprint
        return Contents(whole.study_fingerprint, extra, data.token)

    def read(self, run: Run) -> StudyData:
        """Read the data in another process; raise DataChangedError if they are others there."""
        try:
            data = StudyData(run)
            now = Contents.of(data)
        except InputError as error:
            raise DataChangedError(
                f"the data have changed since the study read them: {error}"
            ) from None
        if now != self:
            subject = f"data in {run.data}"
            if now.data == self.data:
                subject = f"images without labels in {run.extra}"
            raise DataChangedError(
                f"the {subject} have changed since the study read them; restore them, and the same "
                f"command goes on"
            )
        return data


def find_changes(data: Data) -> str:
    """Return a sentence on files that have changed since they were read; "" if none have.

    Files that were only touched, whose contents are the same, have not.
    """
    changed = [file for split in data.splits.values() for file in split.changed_files()]
    files = list(dict.fromkeys(changed))
    if not files:
        return ""
    names = list_some(list(map(printable, files)), 3)
    return (
        f"image files were changed or removed ({names}) while the study ran: its results are of "
        f"the images as they were when it read them, and it cannot be continued until they are "
        f"restored"
    )

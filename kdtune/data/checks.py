"""Checks of data: class balance, copies, changes while a study runs."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from kdtune.config.fields import REST, is_named_extra
from kdtune.config.run import Run
from kdtune.config.text import DataChangedError, InputError, printable
from kdtune.data.dataset import Data, file_contents, keep_note, read_note, row_contents
from kdtune.data.sources import StudyData

# Examples of each class, as provenance.json records them and as lines before a study.

_IMBALANCED = 1.5
"""A split is imbalanced if its largest class has more than this many times the examples of the
smallest."""
_MAX_LISTED = 10
"""Classes that are listed one by one; of more, the smallest and the largest ones."""
_MAX_ENDS = 3


def class_counts(data: Data) -> dict[str, dict[str, int]]:
    """Return the number of examples by split and class.

    Classes with equal names (ImageNet has two cranes) are told apart by their number.
    """
    named = Counter(data.classes)
    classes = [f"{c} (class {k})" if named[c] > 1 else c for k, c in enumerate(data.classes)]
    labelled = {name: split for name, split in data.splits.items() if name != "extra"}
    return {
        name: dict(
            zip(classes, split.labels.bincount(minlength=len(classes)).tolist(), strict=True)
        )
        for name, split in labelled.items()
    }


def data_record(data: Data) -> dict[str, Any]:
    """Return what provenance.json keeps of a data set: counts, and how val was cut from train."""
    cut = data.cut and {"seed": data.cut.seed, "share": data.cut.share}
    counts = class_counts(data)
    text = {name: f"{sum(n.values())} ({describe_counts(n)})" for name, n in counts.items()}
    record: dict[str, Any] = {"kind": data.kind, "examples": counts, "examples_text": text}
    record["val_cut"] = cut
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
        source = f"--extra {data.extra.source}"
        if data.extra.source == REST:
            source += ": those of train that --train-images leaves out"
        lines.append(f"Images without labels: {len(data.splits['extra']):,} ({source}).")
    lines += [f"{remark}." for remark in data.remarks]
    for split, by_class in counts.items():
        smallest, largest = min(by_class.values()), max(by_class.values())
        if smallest and largest > _IMBALANCED * smallest:
            lines.append(f"Classes of {split} are imbalanced: {describe_counts(by_class)}.")
        if missing := [name for name, count in by_class.items() if not count]:
            more = " and others" if len(missing) > _MAX_LISTED else ""
            these = "these classes" if len(missing) > 1 else "this class"
            lines.append(
                f"warning: {split} has no example of {', '.join(missing[:_MAX_LISTED])}{more}, so "
                f"its metrics say nothing about {these}"
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

_Example = tuple[str, int]
"""Split and index of an example."""


class _Overlap(NamedTuple):
    """A kind of copies that is looked for."""

    group: tuple[str, ...]
    """Splits whose examples are looked at."""
    others: tuple[str, ...]
    """Splits in which copies of them are looked for."""
    relation: str
    result: str
    of_other_class: bool = False
    """Whether only a copy with another label counts."""


def _overlaps(data: Data) -> list[_Overlap]:
    """Return the kinds of copies that would make the results of a study wrong."""
    pool = ("train", "val")
    groups: list[tuple[str, ...]] = [(name,) for name in data.splits if name != "extra"]
    pairs = [("val", "train"), ("test", "train"), ("test", "val")]
    rows = [
        _Overlap((one,), (other,), f"{one} are also in {other}", f"metrics on {one} are optimistic")
        for one, other in pairs
        if {one, other} <= data.splits.keys()
    ]
    if data.fold is not None:  # an example of train is in val in another repeat
        result = (
            "some repeats have one in train and the other in val, and metrics on val are optimistic"
        )
        rows[0] = _Overlap(pool, pool, "train and val together are copies of others", result)
        groups = [pool, *(group for group in groups if group[0] not in pool)]
    result = "their labels contradict each other; remove the copies in the wrong class"
    for group in groups:
        relation = f"{' and '.join(group)} are copies of others in another class"
        rows.append(_Overlap(group, group, relation, result, of_other_class=True))
    if data.extra is not None and data.extra.source != REST:  # which is part of train
        for group in groups:
            if group != ("train",):
                splits = " and ".join(group) + " together" * (len(group) > 1)
                result = (
                    f"students learn what the teacher says of them, and metrics on {group[-1]} may "
                    f"be optimistic"
                )
                rows.append(_Overlap(group, ("extra",), f"{splits} are also in --extra", result))
    return rows


def find_copies(data: Data) -> list[str]:
    """Return a sentence for each pair of splits that share examples, and for contradictory labels.

    Examples are copies if the bytes of their files or tensors are equal. Labels contradict each
    other if copies in one split are in several classes. The answer is kept for later calls, in this
    or another process.
    """
    note = f"{data.study_fingerprint}-copies"
    if data.extra is not None and data.extra.source != REST:
        note += f"-with-{data.extra.fingerprint}"
    if (text := read_note(note)) is not None:
        return [str(sentence) for sentence in json.loads(text)]
    contents = {
        name: list(
            row_contents(split.inputs)
            if isinstance(split.inputs, Tensor)
            else file_contents(split.inputs)
        )
        for name, split in data.splits.items()
    }
    sentences = []
    for overlap in _overlaps(data):
        if copies := _copies(data, contents, overlap):
            sentences.append(_describe_copies(data, overlap, copies))
    keep_note(note, json.dumps(sentences))
    return sentences


def _copies(
    data: Data, contents: Mapping[str, Sequence[bytes]], overlap: _Overlap
) -> list[tuple[_Example, _Example]]:
    """Return the examples of the group that have a copy, each with the first copy."""

    def examples(splits: Sequence[str]) -> Iterator[tuple[_Example, bytes, int]]:
        for split in splits:
            labels = data.splits[split].labels.tolist()
            for i, (content, label) in enumerate(zip(contents[split], labels, strict=True)):
                yield (split, i), content, label if overlap.of_other_class else 0

    first: dict[bytes, dict[int, _Example]] = {}
    for example, content, label in examples(overlap.others):
        first.setdefault(content, {}).setdefault(label, example)
    copies = []
    for example, content, label in examples(overlap.group):
        for other_label, other in first.get(content, {}).items():
            if other != example and (not overlap.of_other_class or other_label != label):
                copies.append((example, other))
                break
    return copies


def _describe_copies(
    data: Data, overlap: _Overlap, copies: Sequence[tuple[_Example, _Example]]
) -> str:
    total = sum(len(data.splits[split]) for split in overlap.group)
    noun = "images" if data.kind != "tensors" else "examples"
    first, second = (_name(data, *example, overlap.of_other_class) for example in copies[0])
    return (
        f"{len(copies)} of the {total} {noun} in {overlap.relation} (such as {first} = {second}), "
        f"so {overlap.result}"
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

_MAX_NAMED = 3
"""Files that a sentence names."""


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
        if whole.extra is None or whole.extra.source == REST:
            return Contents(whole.study_fingerprint, "", data.token)
        return Contents(whole.study_fingerprint, whole.extra.fingerprint, data.token)

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
    names = ", ".join(map(printable, files[:_MAX_NAMED]))
    more = f" and {len(files) - _MAX_NAMED:,} more" if len(files) > _MAX_NAMED else ""
    return (
        f"image files were changed or removed ({names}{more}) while the study ran: its results are "
        f"of the images as they were when it read them, and it cannot be continued until they are "
        f"restored"
    )

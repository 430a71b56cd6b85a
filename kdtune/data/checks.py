"""Checks of data: class balance, copies, changes while a study runs."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtune.config.fields import REST, is_named_extra
from kdtune.config.run import Run
from kdtune.config.text import DataChangedError, InputError, printable
from kdtune.data.dataset import (
    Data,
    file_contents,
    keep_note,
    read_note,
    row_contents,
)
from kdtune.data.sources import StudyData

# Examples of each class: what is recorded of a data set, and what is said before a study.


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
    return {
        name: dict(
            zip(classes, split.labels.bincount(minlength=len(classes)).tolist(), strict=True)
        )
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
        source = f"--extra {data.extra.source}"
        if data.extra.source == REST:
            source += ": those of train that --train-images leaves out"
        lines.append(f"Images without labels: {len(data.splits['extra']):,} ({source}).")
    lines += [f"{remark}." for remark in data.remarks]
    for split, own in counts.items():
        smallest, largest = min(own.values()), max(own.values())
        if smallest and largest > _IMBALANCED * smallest:
            lines.append(f"Classes of {split} are imbalanced: {describe_counts(own)}.")
        if missing := [name for name, count in own.items() if not count]:
            more = " and others" if len(missing) > _MAX_LISTED else ""
            these = "these classes" if len(missing) > 1 else "this class"
            lines.append(
                f"warning: {split} has no example of {', '.join(missing[:_MAX_LISTED])}{more}, so "
                f"its metrics say nothing about {these}"
            )
    return lines


def describe_counts(counts: dict[str, int]) -> str:
    """Return the examples of each class in words, the largest class first."""
    ordered = [f"{name} {n}" for name, n in sorted(counts.items(), key=lambda own: -own[1])]
    if len(ordered) <= _MAX_LISTED:
        return ", ".join(ordered)
    first, last = ", ".join(ordered[:_MAX_ENDS]), ", ".join(ordered[-_MAX_ENDS:])
    return f"{first}, ..., {last} ({len(ordered)} classes)"


# Copies of examples: in several splits, which makes a metric too good, or in several classes.


_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))

_Example = tuple[str, int]
"""Split and index of an example."""
_Contents = Mapping[str, Sequence[bytes]]
"""Hash of the content of each example, by split."""


def find_copies(data: Data) -> list[str]:
    """Return a sentence for each pair of splits that share examples, and for contradictory labels.

    Examples are copies if the bytes of their files or tensors are equal. Labels contradict each
    other if copies in one split are in several classes. The answer is kept for later calls, in this
    or another process.
    """
    sentences = _kept(f"{data.study_fingerprint}-copies", lambda: _find_copies(data))
    if data.extra is None or data.extra.source == REST:  # which is part of train
        return sentences
    note = f"{data.study_fingerprint}-shared-with-{data.extra.fingerprint}"
    return sentences + _kept(note, lambda: _find_shared_with_extra(data))


def _kept(note: str, find: Callable[[], list[str]]) -> list[str]:
    """Return the sentences that were kept in a note, or those that `find` returns."""
    if (text := read_note(note)) is not None:
        return [str(sentence) for sentence in json.loads(text)]
    sentences = [sentence for sentence in find() if sentence]
    keep_note(note, json.dumps(sentences))
    return sentences


def _hashes(data: Data) -> dict[str, list[bytes]]:
    return {
        name: list(
            row_contents(split.inputs)
            if isinstance(split.inputs, Tensor)
            else file_contents(split.inputs)
        )
        for name, split in data.splits.items()
    }


def _find_copies(data: Data) -> list[str]:
    contents = {name: own for name, own in _hashes(data).items() if name != "extra"}
    sentences, pool = list[str](), ("train", "val") if data.fold is not None else ()
    for one, other in _PAIRS:
        if pool and (one, other) == ("val", "train"):  # val of one repeat is train of another
            copies = _copies(contents, pool, _first(contents, pool))
            relation = "train and val together are copies of others"
            result = (
                "some repeats have one in train and the other in val, and metrics on val are "
                "optimistic"
            )
            sentences.append(_sentence(data, contents, pool, copies, relation, result))
        elif one in contents and other in contents:
            copies = _copies(contents, (one,), _first(contents, (other,)))
            relation, result = f"{one} are also in {other}", f"metrics on {one} are optimistic"
            sentences.append(_sentence(data, contents, (one,), copies, relation, result))
    groups = [pool] * bool(pool) + [(name,) for name in contents if name not in pool]
    return sentences + [_sentence_of_labels(data, contents, group) for group in groups]


def _find_shared_with_extra(data: Data) -> list[str]:
    """Return a sentence for val and for test if images without labels are in it as well.

    With --folds each example of train is in val in some repeat.
    """
    contents, sentences = _hashes(data), []
    for group in (("train", "val") if data.fold is not None else ("val",), ("test",)):
        if group[0] in contents:
            copies = _copies(contents, group, _first(contents, ("extra",)))
            where = " and ".join(group) + " together" * (len(group) > 1)
            result = (
                f"students learn what the teacher says of them, and metrics on {group[-1]} may be "
                f"optimistic"
            )
            relation = f"{where} are also in --extra"
            sentences.append(_sentence(data, contents, group, copies, relation, result))
    return sentences


def _sentence_of_labels(data: Data, contents: _Contents, group: Sequence[str]) -> str:
    """Return a sentence about copies in splits that are in several classes; "" if none are."""
    by_class: dict[bytes, dict[int, _Example]] = {}
    labels = {split: data.splits[split].labels.tolist() for split in group}
    for split in group:
        for i, (content, label) in enumerate(zip(contents[split], labels[split], strict=True)):
            by_class.setdefault(content, {}).setdefault(label, (split, i))
    copies = [
        ((split, i), next(e for k, e in by_class[content].items() if k != labels[split][i]))
        for split in group
        for i, content in enumerate(contents[split])
        if len(by_class[content]) > 1
    ]
    relation = f"{' and '.join(group)} are copies of others in another class"
    result = "their labels contradict each other; remove the copies in the wrong class"
    return _sentence(data, contents, group, copies, relation, result, with_class=True)


def _first(contents: _Contents, group: Sequence[str]) -> dict[bytes, _Example]:
    """Return the first example in several splits that has a content, by the content."""
    first: dict[bytes, _Example] = {}
    for split in group:
        for i, content in enumerate(contents[split]):
            first.setdefault(content, (split, i))
    return first


def _copies(
    contents: _Contents, group: Sequence[str], others: Mapping[bytes, _Example]
) -> list[tuple[_Example, _Example]]:
    """Return the examples of several splits that are among others, each with the other one."""
    examples = [
        ((split, i), content) for split in group for i, content in enumerate(contents[split])
    ]
    return [(own, others[c]) for own, c in examples if others.get(c, own) != own]


def _sentence(
    data: Data,
    contents: _Contents,
    group: Sequence[str],
    copies: Sequence[tuple[_Example, _Example]],
    relation: str,
    result: str,
    with_class: bool = False,
) -> str:
    """Return a sentence about examples of several splits that are copies; "" if there are none."""
    if not copies:
        return ""
    total = sum(len(contents[split]) for split in group)
    what = "images" if data.kind != "tensors" else "examples"
    one, other = (_name(data, *example, with_class) for example in copies[0])
    return (
        f"{len(copies)} of the {total} {what} in {relation} (such as {one} = {other}), so {result}"
    )


def _name(data: Data, split: str, index: int, with_class: bool) -> str:
    """Return an example's file below the folder of the data, or its split and index.

    Args:
        data: The data.
        split: Of the example.
        index: Of the example in the split.
        with_class: Whether the class of a tensor, which has no folder, is named too.
    """
    own = data.splits[split]
    if not isinstance(own.inputs, Tensor):
        root = data.extra.root if split == "extra" and data.extra is not None else data.root
        return printable(own.inputs[index].removeprefix(root).lstrip("/\\"))
    is_pooled = data.fold is not None and split in ("train", "val")
    name = f"{'pool' if is_pooled else split}[{data.numbers(split)[index]}]"
    return f"{name} of {data.classes[int(own.labels[index])]}" if with_class else name


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
        own = data.with_extra(data.run)
        is_other = own.extra is not None and own.extra.source != REST
        extra = own.extra.fingerprint if own.extra is not None and is_other else ""
        return Contents(own.study_fingerprint, extra, data.token)

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
            what = f"data in {run.data}"
            if now.data == self.data:
                what = f"images without labels in {run.extra}"
            raise DataChangedError(
                f"the {what} have changed since the study read them; restore them, and the same "
                f"command goes on"
            )
        return data


def find_changes(data: StudyData) -> str:
    """Return a sentence on files that have changed since they were read; "" if none have.

    Files that were only touched, whose contents are the same, have not.
    """
    splits = data.with_extra(data.run).splits.values()
    files = list(dict.fromkeys(file for split in splits for file in split.changed_files()))
    if not files:
        with suppress(InputError):  # the folder can no longer be read
            if not data.folder_differs():
                return ""
    names = ", ".join(map(printable, files[:_MAX_NAMED]))
    more = f" and {len(files) - _MAX_NAMED:,} more" if len(files) > _MAX_NAMED else ""
    what = f"changed or removed ({names}{more})" if files else "added"
    return (
        f"image files were {what} while the study ran: its results are of the images as they were "
        f"when it read them, and it cannot be continued until they are restored"
    )

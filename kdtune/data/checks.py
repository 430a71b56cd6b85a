"""Checks of data: class balance, copies, changes while a study runs."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from kdtune.config.fields import REST, is_named_extra
from kdtune.config.run import Run
from kdtune.config.text import DataChangedError, InputError, printable
from kdtune.data.arrays import extra_differs, with_extra
from kdtune.data.dataset import (
    Data,
    Extra,
    Split,
    file_contents,
    keep_note,
    read_note,
    row_contents,
)
from kdtune.data.sources import clear_cached_data, folder_differs, load_data

# Examples of each class: what is recorded of a data set, and what is said before a study.


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


# Copies of examples: in several splits, which makes a metric too good, or in several classes.


PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


def find_copies(data: Data) -> list[str]:
    """Return a sentence for each pair of splits that share examples, and for contradictory labels.

    Examples are copies if the bytes of their files or tensors are equal. Labels contradict each
    other if copies in one split are in several classes. The answer is kept for later calls, in this
    or another process.
    """
    found = _kept(f"{data.study_fingerprint}-copies", lambda: _find_copies(data))
    if data.extra is None or data.extra.source == REST:  # which is part of train
        return found
    note = f"{data.study_fingerprint}-shared-with-{data.extra.fingerprint}"
    return found + _kept(note, lambda: _find_shared_with_extra(data))


def _kept(note: str, find: Callable[[], list[str]]) -> list[str]:
    """Return the sentences that were kept in a note, or those that `find` returns."""
    if (known := read_note(note)) is not None:
        return [str(sentence) for sentence in json.loads(known)]
    keep_note(note, json.dumps(sentences := find()))
    return sentences


def _find_copies(data: Data) -> list[str]:
    own = {name: split for name, split in data.splits.items() if name != "extra"}
    contents = {name: list(_contents(split)) for name, split in own.items()}
    pairs = [(one, other) for one, other in PAIRS if one in contents]
    found = [_sentence(data, contents, one, other) for one, other in pairs if other in contents]
    if data.fold is not None:
        found[0] = _in_pool(data, contents)  # val of one repeat is train of another
    together = ("train", "val") if data.fold is not None else ()
    groups = [(name,) for name in own if name not in together]
    found += [_sentence_of_labels(data, contents, group) for group in (together, *groups)]
    return [sentence for sentence in found if sentence]


def _sentence_of_labels(
    data: Data, contents: Mapping[str, list[bytes]], group: Sequence[str]
) -> str:
    """Return a sentence about copies in splits that are in several classes; "" if none are."""
    labels = {split: data.splits[split].labels.tolist() for split in group}
    every = [(labels[s][i], s, i, c) for s in group for i, c in enumerate(contents[s])]
    first: dict[bytes, int] = {}
    several = {c for label, _, _, c in every if first.setdefault(c, label) != label}
    copies = [example for example in every if example[3] in several]
    if not copies:
        return ""
    label, split, index, content = copies[0]
    match = next((s, i) for own, s, i, c in copies if c == content and own != label)
    what = "images" if data.kind != "tensors" else "examples"
    return (
        f"{len(copies)} of the {len(every)} {what} in {' and '.join(group)} are copies of others "
        f"in another class (such as {_in_class(data, split, index)} = "
        f"{_in_class(data, *match)}), so their labels contradict each other; remove the copies in "
        f"the wrong class"
    )


def _in_class(data: Data, split: str, index: int) -> str:
    """Return the name of an example; of a tensor, which has no folder, also its class."""
    split_data = data.splits[split]
    if not isinstance(split_data.inputs, Tensor):
        return _named(data, split, index)
    return f"{_named(data, split, index)} of {data.classes[int(split_data.labels[index])]}"


def _find_shared_with_extra(data: Data) -> list[str]:
    """Return a sentence for val and for test if images without labels are in it as well.

    With --folds each example of train is in val in some repeat.
    """
    contents = {name: list(_contents(split)) for name, split in data.splits.items()}
    groups = [("train", "val") if data.fold is not None else ("val",), ("test",)]
    found = [_sentence_of_extra(data, contents, group) for group in groups if group[0] in contents]
    return [sentence for sentence in found if sentence]


def _sentence_of_extra(
    data: Data, contents: Mapping[str, list[bytes]], group: Sequence[str]
) -> str:
    """Return a sentence about the examples of splits that are among the extra ones; "" if none."""
    first = {content: i for i, content in reversed(list(enumerate(contents["extra"])))}
    every = [(split, i, content) for split in group for i, content in enumerate(contents[split])]
    shared = [(split, i, first[content]) for split, i, content in every if content in first]
    if not shared:
        return ""
    split, index, match = shared[0]
    what = "images" if data.kind != "tensors" else "examples"
    together = " together" if len(group) > 1 else ""
    return (
        f"{len(shared)} of the {len(every)} {what} in {' and '.join(group)}{together} are also in "
        f"--extra (such as {_named(data, split, index)} = {_named(data, 'extra', match)}), so "
        f"students learn what the teacher says of them, and metrics on {group[-1]} may be "
        f"optimistic"
    )


def _in_pool(data: Data, contents: Mapping[str, list[bytes]]) -> str:
    """Return a sentence about examples that train and val together have twice; "" if none."""
    pool = [(split, i, c) for split in ("train", "val") for i, c in enumerate(contents[split])]
    first: dict[bytes, tuple[str, int]] = {}
    twice = [(split, i, c) for split, i, c in pool if first.setdefault(c, (split, i)) != (split, i)]
    if not twice:
        return ""
    split, index, content = twice[0]
    what = "images" if data.kind != "tensors" else "examples"
    return (
        f"{len(twice)} of the {len(pool)} {what} in train and val together are copies of others "
        f"(such as {_named(data, split, index)} = {_named(data, *first[content])}), so some "
        f"repeats have one in train and the other in val, and metrics on val are optimistic"
    )


def _contents(split: Split) -> Iterable[bytes]:
    if isinstance(split.inputs, Tensor):
        return row_contents(split.inputs)
    return file_contents(split.inputs)


def _sentence(data: Data, contents: Mapping[str, list[bytes]], one: str, other: str) -> str:
    """Return a sentence about the examples of a split that another has as well; "" if none."""
    first = {content: i for i, content in reversed(list(enumerate(contents[other])))}
    shared = [i for i, content in enumerate(contents[one]) if content in first]
    if not shared:
        return ""
    total, match = len(contents[one]), first[contents[one][shared[0]]]
    what = "images" if data.kind != "tensors" else "examples"
    return (
        f"{len(shared)} of the {total} {what} in {one} are also in {other} (such as "
        f"{_named(data, one, shared[0])} = {_named(data, other, match)}), so metrics on {one} are "
        f"optimistic"
    )


def _named(data: Data, split: str, index: int) -> str:
    """Return an example's file below the folder of the data, or its split and index."""
    inputs = data.splits[split].inputs
    if isinstance(inputs, Tensor):
        pooled = data.fold is not None and split in ("train", "val")
        return f"{'pool' if pooled else split}[{data.numbers(split)[index]}]"
    root = data.extra.root if split == "extra" and data.extra is not None else data.root
    return printable(inputs[index].removeprefix(root).lstrip("/\\"))


# Changes of a study's data while it runs.
#
# What a run reads must be what the study's fingerprint says. Each file is compared with its stamp
# when it is decoded, and where that is another with its content (`Split.example`); a process that
# reads the data later compares their fingerprint (`Contents.check`); and at its end a study looks
# at
# all files once more (`find_changes`).


MAX_NAMED = 3
"""Files that a sentence names."""


@dataclass(frozen=True)
class Contents:
    """Fingerprints of the data that a study began with, for the processes of its runs."""

    data: str
    extra: str = ""
    """Of the images without labels; "" if there are none, or if they are part of train."""
    token: str = field(default_factory=lambda: uuid4().hex, compare=False)
    """Tells the call that has read them from all others."""

    @staticmethod
    def of(run: Run) -> "Contents":
        """Return those of the run's data as this process has read them."""
        data = with_extra(load_data(run), run)
        if data.extra is None or data.extra.source == REST:
            return Contents(data.study_fingerprint)
        return Contents(data.study_fingerprint, data.extra.fingerprint)

    def check(self, run: Run) -> None:
        """Raise DataChangedError if this process has read other data."""
        try:
            now = Contents.of(run)
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


def forget_changed_data(run: Run) -> None:
    """Drop what this process has read of a folder of images whose files have changed since.

    Raises:
        InputError: The data do not exist.
    """
    data = with_extra(load_data(run), run)
    if any(split.changed_files() for split in data.splits.values()) or _differ(run, False):
        clear_cached_data()


def find_changes(run: Run) -> str:
    """Return a sentence on files that have changed since this process read them; "" if none have.

    Files that were only touched, whose contents are the same, have not.
    """
    data = with_extra(load_data(run), run)
    changed = [file for split in data.splits.values() for file in split.changed_files()]
    if not _differ(run, bool(changed)):
        return ""
    names = list(dict.fromkeys(changed))
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    what = f"image files were changed or removed ({_list_files(names)}{more})"
    if not names:
        what = "image files were added"
    return (
        f"{what} while the study ran: its results are of the images as they were when it read "
        f"them, and it cannot be continued until they are restored"
    )


def _differ(run: Run, changed: bool) -> bool:
    """Return True if the contents of the files are others than this process has read.

    Args:
        run: Names the data.
        changed: Whether a file has another content.
    """
    try:
        differs = folder_differs(run)
        # a function is not called again
        others = (
            run.extra is not None and not is_named_extra(run.extra) and extra_differs(run.extra)
        )
    except InputError:
        return True
    return changed if differs is None else differs or others


def _list_files(files: list[str]) -> str:
    return ", ".join(map(printable, files[:MAX_NAMED]))

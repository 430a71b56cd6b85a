"""Copies of examples: in several splits, which makes a metric too good, or in several classes."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from kdtune.config.names import REST
from kdtune.config.text import printable
from kdtune.data.content import file_contents, keep_note, read_note, row_contents
from kdtune.data.dataset import Data, Split

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

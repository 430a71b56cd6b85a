"""Examples that several splits share, which makes a metric too good."""

import json
from collections.abc import Iterable, Mapping

from torch import Tensor

from kdtune.data.content import file_contents, keep_note, read_note, row_contents
from kdtune.data.dataset import Data, Split

PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


def find_shared(data: Data) -> list[str]:
    """Return a sentence for each pair of splits that share examples; none if they share none.

    Examples are shared if the bytes of their files or tensors are equal. The answer is kept for
    later calls, in this or another process.
    """
    note = f"{data.study_fingerprint}-shared"
    if (known := read_note(note)) is not None:
        return [str(sentence) for sentence in json.loads(known)]
    contents = {name: list(_contents(split)) for name, split in data.splits.items()}
    pairs = [(one, other) for one, other in PAIRS if one in contents]
    found = [_sentence(data, contents, one, other) for one, other in pairs if other in contents]
    if data.fold is not None:
        found[0] = _in_pool(data, contents)  # val of one repeat is train of another
    sentences = [sentence for sentence in found if sentence]
    keep_note(note, json.dumps(sentences))
    return sentences


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
        pooled = data.fold is not None and split != "test"
        return f"{'pool' if pooled else split}[{data.numbers(split)[index]}]"
    return inputs[index].removeprefix(data.root).lstrip("/\\")

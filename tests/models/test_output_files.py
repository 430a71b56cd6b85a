"""Files of outputs: numbers by hand, round trips, and what is refused."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdtune.config.text import InputError
from kdtune.models.outputs import (
    OutputsRecord,
    OutputTable,
    SplitOutputs,
    read_outputs,
    write_outputs,
)

CLASSES = ("ant", "bee", "cat", "dog")
RECORD = OutputsRecord("resnet50", "0123", has_cut_val=True, views={"image_size": 32})


def parquet(folder: Path, classes: tuple[str, ...] | None = None, **columns: Any) -> Path:
    file = folder / "outputs.parquet"
    columns = {"split": ["val"] * len(next(iter(columns.values()))), **columns}
    columns.setdefault("example", range(len(columns["split"])))
    table = pa.Table.from_pandas(pd.DataFrame(columns))
    if classes:
        table = table.replace_schema_metadata({"classes": json.dumps(classes)})
    pq.write_table(table, file)
    return file


def npz(folder: Path, **arrays: Any) -> Path:
    file = folder / "outputs.npz"
    np.savez(file, **arrays)
    return file


def softmax(table: OutputTable, part: int = 0) -> np.ndarray:
    odds = np.exp(table.parts[part].logits.astype(np.float64))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
@pytest.mark.parametrize("files", [None, ("train/a.png", "train/b.png", "val/c.png")])
def test_what_is_written_is_read_to_the_last_bit(
    tmp_path: Path, suffix: str, files: tuple[str, ...] | None
) -> None:
    numbers = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    parts = {"train": slice(0, 2), "val": slice(2, 3)}
    splits = {s: SplitOutputs(numbers[own], files and files[own]) for s, own in parts.items()}
    file = tmp_path / f"t.{suffix}"
    write_outputs(file, splits, CLASSES, RECORD)
    table = read_outputs(file, CLASSES)
    assert table.record == RECORD
    assert np.array_equal(np.concatenate([part.logits for part in table.parts]), numbers)
    ids = [str(name) for part in table.parts for name in part.ids]
    assert ids == (list(files) if files else ["0", "1", "0"])
    assert [part.split for part in table.parts][-1] == (None if files else "val")


def test_the_digest_is_of_the_content_not_of_the_format(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    digests = set()
    for files in (None, ("a", "b", "c")):
        splits = {"val": SplitOutputs(numbers, files), "test": SplitOutputs(numbers, files)}
        for name in ("t.parquet", "t.npz"):
            write_outputs(tmp_path / name, splits, CLASSES, RECORD)
            digests.add(read_outputs(tmp_path / name, CLASSES).digest)
        assert len(digests) == (1 if files is None else 2)
    numbers[1, 2] = np.nextafter(numbers[1, 2], np.float32(9))
    write_outputs(tmp_path / "t.npz", {"val": SplitOutputs(numbers, None)}, CLASSES, RECORD)
    assert read_outputs(tmp_path / "t.npz", CLASSES).digest not in digests


def test_probabilities_come_back_and_a_zero_has_the_floor(tmp_path: Path) -> None:
    p = [[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]]
    table = read_outputs(parquet(tmp_path, probabilities=p), CLASSES)
    assert softmax(table)[0] == pytest.approx(p[0], rel=1e-6)
    logits = table.parts[0].logits
    assert logits.sum(1) == pytest.approx([0, 0], abs=1e-5)
    assert logits[1, 0] - logits[1, 1] == pytest.approx(-np.log(1e-8), rel=1e-6)


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_the_rest_of_the_top_classes_is_spread_evenly(
    tmp_path: Path, kind: str, names: bool
) -> None:
    top: Any = [["cat", "ant"], ["dog", "bee"]] if names else [[2, 0], [3, 1]]
    values = [[0.7, 0.1], [0.5, 0.5]]
    if kind == "npz":
        file = npz(tmp_path, val_top_classes=np.array(top), val_top_probabilities=np.array(values))
    else:
        file = parquet(tmp_path, top_classes=top, top_probabilities=values)
    found = softmax(read_outputs(file, CLASSES))
    assert found[0] == pytest.approx([0.1, 0.1, 0.7, 0.1], rel=1e-6)  # 0.2 over bee and dog
    assert found[1] == pytest.approx([0, 0.5, 0, 0.5], abs=3e-8)


def test_rows_may_have_different_numbers_of_top_classes(tmp_path: Path) -> None:
    top, values = [["bee"], ["ant", "bee", "cat", "dog"]], [[0.4], [0.1, 0.2, 0.3, 0.4]]
    found = softmax(
        read_outputs(parquet(tmp_path, top_classes=top, top_probabilities=values), CLASSES)
    )
    assert found == pytest.approx(np.array([[0.2, 0.4, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]]), rel=1e-6)


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_named_classes_may_have_another_order(tmp_path: Path, kind: str) -> None:
    order, row = ("dog", "ant", "cat", "bee"), [[4.0, 1.0, 3.0, 2.0]]
    if kind == "npz":
        file = npz(tmp_path, val_logits=np.array(row), classes=np.array(order))
    else:
        file = parquet(tmp_path, order, logits=row)
    assert read_outputs(file, CLASSES).parts[0].logits.tolist() == [[1, 2, 3, 4]]
    top = {"val_top_classes": np.array([[0]]), "val_top_probabilities": np.array([[0.7]])}
    found = softmax(read_outputs(npz(tmp_path, classes=np.array(order), **top), CLASSES))
    assert found[0] == pytest.approx([0.1, 0.1, 0.1, 0.7], rel=1e-6)


GOOD = [0.25] * 4
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"probabilities": [GOOD, [0.5, 0.5, 0.5, 0.5]]}, r"row 1 .*the sum 1 \(within 0.01\).* is 2;"),
    ({"probabilities": [GOOD, [1.2, -0.2, 0, 0]]}, "row 1 .*must not be below 0"),
    ({"probabilities": [GOOD, [np.nan, 1, 0, 0]]}, "row 1 .*must be finite"),
    ({"probabilities": [GOOD, [0.5, 0.5]]}, "row 1 .*must have 4 numbers.* but has 2"),
    ({"logits": [[1, 2, 3, 4], [np.inf, 2, 3, 4]]}, "row 1 .*must be finite"),
    ({"logits": [[1, 2, 3, 4], None]}, "row 1 .*logits must be a list, but is missing"),
    ({"logits": [1.0, 2.0]}, "logits must be a column of lists"),
    ({"scores": [GOOD, GOOD]}, "must have one of logits, .* but has none"),
    ({"logits": [GOOD], "probabilities": [GOOD]}, "but has logits and probabilities"),
    ({"logits": [GOOD], "split": ["dev"]}, "split must be train, val or test, but is dev"),
    ({"logits": [GOOD], "example": [0.5]}, "example must be the index"),
    ({"logits": [GOOD] * 2, "file": ["a", None]}, "row 1 .*file must be given"),
    ({"logits": [GOOD, [-1e300, 0, 0, 0]]}, r"row 1 .*as float32 does, but one is -1e\+300"),
    (
        {"logits": [GOOD] * 2, "example": np.array([1, 2**64 - 1], dtype=np.uint64)},
        "row 1 .*example must be the index .*but got 18446744073709551615",
    ),
    ({"top_probabilities": [[0.5]]}, "must have the column top_classes"),
    (
        {"top_classes": [["bee"], ["emu"]], "top_probabilities": [[0.5], [0.5]]},
        r"row 1 .*be classes of the data \(ant, bee, cat, ... \(4\)\), but got emu",
    ),
    (
        {"top_classes": [[4]], "top_probabilities": [[0.5]]},
        "row 0 .*be numbers from 0 to 3, but got 4",
    ),
    ({"top_classes": [[1, 1]], "top_probabilities": [[0.5, 0.1]]}, "name each class once"),
    ({"top_classes": [[1, 2]], "top_probabilities": [[0.5]]}, "have 2 and 1"),
    ({"top_classes": [[1, 2]], "top_probabilities": [[0.9, 0.9]]}, "at most 1 .*is 1.8"),
]


@pytest.mark.parametrize(("columns", "message"), REFUSED)
def test_wrong_rows_are_refused_with_their_place(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_outputs(parquet(tmp_path, **columns), CLASSES)
    assert str(caught.value).startswith("outputs.parquet")


def test_wrong_arrays_are_refused(tmp_path: Path) -> None:
    cases = [
        ({"val_logits": np.zeros(4)}, r"val_logits must be an array \[N, K\]"),
        ({"val_logits": np.zeros((2, 3))}, r"val_logits\[0\]: .*must have 4 numbers"),
        ({"val_logits": np.zeros((2, 4)), "val_ids": np.arange(3)}, "each of the 2 rows"),
        ({"logits": np.zeros((2, 4))}, "such as train_logits and val_logits, but has logits"),
        ({"val_logits": np.zeros((1, 4)), "classes": np.array(["a", "b"])}, "`classes` are a, b"),
        ({"val_logits": np.array([[object()]])}, "cannot be read .*allow_pickle"),
        ({"val_logits": np.array([GOOD, [0, 0, 1e300, 0]])}, r"val_logits\[1\]: .*one is 1e\+300"),
        (
            {"val_logits": np.zeros((2, 4)), "val_ids": np.array([0, 2**63], dtype=np.uint64)},
            r"val_ids\[1\] must be the index .* but got 9223372036854775808",
        ),
    ]
    for arrays, message in cases:
        with pytest.raises(InputError, match=message):
            read_outputs(npz(tmp_path, **arrays), CLASSES)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.npz does not exist; .*--dump no.npz"):
        read_outputs(tmp_path / "no.npz", CLASSES)
    for suffix in ("npz", "parquet"):
        (tmp_path / f"bad.{suffix}").write_bytes(b"PK\3\4 nothing")
        with pytest.raises(InputError, match=rf"bad.{suffix} must be a .{suffix} file"):
            read_outputs(tmp_path / f"bad.{suffix}", CLASSES)


@pytest.mark.parametrize(
    "classes", [5, "abcd", {"ant": 0, "bee": 1, "cat": 2, "dog": 3}, None, [["ant"]], [0.5], [True]]
)
def test_classes_that_are_no_list_of_names_are_refused(tmp_path: Path, classes: Any) -> None:
    files = [parquet(tmp_path, logits=[GOOD])]
    table = pq.read_table(files[0])
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps(classes)}), files[0])
    if not (isinstance(classes, dict) or classes is None):  # arrays of objects are refused
        files.append(npz(tmp_path, val_logits=np.array([GOOD]), classes=np.array(classes)))
    for file in files:
        with pytest.raises(
            InputError, match="`classes` must be a list of names, but got"
        ) as caught:
            read_outputs(file, ("a", "b", "c", "d") if classes == "abcd" else CLASSES)
        assert str(caught.value).startswith(file.name)


def test_classes_may_be_whole_numbers(tmp_path: Path) -> None:
    file = npz(tmp_path, val_logits=np.array([[1, 2]]), classes=np.array([1, 0]))
    assert read_outputs(file, ("0", "1")).parts[0].logits.tolist() == [[2, 1]]


def test_other_files_with_the_name_of_an_archive_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    with file.open("wb") as stream:
        np.save(stream, np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"x.npz must be .*one array of numpy.save"):
        read_outputs(file, CLASSES)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("val_logits", "0 0 0 0")
    with pytest.raises(InputError, match=r"x.npz must be .*val_logits in it is no array"):
        read_outputs(file, CLASSES)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_damaged_bytes_are_refused_and_never_a_traceback(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    splits = {"val": SplitOutputs(random.normal(size=(50, 4)).astype(np.float32), None)}
    file, refused = tmp_path / f"t.{suffix}", 0
    write_outputs(file, splits, CLASSES, RECORD)
    if suffix == "npz":  # compressed: a damaged stream is an error of zlib
        np.savez_compressed(file, **dict(np.load(file)))
    whole = file.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        start = int(random.integers(len(whole)))
        damaged[start : start + 4] = random.bytes(4)
        file.write_bytes(bytes(damaged[: len(whole)]))
        try:
            read_outputs(file, CLASSES)  # a few bytes have no effect
        except InputError as error:
            assert file.name in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "said",
    ["[" * 50_000, "{", *({**vars(RECORD), **bad} for bad in ({"views": []}, {"teacher": 1}))]
    + [{**vars(RECORD), "views": {"image_size": size}} for size in ("x", 10**9)]
    + [{**vars(RECORD), "has_cut_val": "maybe"}],
)
def test_a_damaged_record_is_refused(tmp_path: Path, said: Any) -> None:
    """What it says of the data is compared with the study's, so it is not ignored."""
    text = said if isinstance(said, str) else json.dumps(said)
    with pytest.raises(InputError, match="its entry kdtune is damaged"):
        read_outputs(npz(tmp_path, val_logits=np.array([GOOD]), kdtune=np.array(text)), CLASSES)
    file = parquet(tmp_path, logits=[GOOD])
    pq.write_table(pq.read_table(file).replace_schema_metadata({"kdtune": text}), file)
    with pytest.raises(InputError, match="its entry kdtune is damaged"):
        read_outputs(file, CLASSES)


def test_a_file_that_unpacks_to_more_than_the_memory_is_not_read(tmp_path: Path) -> None:
    """A header of numpy and an entry of the archive that claim 10 TB, of 1 MB of zeros."""
    file = npz(tmp_path, val_logits=np.array([GOOD]))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(2**20))
        archive.infolist()[-1].file_size = 10**13
    with pytest.raises(InputError, match=r"cannot be read \(it unpacks to 10,000\.0 GB, more than"):
        read_outputs(file, CLASSES)


def test_a_column_of_more_values_than_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = parquet(tmp_path, logits=[GOOD] * 4000)
    assert file.stat().st_size < 8 * 16_000  # equal values are stored once
    pages = {"SC_PHYS_PAGES": 40, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("kdtune.models.outputs.os.sysconf", pages.__getitem__)
    with pytest.raises(InputError, match=r"it unpacks to 0\.0 GB, more than half of the memory"):
        read_outputs(file, CLASSES)

"""Teachers: files of outputs by hand, round trips, refusals; the mean of an ensemble."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdtune.config.text import InputError
from kdtune.models.outputs import (
    OutputsRecord,
    OutputTable,
    SplitOutputs,
    combine,
    read_outputs,
    write_outputs,
)

CLASSES = ("ant", "bee", "cat", "dog")
RECORD = OutputsRecord("resnet50", "0123", has_cut_val=True, views={"image_size": 32})


def parquet(folder: Path, classes: Any = None, **columns: Any) -> Path:
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


@pytest.mark.parametrize("files", [None, ("train/a.png", "train/b.png", "val/c.png")])
def test_what_is_written_is_read_to_the_last_bit(
    tmp_path: Path, files: tuple[str, ...] | None
) -> None:
    """In both formats, with one digest, which is of the content."""
    numbers = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    digests = []
    for suffix in ("parquet", "npz", "npz"):
        parts = {"train": slice(0, 2), "val": slice(2, 3)}
        splits = {s: SplitOutputs(numbers[own], files and files[own]) for s, own in parts.items()}
        write_outputs(tmp_path / f"t.{suffix}", splits, CLASSES, RECORD)
        table = read_outputs(tmp_path / f"t.{suffix}", CLASSES)
        digests.append(table.digest)
        assert table.record == RECORD
        assert np.array_equal(np.concatenate([part.logits for part in table.parts]), numbers)
        ids = [str(name) for part in table.parts for name in part.ids]
        assert ids == (list(files) if files else ["0", "1", "0"])
        assert [part.split for part in table.parts][-1] == (None if files else "val")
        if len(digests) == 2:
            numbers[1, 2] = np.nextafter(numbers[1, 2], np.float32(9))
    assert digests[0] == digests[1] != digests[2]


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
    if kind == "parquet" and names:  # its rows may have different numbers of classes
        top, values = [["bee"], ["ant", "bee", "cat", "dog"]], [[0.4], [0.1, 0.2, 0.3, 0.4]]
        file = parquet(tmp_path, top_classes=top, top_probabilities=values)
        want = np.array([[0.2, 0.4, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]])
        assert softmax(read_outputs(file, CLASSES)) == pytest.approx(want, rel=1e-6)


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
TWO = np.zeros((2, 4))
WRONG = json.dumps({**vars(RECORD), "views": {"image_size": 10**9}})
TOP = "top_classes"
OF_TOP = "top_probabilities"
PARQUET: list[tuple[dict[str, Any], str]] = [
    ({"probabilities": [GOOD, [0.5] * 4]}, r"row 1 .*the sum 1 .* got \[0.5, 0.5, 0.5"),
    ({"probabilities": [GOOD, [0.5, 0.5]]}, r"row 1 .*each .* got \[0.5, 0.5\]$"),
    ({"logits": [GOOD, [np.inf, 2, 3, 4]]}, r"row 1 .*must be finite .*got \[inf"),
    ({"logits": [1.0, 2.0]}, "logits must be a list of numbers .* double"),
    ({"logits": [GOOD], "probabilities": [GOOD]}, "but has logits and probabilities"),
    ({"logits": [GOOD] * 2, "file": ["a", None]}, "row 1 .*file must be given"),
    ({"logits": [GOOD, [-1e300, 0, 0, 0]]}, r"row 1 .*of float32, .* got \[-1e\+300, 0"),
    (
        {TOP: [["bee"], ["emu"]], OF_TOP: [[0.5], [0.5]]},
        "row 1 .*ant, bee, cat, and 1 more.* got .'emu",
    ),
    ({TOP: [[1, 1]], OF_TOP: [[0.5, 0.1]]}, r"once.* got \[1, 1"),
    ({TOP: [[1, 2]], OF_TOP: [[0.9, 0.9]]}, "a sum of at most 1"),
    ({"logits": [GOOD], "classes": [["ant"]]}, "`classes` must be a list of the 4"),
    ({"logits": [GOOD], "classes": list("aabc")}, "`classes` must be a list of the 4"),
]
NPZ: list[tuple[dict[str, Any], str]] = [
    ({"val_logits": TWO, "val_ids": np.arange(3)}, r"array \[2\] of indices or files"),
    ({"logits": TWO}, "such as train_logits and val_logits, but has logits"),
    ({"val_logits": TWO[0]}, r"val_logits must be a list .* the shape \[4\]"),
    ({"val_logits": TWO, "classes": np.array(["a", "b"])}, r"`classes` .* got \[\"a\", \"b"),
    # the record names the data, which are compared with the study's, so it is not ignored
    ({"val_logits": TWO, "kdtune": np.array("{")}, "its entry kdtune is damaged"),
    ({"val_logits": TWO, "kdtune": np.array(WRONG)}, "its entry kdtune is damaged"),
    ({"val_logits": np.array([[object()]])}, "cannot be read .*allow_pickle"),
]


@pytest.mark.parametrize(
    ("write", "columns", "message"),
    [*((parquet, *row) for row in PARQUET), *((npz, *row) for row in NPZ)],
)
def test_what_is_not_outputs_is_refused_with_its_place(
    tmp_path: Path, write: Any, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_outputs(write(tmp_path, **columns), CLASSES)
    assert "outputs." in str(caught.value)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.npz does not exist; .*--dump no.npz"):
        read_outputs(tmp_path / "no.npz", CLASSES)
    for suffix in ("npz", "parquet"):
        (tmp_path / f"bad.{suffix}").write_bytes(b"PK\3\4 nothing")
        with pytest.raises(InputError, match=rf"bad.{suffix} must be a .{suffix} file"):
            read_outputs(tmp_path / f"bad.{suffix}", CLASSES)
    with (tmp_path / "x.npz").open("wb") as stream:
        np.save(stream, np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"x.npz must be .*cannot be read .*numpy.ndarray"):
        read_outputs(tmp_path / "x.npz", CLASSES)


def test_the_probabilities_of_an_ensemble_are_the_mean() -> None:
    logits = [torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[3.0, -1.0, 0.5]])]
    odds = [np.exp(values.numpy().astype(float)) for values in logits]
    wanted = np.mean([o / o.sum() for o in odds], axis=0)
    found = combine(logits)
    assert found.softmax(1).numpy() == pytest.approx(wanted, rel=1e-6)
    assert found.mean().item() == pytest.approx(0, abs=1e-6) and found.dtype == torch.float32
    assert combine(logits[:1]) is logits[0]
    assert combine([torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])]).isfinite().all()

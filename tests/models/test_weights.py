"""Weights: what is written is read, layouts of checkpoints, refusals; nothing is unpickled.

Teachers that are files of outputs, by hand: round trips, refusals; the mean of an ensemble.
"""

import argparse
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from kdtune.config.text import InputError
from kdtune.models import outputs, weights
from kdtune.models.classifier import fashion_student
from kdtune.models.outputs import combine, read_outputs
from kdtune.models.registry import build
from kdtune.models.weights import METADATA, WEIGHTS

STUDENT = "kdtune.models:fashion_student"


class Payload:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def refused(file, words=None):
    """Return the sentence in which this file is refused as the student's weights."""
    with pytest.raises(InputError, match=words) as caught:
        build(STUDENT, str(file), 10, seed=1)
    text = str(caught.value)
    assert str(file) in text and "\n" not in text
    return text


def test_what_is_written_is_what_is_read(tmp_path):
    """Also in another layout of memory, over a larger file, and the halves of .pt."""
    file, net = tmp_path / "weights.safetensors", fashion_student(10)
    net[1].running_mean.fill_(0.25)
    net[1].num_batches_tracked.fill_(7)
    weights.save_weights(fashion_student(100), file)
    weights.save_weights(net.to(memory_format=torch.channels_last), file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    state, read = net.state_dict(), weights.load_weights(STUDENT, str(file))
    assert state.keys() == read.keys()
    assert all(torch.equal(state[k], read[k]) and state[k].dtype == read[k].dtype for k in state)
    misnamed = shutil.copy(file, tmp_path / "weights.pth")
    assert loads(file, state) and loads(misnamed, state)
    other = state | {"0.weight": state["0.weight"].half()}
    torch.save(other | {"1.num_batches_tracked": torch.tensor(7.0)}, file)
    assert loads(file, state | {"0.weight": other["0.weight"].float()})


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_files_are_refused(tmp_path, state, suffix):
    file = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pt" else save_file)(state, file)
    content = file.read_bytes()
    for keep in (0, 5, len(content) // 2, -1):
        file.write_bytes(content[:keep])
        refused(file, "whole safetensors" if suffix == ".safetensors" else "cannot be read")


OTHER_CONTENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a module": (
        lambda _: fashion_student(10),
        r"\(it holds torch.nn.modules.container.Sequential\). Objects other than tensors",
    ),
    "settings": (
        lambda _: {"config": {"width": 3}, "epoch": 3},
        r"must hold a state dict, names to tensors, .* but holds a dict \(config, epoch\)",
    ),
    "nothing": (lambda _: {}, r"but holds a dict \(no entries\)"),
    "other keys": (
        lambda state: {key.replace("0.", "features."): state[key] for key in state},
        r"missing keys: 1, first 0\.weight; unexpected keys: 1, first features\.w",
    ),
    "another shape": (
        lambda state: state | {"0.weight": torch.zeros(6, 1, 3, 3)},
        r"first 0.weight, \[6, 1, 3, 3\] of floating-point numbers instead of \[6, 1, 5, 5\] of",
    ),
}


@pytest.mark.parametrize(("change", "words"), OTHER_CONTENT.values(), ids=OTHER_CONTENT)
def test_files_of_torch_that_hold_something_else_are_refused(file, state, change, words):
    torch.save(change(state), file)
    text = refused(file, words)
    assert text.isprintable() and len(text) < 600


def test_files_that_are_no_checkpoints_are_refused(file):
    for content in (b"version https://git-lfs.github.com/spec/v1", b"<!DOCTYPE html>404"):
        file.write_bytes(content)
        refused(file, f"begins with b'{content[:12].decode()}")
    refused(file.parent, "is not one")
    refused(file.with_name("missing.pt"), "missing.pt does not exist")


def test_default_weights_that_cannot_be_had_say_what_would_do(monkeypatch):
    def offline(*args, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(InputError, match=r"resnet18 cannot be loaded \(<urlopen error Name or"):
        weights.load_weights("resnet18", "default")
    for name in (STUDENT, "cifar_resnet20"):
        with pytest.raises(InputError, match='no weights "default"'):
            weights.load_weights(name, "default")


@pytest.fixture(scope="module")
def state():
    return dict(fashion_student(10).state_dict())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def loads(file, state, name=STUDENT):
    """Return True if the file's weights in the student are those of a state dict."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled = build(name, str(file), 10, seed=2).net.state_dict()
    return all(torch.equal(filled[key], value) for key, value in state.items())


LAYOUTS = {
    "entry": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}},
    "another name": lambda state: {"my_own_name": state, "epoch": 3},
    "optimizer": lambda state: {
        "model": state,
        "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1).state_dict(),
        "args": argparse.Namespace(lr=0.1, name="x"),
    },
    "AveragedModel": lambda state: {
        "model_ema": {"n_averaged": torch.tensor(3), **prefixed(state, "module.")}
    },
    "Lightning": lambda state: {"state_dict": prefixed(state, "model."), "loops": {}},
    "stacked": lambda state: prefixed(state, "module._orig_mod.model."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_load(file, state, layout):
    torch.save(LAYOUTS[layout](state), file)
    assert loads(file, state)
    misnamed = file.with_suffix(".safetensors")  # files are told apart by content
    torch.save(LAYOUTS[layout](state), misnamed, _use_new_zipfile_serialization=False)
    assert loads(misnamed, state)


def test_averages_come_first_and_the_choice_is_said(file, state):
    averages = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": {"decay": 0.9, "module": averages}}, file)
    with pytest.warns(UserWarning, match=f"{file} holds weights as model_ema.module, model; load"):
        read = weights.read_checkpoint(file)
    assert all(torch.equal(value, averages[key]) for key, value in read.items())


@pytest.mark.parametrize("form", ["pickle", "torch", "beside", "in flags", "in the weights"])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_object_inside_never_runs_and_is_named(file, tmp_path, state, zipped, form):
    target = tmp_path / "ran"
    content = {
        "torch": Payload(target),
        "beside": {"state_dict": state, "config": Payload(target)},
        "in flags": {"state_dict": state, "args": argparse.Namespace(out=Payload(target))},
        "in the weights": {"state_dict": state | {"more": Payload(target)}},
    }
    if form == "pickle":
        file.write_bytes(pickle.dumps(Payload(target), protocol=2))
    else:
        torch.save(content[form], file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"it holds _?io.open\)\. .* if you trust"):
        weights.read_checkpoint(file)
    assert not target.exists()
    if form == "pickle":
        pickle.loads(file.read_bytes()).close()
    else:
        torch.load(file, weights_only=False)
    assert target.exists()  # else this test would prove nothing


GOOD = {"model": "m:net", "classes": ["a", "b"], "preprocessing": {"mean": [0.2], "std": [0.3]}}


@pytest.mark.parametrize(
    "record",
    [
        "[" * 50_000,
        "{}",
        json.dumps(GOOD | {"classes": "ab"}),
        json.dumps(GOOD | {"from_the_future": 1}),
        json.dumps(GOOD | {"preprocessing": {"size": 10**9}}),
        json.dumps(GOOD | {"preprocessing": {"from_the_future": 1}}),
    ],
)
def test_a_damaged_record_of_a_finished_teacher_is_not_ignored(tmp_path: Path, record: str) -> None:
    """Without the preprocessing in it, the teacher's predictions would be wrong."""
    file = tmp_path / WEIGHTS
    save_file({"0.weight": torch.zeros(1)}, file, {METADATA: record})
    with pytest.raises(InputError, match="is damaged or of a newer version") as caught:
        weights.read_finished(file)
    assert str(file) in str(caught.value) and len(str(caught.value)) < 600


CLASSES = ("ant", "bee", "cat", "dog")
RECORD = outputs.OutputsRecord("resnet50", "0123", has_cut_val=True, views={"image_size": 32})


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


def softmax(table: outputs.OutputTable, part: int = 0) -> np.ndarray:
    odds = np.exp(table.parts[part].logits.astype(np.float64))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("files", [None, ("train/a.png", "train/b.png", "val/c.png")])
def test_what_is_written_is_read_to_the_bit(tmp_path: Path, files: tuple[str, ...] | None) -> None:
    """In both formats, with one digest, which is of the content."""
    numbers = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    digests = []
    for suffix in ("parquet", "npz", "npz"):
        parts = {"train": slice(0, 2), "val": slice(2, 3)}
        splits = {
            s: outputs.SplitOutputs(numbers[own], files and files[own]) for s, own in parts.items()
        }
        outputs.write_outputs(tmp_path / f"t.{suffix}", splits, CLASSES, RECORD)
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


def test_probabilities_come_back_and_those_of_an_ensemble_are_the_mean(tmp_path: Path) -> None:
    p = [[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]]
    table = read_outputs(parquet(tmp_path, probabilities=p), CLASSES)
    assert softmax(table)[0] == pytest.approx(p[0], rel=1e-6)
    logits = table.parts[0].logits
    assert logits.sum(1) == pytest.approx([0, 0], abs=1e-5)
    assert logits[1, 0] - logits[1, 1] == pytest.approx(-np.log(1e-8), rel=1e-6)
    logits = [torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[3.0, -1.0, 0.5]])]
    odds = [np.exp(values.numpy().astype(float)) for values in logits]
    wanted = np.mean([o / o.sum() for o in odds], axis=0)
    found = combine(logits)
    assert found.softmax(1).numpy() == pytest.approx(wanted, rel=1e-6)
    assert found.mean().item() == pytest.approx(0, abs=1e-6) and found.dtype == torch.float32
    assert combine(logits[:1]) is logits[0]
    assert combine([torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])]).isfinite().all()


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_the_rest_of_top_classes_is_spread_evenly(tmp_path: Path, kind: str, names: bool) -> None:
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


EVEN = [0.25] * 4
TWO = np.zeros((2, 4))
TOP = "top_classes"
OF_TOP = "top_probabilities"
PARQUET: list[tuple[dict[str, Any], str]] = [
    ({"probabilities": [EVEN, [0.5] * 4]}, r"row 1 .*the sum 1 .* got \[0.5, 0.5, 0.5"),
    ({"probabilities": [EVEN, [0.5, 0.5]]}, r"row 1 .*each .* got \[0.5, 0.5\]$"),
    ({"logits": [EVEN, [np.inf, 2, 3, 4]]}, r"row 1 .*must be finite .*got \[inf"),
    ({"logits": [1.0, 2.0]}, "logits must be a list of numbers .* double"),
    ({"logits": [EVEN], "probabilities": [EVEN]}, "but has logits and probabilities"),
    ({"logits": [EVEN] * 2, "file": ["a", None]}, "row 1 .*file must be given"),
    ({"logits": [EVEN, [-1e300, 0, 0, 0]]}, r"row 1 .*of float32, .* got \[-1e\+300, 0"),
    (
        {TOP: [["bee"], ["emu"]], OF_TOP: [[0.5], [0.5]]},
        "row 1 .*ant, bee, cat, and 1 more.* got .'emu",
    ),
    ({TOP: [[1, 1]], OF_TOP: [[0.5, 0.1]]}, r"once.* got \[1, 1"),
    ({TOP: [[1, 2]], OF_TOP: [[0.9, 0.9]]}, "a sum of at most 1"),
    ({"logits": [EVEN], "classes": [["ant"]]}, "`classes` must be a list of the 4"),
    ({"logits": [EVEN], "classes": list("aabc")}, "`classes` must be a list of the 4"),
]
NPZ: list[tuple[dict[str, Any], str]] = [
    ({"val_logits": TWO, "val_ids": np.arange(3)}, r"array \[2\] of indices or files"),
    ({"logits": TWO}, "such as train_logits and val_logits, but has logits"),
    ({"val_logits": TWO[0]}, r"val_logits must be a list .* the shape \[4\]"),
    # the record names the data, which are compared with the study's, so it is not ignored
    ({"val_logits": TWO, "kdtune": np.array("{")}, "cannot be read .*OutputsRecord"),
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

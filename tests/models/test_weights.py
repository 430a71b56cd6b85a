"""Weights: what is written is read, layouts of checkpoints, refusals; nothing is unpickled."""

import argparse
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from kdtune.config.text import InputError
from kdtune.models import weights
from kdtune.models.classifier import fashion_student
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
    "whole numbers": (
        lambda state: state | {"0.weight": state["0.weight"].long()},
        r"shapes or types: 1, first 0.weight, \[6, 1, 5, 5\] of other numbers instead of",
    ),
    "numbers too large": (
        lambda state: state | {"0.weight": torch.full((6, 1, 5, 5), 1e300, dtype=torch.double)},
        "that are NaN or infinite in 1 of their tensors, first 0.weight",
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

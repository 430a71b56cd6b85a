"""Weights: what is written is read, layouts of checkpoints, refusals; nothing is unpickled."""

import argparse
import json
import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kdtune.config.text import InputError
from kdtune.models.classifier import fashion_student
from kdtune.models.registry import build
from kdtune.models.weights import (
    METADATA,
    WEIGHTS,
    fill,
    load_weights,
    read_checkpoint,
    read_finished,
    save_weights,
)

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


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_what_is_written_is_what_is_read(tmp_path, suffix):
    net, file = build(STUDENT, "none", 10, seed=1).net, tmp_path / f"weights{suffix}"
    net[1].running_mean.fill_(0.25)
    net[1].num_batches_tracked.fill_(7)
    if suffix == ".pt":
        torch.save(net.state_dict(), file)
    else:
        save_weights(net, file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    state, read = net.state_dict(), load_weights(STUDENT, str(file))
    assert state.keys() == read.keys()
    assert all(torch.equal(state[k], read[k]) and state[k].dtype == read[k].dtype for k in state)
    filled = build(STUDENT, str(file), 10, seed=2).net.state_dict()
    assert all(torch.equal(state[key], filled[key]) for key in state)


def test_saved_weights_replace_the_file_whole(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_weights(build(STUDENT, "none", 100, seed=1).net, file)
    model = build(STUDENT, "none", 10, seed=2)
    save_weights(model.net.to(memory_format=torch.channels_last), file)
    read = load_weights(STUDENT, str(file))
    assert all(torch.equal(value, read[key]) for key, value in model.net.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    net, file = fashion_student(10), tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(net.state_dict(), file)
    else:
        save_weights(net, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(file, "whole safetensors" if suffix == ".safetensors" else "cannot be read")


OTHER_CONTENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a module": (
        lambda _: fashion_student(10),
        r"objects other than tensors \(torch.nn.modules.container.Sequential\)",
    ),
    "settings": (
        lambda _: {"config": {"width": 3}, "epoch": 3},
        r"must hold a state dict, names to tensors, .* but holds a dict \(config, epoch\)",
    ),
    "a tensor": (lambda _: torch.zeros(3), "must hold a state dict, .* but holds a Tensor"),
    "nothing": (lambda _: {}, r"but holds a dict \(no entries\)"),
    "two networks": (
        lambda state: {"generator": state, "discriminator": state},
        r"but holds a dict \(generator, discriminator\); save the state dict",
    ),
    "another architecture": (
        lambda _: torchvision.models.mobilenet_v3_small(num_classes=10).state_dict(),
        r"missing keys: 17, first 0\.weight; unexpected keys: 244, first features\.0\.0\.w",
    ),
    "a key more": (
        lambda state: state | {"more.weight": torch.zeros(1)},
        r"fit the network \(unexpected keys: 1, first more\.weight\)\. Give weights of",
    ),
    "a key less": (
        lambda state: {k: v for k, v in state.items() if k != "1.running_mean"},
        r"\(missing keys: 1, first 1.running_mean\)",
    ),
    "another shape": (
        lambda state: state | {"0.weight": torch.zeros(6, 1, 3, 3)},
        r"first 0.weight, \[6, 1, 3, 3\] of floating-point numbers instead of \[6, 1, 5, 5\] of",
    ),
    "no shape": (
        lambda state: state | {"12.weight": torch.zeros(())},
        r"first 12.weight, \[\] of floating-point numbers instead of \[10, 24\]",
    ),
    "whole numbers": (
        lambda state: state | {"0.weight": state["0.weight"].long()},
        r"shapes or types: 1, first 0.weight, \[6, 1, 5, 5\] of other numbers instead of",
    ),
    "NaN": (
        lambda state: state | {"0.weight": torch.full((6, 1, 5, 5), float("nan"))},
        "that are NaN or infinite in 1 of their tensors, first 0.weight; their training has",
    ),
    "numbers too large": (
        lambda state: state | {"0.weight": torch.full((6, 1, 5, 5), 1e300, dtype=torch.double)},
        "that are NaN or infinite in 1 of their tensors, first 0.weight",
    ),
    "infinite statistics": (
        lambda state: state | {"1.running_var": state["1.running_var"] / 0},
        "that are NaN or infinite in 1 of their tensors, first 1.running_var",
    ),
}


@pytest.mark.parametrize(("change", "words"), OTHER_CONTENT.values(), ids=OTHER_CONTENT)
def test_files_of_torch_that_hold_something_else_are_refused(file, state, change, words):
    torch.save(change(state), file)
    refused(file, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no weights", "or is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run git lfs pull"),
        (b"<!DOCTYPE html>404", "a web page or another text"),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(file, content, words):
    file.write_bytes(content)
    refused(file, words)


def test_folders_and_missing_files_are_refused(tmp_path):
    refused(tmp_path / "missing.pt", "missing.pt does not exist")
    refused(tmp_path, "is not one")


def test_refused_weights_leave_the_network_as_it_was():
    net = fashion_student(10)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()} | {"more": torch.zeros(1)}
    with pytest.raises(InputError):
        fill(net, state, "12", "weights", replace_head=True)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_default_weights_that_cannot_be_had_say_what_would_do(monkeypatch):
    def offline(*args, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(InputError, match=r"resnet18 cannot be downloaded \(Name or service"):
        load_weights("resnet18", "default")
    for name in (STUDENT, "cifar_resnet20"):
        with pytest.raises(InputError, match='no weights "default"'):
            load_weights(name, "default")


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
    **{
        entry: (lambda state, entry=entry: {entry: state, "epoch": 3, "optimizer": {"state": {}}})
        for entry in ("state_dict", "model", "model_ema", "net", "state_dict_ema", "my_own_name")
    },
    "flags": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, name="x")},
    "optimizer": lambda state: {
        "model": state,
        "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1).state_dict(),
        "best_acc1": torch.tensor(70.0),
    },
    "DataParallel": lambda state: nn.DataParallel(loaded(state)).state_dict(),
    "AveragedModel": lambda state: {"model_ema": AveragedModel(loaded(state)).state_dict()},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "Lightning": lambda state: {"state_dict": prefixed(state, "model."), "loops": {}},
    "stacked": lambda state: prefixed(state, "module._orig_mod.model."),
}


def loaded(state):
    net = fashion_student(10)
    net.load_state_dict(state)
    return net


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_load(file, state, layout):
    torch.save(LAYOUTS[layout](state), file)
    assert loads(file, state)


@pytest.mark.parametrize("suffix", ["pth", "tar", "safetensors"])
def test_files_are_told_apart_by_content(tmp_path, state, suffix):
    file = tmp_path / f"weights.{suffix}"
    torch.save({"state_dict": prefixed(state, "module.")}, file)
    assert loads(file, state)
    torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=False)
    assert loads(file, state)
    save_file(prefixed(state, "module._orig_mod."), file)
    assert loads(file, state)


def test_averages_come_first_and_the_choice_is_said(file, state):
    averages = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": {"decay": 0.9, "module": averages}}, file)
    with pytest.warns(UserWarning, match=f"{file} holds weights as model_ema.module, model; load"):
        read = read_checkpoint(file)
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
    with pytest.raises(InputError, match=r"other than tensors \(_?io.open\), .* If you trust it,"):
        read_checkpoint(file)
    assert not target.exists()
    if form == "pickle":
        pickle.loads(file.read_bytes()).close()
    else:
        torch.load(file, weights_only=False)
    assert target.exists()  # else this test would prove nothing


def new_state() -> dict[str, Tensor]:
    return {key: value.clone() for key, value in fashion_student(10).state_dict().items()}


def short_refusal(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        build(STUDENT, str(file), 10, seed=1)
    text = str(caught.value)
    assert str(file) in text and text.isprintable() and len(text) < 500
    return text


def test_counters_and_half_precision_are_converted(tmp_path: Path) -> None:
    file, own = tmp_path / "weights.pt", new_state()
    own["1.num_batches_tracked"] = own["1.num_batches_tracked"].float()
    own["0.weight"] = own["0.weight"].half()
    torch.save(own, file)
    filled = build(STUDENT, str(file), 10, seed=1).net.state_dict()
    assert torch.equal(filled["0.weight"], own["0.weight"].float())


def test_infinities_of_the_network_itself_are_no_fault() -> None:
    """As in masks of attention."""
    net = fashion_student(10)
    net.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert not fill(net, net.state_dict(), "12", "weights", replace_head=True)


def test_names_reach_a_message_short_and_without_codes_of_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    for name in ("\x1b[31mred", "x" * 100_000):
        torch.save({**new_state(), name: torch.zeros(1)}, file)
        assert "unexpected keys: 1, first " in short_refusal(file)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 50_000,
        b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
        b'{"__metadata__":{"kdtune_teacher":3}}',
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "is not a whole safetensors file" in short_refusal(file)
    assert read_finished(file) is None


WRONG_ENTRIES: list[dict[str, Any]] = [
    {"classes": "ab"},
    {"model": 5},
    {"has_cut_val": "maybe"},
    {"from_the_future": 1},
    *({"preprocessing": wrong} for wrong in (None, {"mean": "x"}, {"z": 1}, {"size": 10**9})),
]
GOOD = {"model": "m:net", "classes": ["a", "b"], "preprocessing": {"mean": [0.2], "std": [0.3]}}


@pytest.mark.parametrize(
    "record",
    ["[" * 50_000, "null", "{", "{}", *(GOOD | wrong for wrong in WRONG_ENTRIES)],
)
def test_a_damaged_record_of_a_finished_teacher_is_not_ignored(tmp_path: Path, record: Any) -> None:
    """Without the preprocessing in it, the teacher's predictions would be wrong."""
    file, text = tmp_path / WEIGHTS, record if isinstance(record, str) else json.dumps(record)
    save_file(new_state(), file, {METADATA: text})
    with pytest.raises(InputError, match="is damaged or of a newer version") as caught:
        read_finished(file)
    assert str(file) in str(caught.value) and len(str(caught.value)) < 600


def test_a_whole_record_of_a_finished_teacher_is_read(tmp_path: Path) -> None:
    file = tmp_path / "other-name.safetensors"
    save_file(new_state(), file, {METADATA: json.dumps(GOOD)})
    found = read_finished(file)
    assert found is not None and (found.model, found.classes) == ("m:net", ("a", "b"))

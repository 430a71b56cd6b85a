"""Checkpoints in the layouts of other people's training scripts, saved in the tests."""

import argparse
import gzip
import pathlib
import tarfile
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from kdtune.config.text import InputError
from kdtune.models.classifier import fashion_student
from kdtune.models.registry import build
from kdtune.models.weights import read_checkpoint

STUDENT = "kdtune.models:fashion_student"


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
        for entry in (
            *("state_dict", "model", "model_state_dict", "model_ema", "net", "state_dict_ema"),
            "my_own_name",
        )
    },
    "twice nested": lambda state: {"model": {"state_dict": state}, "arch": "resnet18"},
    "no averages": lambda state: {"model": state, "model_ema": None},
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
    "half": lambda state: {key: value.half() for key, value in state.items()},
}


def loaded(state):
    net = fashion_student(10)
    net.load_state_dict(state)
    return net


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_load(file, state, layout):
    torch.save(LAYOUTS[layout](state), file)
    kept = {k: v.half().to(v.dtype) for k, v in state.items()} if layout == "half" else state
    assert loads(file, kept)


@pytest.mark.parametrize("suffix", ["pth", "pt", "th", "tar", "pth.tar", "bin", "safetensors"])
def test_files_are_told_apart_by_content(tmp_path, state, suffix):
    file = tmp_path / f"weights.{suffix}"
    torch.save({"state_dict": prefixed(state, "module.")}, file)
    assert loads(file, state)
    torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=False)
    assert loads(file, state)
    save_file(prefixed(state, "module._orig_mod."), file)
    assert loads(file, state)


def test_a_network_whose_own_keys_have_the_prefix_keeps_it(tmp_path, monkeypatch, state):
    (tmp_path / "wrapping.py").write_text(
        "from torch import nn\nfrom kdtune.models import fashion_student\n\n"
        "class Net(nn.Module):\n    def __init__(self, classes):\n        super().__init__()\n"
        "        self.model = fashion_student(classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for prefix in ("model.", "module.model."):
        torch.save(prefixed(state, prefix), tmp_path / "weights.pt")
        assert loads(tmp_path / "weights.pt", prefixed(state, "model."), "wrapping:Net")


def test_a_prefix_of_some_keys_stays(file, state):
    torch.save(prefixed(state, "module.") | {"step": torch.zeros(1)}, file)
    with pytest.raises(
        InputError, match=r"first 0.weight; unexpected keys: .*, first module.0.weight"
    ):
        build(STUDENT, str(file), 10, seed=1)


def test_averages_come_first_and_the_choice_is_said(file, state):
    averages = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": {"decay": 0.9, "module": averages}}, file)
    with pytest.warns(UserWarning, match=f"{file} holds weights as model_ema.module, model; load"):
        read = read_checkpoint(file)
    assert all(torch.equal(value, averages[key]) for key, value in read.items())


class Payload:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["beside", "in flags", "in the weights"])
def test_an_object_inside_never_runs_and_is_named(file, tmp_path, state, zipped, inside):
    target = tmp_path / "ran"
    content = {
        "beside": {"state_dict": state, "config": Payload(target)},
        "in flags": {"state_dict": state, "args": argparse.Namespace(out=Payload(target))},
        "in the weights": {"state_dict": state | {"more": Payload(target)}},
    }[inside]
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"other than tensors \(_?io.open\), .* If you trust it,"):
        read_checkpoint(file)
    assert not target.exists()
    torch.load(file, weights_only=False)
    assert target.exists()  # else this test would prove nothing


def test_the_class_of_a_refused_object_is_named(file, state):
    torch.save({"model": state, "args": argparse.Namespace(out=pathlib.PurePosixPath("x"))}, file)
    with pytest.raises(
        InputError, match=r"than tensors \(pathlib\S*PurePosixPath\), which are not"
    ):
        read_checkpoint(file)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_files_that_are_no_checkpoints_are_said(file, tmp_path, state):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(InputError, match="a Git LFS pointer, not the file; run git lfs pull"):
        read_checkpoint(file)
    file.write_text("<!DOCTYPE html>404")
    with pytest.raises(InputError, match="a web page or another text"):
        read_checkpoint(file)
    file.write_bytes(gzip.compress(b"x"))
    with pytest.raises(InputError, match="compressed; unpack it"):
        read_checkpoint(file)
    save_file(state, tmp_path / "inner")
    with tarfile.open(file, "w") as archive:
        archive.add(tmp_path / "inner", "weights.safetensors")
    with pytest.raises(InputError, match="an archive; unpack it"):
        read_checkpoint(file)


def test_several_state_dicts_of_unknown_names_are_refused(file, state):
    torch.save({"generator": state, "discriminator": state}, file)
    with pytest.raises(InputError, match="but holds generator, discriminator; save the state dict"):
        read_checkpoint(file)

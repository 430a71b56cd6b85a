"""Weights: what is written is what is read, and nothing is unpickled.

The payload of the pickles used here is shown to run with `weights_only=False`.
"""

import pickle
from urllib.error import URLError

import pytest
import torch
import torchvision

from kdtune.config.text import InputError
from kdtune.models.classifier import fashion_student
from kdtune.models.registry import build
from kdtune.models.weights import fill, load_weights, save_weights

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


@pytest.mark.parametrize("form", ["torch", "pickle", "inside"])
def test_a_pickle_is_refused_and_does_not_run(tmp_path, form):
    file, target = tmp_path / "weights.pt", tmp_path / "ran"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Payload(target), protocol=2))
    else:
        state = fashion_student(10).state_dict() | {"extra": Payload(target)}
        torch.save(state if form == "inside" else Payload(target), file)
    refused(file, r"holds objects other than tensors \(_?io.open\)")
    assert not target.exists()
    if form == "pickle":
        pickle.loads(file.read_bytes()).close()
    else:
        torch.load(file, weights_only=False)
    assert target.exists()  # else this test would prove nothing


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


def test_files_that_hold_something_else_are_refused(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(fashion_student(10), file)
    refused(file, r"objects other than tensors \(torch.nn.modules.container.Sequential\)")
    torch.save({"config": {"width": 3}, "epoch": 3}, file)
    refused(file, "must hold a state dict, names to tensors, .* but holds config, epoch; save the")
    torch.save(torch.zeros(3), file)
    refused(file, "must hold a state dict, names to tensors, .* but holds a Tensor")
    torch.save({}, file)
    refused(file, "but holds nothing")
    file.write_text("no weights")
    refused(file, "or is damaged")
    refused(tmp_path / "missing.pt", "missing.pt does not exist")
    refused(tmp_path, "is not one")


def test_weights_of_another_architecture_are_refused_by_key(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(torchvision.models.mobilenet_v3_small(num_classes=10).state_dict(), file)
    refused(
        file, r"missing keys: 17, first 0\.weight; unexpected keys: 244, first features\.0\.0\.w"
    )
    state = fashion_student(10).state_dict()
    torch.save(state | {"more.weight": torch.zeros(1)}, file)
    refused(file, r"fit the network \(unexpected keys: 1, first more\.weight\)\. Give weights of")
    torch.save(state | {"0.weight": torch.zeros(6, 1, 3, 3)}, file)
    refused(file, r"\(other shapes: 1, first 0.weight, \[6, 1, 3, 3\] instead of \[6, 1, 5, 5\]\)")
    torch.save(state | {"12.weight": torch.zeros(())}, file)
    refused(file, r"first 12.weight, \[\] instead of \[10, 24\]")
    del state["1.running_mean"]
    torch.save(state, file)
    refused(file, r"\(missing keys: 1, first 1.running_mean\)")


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

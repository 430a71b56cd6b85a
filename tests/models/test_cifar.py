"""ResNets for CIFAR against the paper's table 6, a forward pass by hand, and published layouts."""

import pytest
import torch
import torch.nn.functional as F

from kdtune.models.checks import probe
from kdtune.models.registry import build


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_parameters_are_those_of_the_papers_table_6(depth, millions):
    net = build(f"cifar_resnet{depth}", "none", 10, seed=1).net
    digits = 1 if depth == 110 else 2
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, digits) == millions
    weighted = [p for p in net.parameters() if p.ndim > 1]
    assert len(weighted) == depth  # 6n + 1 convolutions and the linear layer


def norm(x, state, name):
    values = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *values)


def by_hand(state, x, blocks):
    """Return the logits of a ResNet with option A, from its state dict in the paper's words."""
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            halves = stage > 1 and block == 0
            shortcut = x
            if halves:
                shortcut = torch.zeros(len(x), width, x.shape[2] // 2, x.shape[3] // 2)
                shortcut[:, width // 4 : width // 4 + width // 2] = x[:, :, ::2, ::2]
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=1 + halves, padding=1)
            y = F.relu(norm(y, state, f"{name}.bn1"))
            y = F.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
            x = F.relu(norm(y, state, f"{name}.bn2") + shortcut)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def randomise(net):
    """Give the batch norm layers statistics and weights that are not 0 and 1."""
    generator = torch.Generator().manual_seed(4)
    for name, value in net.state_dict().items():
        if ("bn" in name or "downsample" in name) and value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))


def test_logits_of_option_a_are_those_by_hand():
    model = build("cifar_resnet20", "none", 10, seed=1)
    randomise(model.net)
    model.set_mode(False)
    views = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        reference = by_hand(model.net.state_dict(), (views / 255 - mean) / std, blocks=3)
        assert torch.allclose(model(views), reference, rtol=1e-4, atol=1e-4)
    assert reference.std() > 0.1  # else the tolerance would prove nothing


def akamaster(state):
    keys = {key: f"module.{key.replace('fc.', 'linear.')}" for key in state}
    return {"state_dict": {keys[key]: state[key] for key in state}, "best_prec1": 91.7}


def repdistiller(state):
    return {"epoch": 240, "model": dict(state), "best_acc": torch.tensor(70.0), "optimizer": {}}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("cifar_resnet20", akamaster),
        ("cifar_resnet20_b", dict),  # chenyaofo's
        ("cifar_resnet8x4_b", repdistiller),
    ],
)
def test_published_layouts_load(tmp_path, name, layout):
    file, net = tmp_path / "weights.th", build(name, "none", 100, seed=1).net
    randomise(net)
    torch.save(layout(net.state_dict()), file)
    filled = build(name, str(file), 100, seed=2, replace_head=False).net.state_dict()
    assert all(torch.equal(value, filled[key]) for key, value in net.state_dict().items())


def test_option_b_has_the_keys_and_numbers_of_its_published_weights():
    models = {k: build("cifar_resnet20_b", "none", k, seed=1) for k in (7, 10, 100)}
    probe(models[7], torch.zeros(2, 1, 28, 28, dtype=torch.uint8), 7, whole=False)  # small and grey
    means = {classes: model.preprocessing.mean[0] for classes, model in models.items()}
    assert means == {7: 0.4914, 10: 0.4914, 100: 0.5071}
    keys = models[10].net.state_dict().keys()
    assert {"layer2.0.downsample.0.weight", "layer3.0.downsample.1.running_mean"} <= keys
    assert not any("layer1.0.downsample" in key for key in keys)

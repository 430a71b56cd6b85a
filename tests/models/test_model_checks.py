"""Checks of models on views, in one sentence each, and costs by hand; see hostile_models.py."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdtune.config.text import InputError
from kdtune.models import checks
from kdtune.models.checks import count_flops, measure_cost, probe
from kdtune.models.classifier import Classifier, Preprocessing
from kdtune.models.registry import build
from kdtune.models.weights import save_weights

VIEWS = torch.randint(0, 256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
FEW = torch.arange(20, dtype=torch.uint8).view(2, 1, 2, 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lazy", "layers and weights of .* cannot be read: .* uninitialized parameter"),
        ("of_batch", "must return the same logits for an example in any batch in eval mode"),
        ("pairs", "one tensor of floating-point numbers, but returns a tuple"),
        ("one_logit_in_training", r"logits \[B, 3\].* in train mode, but returns .* \[2, 1\];"),
        ("not_a_number", r"logits \[B, 3\].* data, but returns some that are NaN or infinite"),
        ("nan_in_training", "in train mode, but returns some that are NaN or infinite"),
        ("frozen", "cannot learn: its logits have no gradient .* parameters; call net"),
        ("detached", "cannot learn: its logits have no gradient"),
        ("exits", r"exits failed: it calls sys\.exit\(0\) .*line \d+\); leave"),
    ],
)
def test_a_model_that_cannot_work_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        probe(build(f"hostile_models:{name}", "none", 3, seed=0), VIEWS, 3, whole=True)
    assert f"hostile_models:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_an_input_that_is_changed_in_place_is_refused() -> None:
    class Halves(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5))

    with pytest.raises(InputError, match="must leave its input as it is"):
        probe(Classifier("mine:net", Halves(4, 3), None), torch.ones(2, 4), 3, whole=True)


def classifier(*layers: nn.Module) -> Classifier:
    return Classifier("made", nn.Sequential(*layers), Preprocessing())


class Sequences(nn.Module):
    """From views [B, 1, T, D] to the mean of the outputs of a layer for sequences."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x[:, 0])
        return (out[0] if isinstance(out, tuple) else out).mean(1)


def test_costs_of_a_linear_layer_and_an_ensemble(tmp_path: Path) -> None:
    members = [classifier(nn.Flatten(), nn.Linear(10, 5)) for _ in range(3)]
    cost = measure_cost(members[:1], "student", FEW, threads=1)
    assert (cost.role, cost.model, cost.params) == ("student", "made", 10 * 5 + 5)
    assert cost.flops == 2 * 10 * 5
    assert 0 < cost.latency_ms < 1000 and 0 < (cost.latency32_ms or 0) < 1000
    assert cost.latency_ms_iqr is not None and cost.latency_ms_iqr >= 0
    save_weights(members[0].net, tmp_path / "student.safetensors")
    assert cost.bytes == (tmp_path / "student.safetensors").stat().st_size
    cost = measure_cost(members, "teacher", FEW)
    assert (cost.model, cost.params, cost.flops) == ("made+made+made", 3 * 55, 3 * 100)


class Slow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.03)
        return x


def test_the_latencies_of_a_model_take_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 times 30 ms do not fit into it; a single pass is timed in any case."""
    slow = classifier(nn.Flatten(), Slow(), nn.Linear(10, 5))
    cost = measure_cost([slow], "student", FEW)
    assert cost.latency_ms > 30 and cost.latency_ms_iqr is not None
    assert cost.latency32_ms is None and cost.latency32_ms_iqr is None
    monkeypatch.setattr(checks, "MAX_SECONDS", 0.05)
    cost = measure_cost([slow], "student", FEW)
    assert cost.latency_ms > 30 and cost.latency_ms_iqr is None and cost.flops == 2 * 10 * 5


def test_threads_and_running_statistics_are_left_as_they_were() -> None:
    model = classifier(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(10, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    measure_cost([model], "teacher", FEW, threads=2)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Asking(nn.Module):
    """A layer that needs the values of its input, so that shapes alone are not enough."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("layers", "shape", "multiply_adds"),
    [
        ([nn.Flatten(), Asking(), nn.Linear(10, 5)], (2, 5), 50),
        # 4 filters of 1 x 3 x 3 at 2 x 5 positions
        ([nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(40, 2)], (2, 5), 360 + 80),
        # 4 gates of 3 units from 5 inputs and 3 units, at 2 steps: one fused operation of oneDNN
        ([Sequences(nn.LSTM(5, 3, batch_first=True)), nn.Linear(3, 2)], (2, 5), 2 * 12 * 8 + 6),
        # Two tokens of 4 numbers: projections in and out, two matrix products, two layers, a head.
        # In eval mode PyTorch computes it in one operation, which the counter does not know.
        (
            [Sequences(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)), nn.Linear(4, 3)],
            (2, 4),
            2 * 4 * 12 + 2 * 4 * 4 + 2 * (2 * 2 * 4) + 2 * (2 * 4 * 8) + 4 * 3,
        ),
    ],
)
def test_flops_of_other_layers(
    layers: list[nn.Module], shape: tuple[int, int], multiply_adds: int
) -> None:
    views = torch.zeros(1, 1, *shape, dtype=torch.uint8)
    assert count_flops(classifier(*layers).eval(), views) == 2 * multiply_adds
    assert torch.backends.mha.get_fastpath_enabled()


OF_EACH_KIND = """cifar_resnet20 resnet18 mobilenet_v3_small timm/tf_efficientnet_lite0
timm/vit_tiny_patch16_224 kdtune.models:fashion_teacher factories:photo_student"""


@pytest.mark.parametrize("name", OF_EACH_KIND.split())
def test_flops_are_counted_from_shapes(name: str) -> None:
    net, counter, kinds = build(name, "none", 10, seed=0), FlopCounterMode(display=False), set()
    views = torch.zeros((1, net.preprocessing.channels or 1, 224, 224), dtype=torch.uint8)

    def forward(x: Tensor) -> Tensor:
        kinds.add(type(x))
        return net(x)

    net.set_mode(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # the counter knows no other
        net(views)
    assert count_flops(forward, views) == counter.get_total_flops() > 0
    assert kinds == {FakeTensor}
    assert torch.equal(net(views), net(views))  # the model has kept no tensor without values


def test_operations_without_a_count_have_no_flops() -> None:
    @torch.library.custom_op("kdtune_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x + x

    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return twice(x)

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError

    for module in (Foreign(), Failing()):
        assert count_flops(classifier(nn.Flatten(), module, nn.Linear(10, 5)), FEW) is None

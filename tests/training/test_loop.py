"""The training loop against a plain one, of torch's optimisers, schedules and losses.

Also the average of a student's weights, by hand.
"""

from dataclasses import replace

import pytest
import torch
from blobs import NOWHERE, RUN, blobs, new_stream, new_student
from reference import PlainEpoch, plain_loop
from torch import Tensor, nn

from kdtune.config.run import Run
from kdtune.models.classifier import Classifier
from kdtune.training.epoch import Epoch, WeightAverage
from kdtune.training.loop import train


def train_both(run: Run) -> tuple[Classifier, list[Epoch], list[PlainEpoch]]:
    """The student after training with kdtune, its epochs, and those of the plain loop."""
    student = new_student(run)
    epochs = list(train(run, student, new_stream(run, student)))
    return student, epochs, list(plain_loop(run, NOWHERE, data=blobs()))


KINDS = {
    "constant": {},
    "step, mse": {"schedule": "step", "lr_step_size": 2, "lr_gamma": 0.3, "loss": "mse"}
    | {"alpha": 0.2},
    "cosine, no momentum, dkd": {"schedule": "cosine", "momentum": 0.0, "loss": "dkd"}
    | {"dkd_alpha": 0.5, "dkd_beta": 2.0, "temperature": 2.0},
    "onecycle, ls": {"schedule": "onecycle", "loss": "ls", "alpha": 0.1},
    "weight decay, dist": {"weight_decay": 0.1, "loss": "dist", "dist_gamma": 1.0}
    | {"temperature": 2.0, "teacher_temperature": 3.0},
    "adamw, cosine, nkd and mse": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.3}
    | {"schedule": "cosine", "loss": "nkd+mse", "loss_weight": 0.2, "temperature": 2.0}
    | {"nkd_gamma": 2.0},
    "adamw, onecycle, only the teacher": {"optimizer": "adamw", "lr": 0.01, "schedule": "onecycle"}
    | {"alpha": 0.0, "temperature": 1.0},
    "only the labels, another repeat": {"alpha": 1.0, "repeat": 2, "seed": 1},
    "head": {"trainable": "head", "batch_norm": "train", "schedule": "cosine", "weight_decay": 0.1},
    "average, batch norm eval": {"ema": 0.6, "batch_norm": "eval"},
    "average of the head": {"ema": 0.6, "trainable": "head"},
    "dropout": {"student": "factories:dropout_student", "image_size": 24},
    "multistep": {"schedule": "multistep", "lr_milestones": (0.25, 0.5), "lr_gamma": 0.5},
    "nesterov, warm-up": {"optimizer": "nesterov", "schedule": "step", "lr_step_size": 1}
    | {"lr_gamma": 0.5, "warmup_epochs": 2},
    "nesterov, warm-up, cosine, clipped, average": {"optimizer": "nesterov", "schedule": "cosine"}
    | {"warmup_epochs": 2, "clip_norm": 0.8, "ema": 0.8, "momentum": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_loop_of_torch(kind: str, seen: dict[tuple[float, ...], str]) -> None:
    run = replace(RUN, **KINDS[kind])
    student, epochs, plain = train_both(run)
    assert seen.setdefault(tuple(student.head.bias.tolist()), kind) == kind
    want = plain[-1].student.net.state_dict()
    for name, value in student.net.state_dict().items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-6)
    assert [list(e.splits) for e in epochs] == [["train", "val"]] * 3 + [["train", "val", "test"]]
    assert [list(e.predictions) for e in epochs] == [[], [], [], ["val", "test"]]
    for epoch, reference in zip(epochs, plain, strict=True):
        for split, means in reference.metrics.items():
            if run.loss == "dist":  # no mean over images: it depends on the batches
                means = {k: v for k, v in means.items() if k not in ("loss", "distill")}
            got = {name: epoch.splits[split][name] for name in means}
            assert got == pytest.approx(means, rel=1e-4, abs=1e-6), (epoch.number, split)
            assert epoch.splits[split]["n_examples"] == len(blobs().splits[split])


class Tiny(nn.Module):
    """A layer with a statistic, a counter, a mask of -inf and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        self.register_buffer("statistic", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def fill(net: Tiny, value: float) -> None:
    with torch.no_grad():
        net.head.weight.fill_(value)
        net.statistic.fill_(10 * value)
        net.count.fill_(int(value))
        net.scratch.fill_(value)


def values(net: Tiny) -> tuple[float, ...]:
    own = (net.head.weight[0].detach(), net.statistic, net.count, net.scratch)
    return tuple(float(value) for value in own)


def test_values_by_hand() -> None:
    """The first update copies; then the decay is 2/11 after one, 3/12 after two; at most 0.2."""
    student = Classifier("tiny", net := Tiny(), None)
    average = WeightAverage(0.2, student, whole=True)
    for value in (1.0, 12.0, 100.0):
        fill(net, value)
        average.update()
    second = 1.0 * 2 / 11 + 12.0 * 9 / 11
    third = 0.2 * second + 0.8 * 100.0
    with average.in_student():
        assert values(net) == pytest.approx((third, 10 * third, 100, 100), rel=1e-6)
        assert net.mask.tolist() == [0.0, -torch.inf]
    assert values(net) == (100, 1000, 100, 100)


def test_a_projector_is_averaged_with_its_student() -> None:
    student, projector = Classifier("tiny", net := Tiny(), None), nn.Linear(1, 1)
    average = WeightAverage(0.2, student, whole=True, projector=projector)
    for value in (1.0, 12.0):
        fill(net, value)
        nn.init.constant_(projector.weight, value)
        average.update()
    with average.in_student():
        assert projector.weight.item() == pytest.approx(10.0)
        assert values(net)[0] == pytest.approx(10.0)
    assert projector.weight.item() == 12

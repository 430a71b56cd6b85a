"""The training loop against a plain one, of torch's optimisers, schedules and losses.

Also the average of a student's weights by hand, the learning rate of every step, clipped gradients,
and what a run that diverges is blamed on: the teacher, the student, the objective or the lr.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from blobs import NOWHERE, RUN, blobs, new_stream, new_student
from reference import PlainEpoch, plain_loop
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD

from kdtune.config.fields import OPTIMIZERS
from kdtune.config.run import Run
from kdtune.config.text import Diverged, InputError
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher
from kdtune.models.registry import build
from kdtune.streams.views import Resources
from kdtune.training import loop, teachers
from kdtune.training.epoch import Epoch, WeightAverage
from kdtune.training.loop import train
from kdtune.training.losses import check_objective


def train_both(run: Run) -> tuple[Classifier, list[Epoch], list[PlainEpoch]]:
    """The student after training with kdtune, its epochs, and those of the plain loop."""
    student = new_student(run)
    epochs = list(train(run, student, new_stream(run, student)))
    return student, epochs, list(plain_loop(run, NOWHERE, data=blobs()))


KINDS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name, "lr": 0.01, "weight_decay": 0.1} for name in OPTIMIZERS},
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
    "fp16": {"precision": "fp16", "clip_norm": 0.5, "loss": "dkd", "dkd_beta": 300.0, "lr": 1e-3},
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


STEPS = 3
"""Steps of an epoch."""


def rates(run: Run, steps: int = STEPS) -> list[float]:
    """The learning rate of every step, stepped as the loop does."""
    optimizer, found = loop.make_optimizer(run, new_student(run)), []
    scheduler = loop.make_scheduler(run, optimizer, steps)
    for _ in range(run.epochs):
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if loop.is_stepped_by_batch(run):
                scheduler.step()
        if not loop.is_stepped_by_batch(run):
            scheduler.step()
    return found


HALVES = {"lr_step_size": 2, "lr_gamma": 0.5, "lr_milestones": (0.5, 0.75)}
BY_HAND: dict[tuple[str, int], list[float]] = {
    # 4 epochs of 3 steps; lr 6
    ("constant", 0): [6.0] * 12,
    ("constant", 1): [2.0, 4.0, 6.0] + [6.0] * 9,
    ("constant", 2): [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] + [6.0] * 6,
    ("step", 1): [2.0, 4.0, 6.0] + [6.0] * 3 + [3.0] * 6,
    # the decay after epoch 2 does not wait for the warm-up: 7/9, 8/9 and 9/9 of 3
    ("step", 3): [6 * s / 9 for s in range(1, 7)] + [7 / 3, 8 / 3, 3.0] + [3.0] * 3,
    ("multistep", 0): [6.0] * 6 + [3.0] * 3 + [1.5] * 3,
    ("multistep", 1): [2.0, 4.0, 6.0] + [6.0] * 3 + [3.0] * 3 + [1.5] * 3,
    # cosine of the 3 epochs that remain: (1 + cos(0, pi/3, 2 pi/3)) / 2
    ("cosine", 1): [2.0, 4.0, 6.0] + [6.0] * 3 + [4.5] * 3 + [1.5] * 3,
    ("cosine", 3): [6 * s / 9 for s in range(1, 10)] + [6.0] * 3,
}


@pytest.mark.parametrize(("schedule", "warmup"), BY_HAND)
def test_learning_rate_of_every_step_by_hand(schedule: Any, warmup: int) -> None:
    run = replace(RUN, lr=6.0, schedule=schedule, warmup_epochs=warmup, **HALVES)
    assert rates(run) == pytest.approx(BY_HAND[schedule, warmup], rel=1e-12)


def test_milestones_of_short_runs_never_come_before_the_first_epoch() -> None:
    assert loop.milestones(replace(RUN, epochs=1, lr_milestones=(0.1, 0.9))) == [1, 1]


def stepped(run: Run, scale: float) -> list[float]:
    """Two parameters of two groups after a step of lr 1 from 0: their negative gradient."""
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = SGD([{"params": [a]}, {"params": [b]}], lr=1.0)
    # gradient (2, 4, 4), of norm 6
    loss = scale * (a @ torch.tensor([2.0, 4.0]) + 4 * b.sum())
    loop.take_step(run, optimizer, GradScaler(enabled=False), loss)
    return [*a.tolist(), *b.tolist()]


def test_gradients_are_clipped_to_the_norm_of_all_groups_together() -> None:
    assert stepped(RUN, 1.0) == [-2.0, -4.0, -4.0]
    assert stepped(replace(RUN, clip_norm=3.0), 1.0) == pytest.approx([-1.0, -2.0, -2.0], rel=1e-5)
    assert stepped(replace(RUN, clip_norm=6.1), 1.0) == [-2.0, -4.0, -4.0]  # short enough
    long, longer = (stepped(replace(RUN, clip_norm=3.0), scale) for scale in (10.0, 1e4))
    assert long == pytest.approx(longer, rel=1e-5)


def test_a_gradient_that_is_not_finite_shows_in_the_weights() -> None:
    """So that the metrics are not finite, and the run is refused as diverged."""
    assert not torch.tensor(stepped(replace(RUN, clip_norm=3.0), float("inf"))).isfinite().all()


NAN = "hostile_models:nan_for_many"


def trained(run: Run, student: Classifier | None = None) -> None:
    """Train on the blobs with the run's teacher."""
    student = student or new_student(run)
    list(train(run, student, new_stream(run, student)))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"loss": "hostile_models:is_nan_for_many"},
            "the objective hostile_models:is_nan_for_many is NaN or infinite for a batch of train",
        ),
        ({"lr": 1e3, "loss": "mse"}, "a lower lr may help$"),
        ({"lr": 1e3, "loss": "mse", "precision": "bf16"}, "a lower lr .*, or --precision fp32$"),
        ({"lr": 1e3, "loss": "mse", "precision": "fp16"}, "a lower lr .*, or --precision fp32$"),
    ],
)
def test_the_culprit_is_named(changes: dict[str, object], cause: str) -> None:
    with pytest.raises(Diverged, match=rf"became .* in epoch 0; {cause}"):
        trained(replace(RUN, **changes))  # type: ignore[arg-type]


def test_an_exit_in_training_is_no_success() -> None:
    with pytest.raises(InputError, match=r"exits_in_training, or .* ended: it calls sys"):
        trained(replace(RUN, student="hostile_models:exits_in_training"))
    with pytest.raises(InputError, match=r"objective .*exits_late, ended: it calls sys\.exit\(0\)"):
        trained(replace(RUN, loss="hostile_models:exits_late"))


def test_a_student_learns_where_gradients_are_turned_off() -> None:
    student = new_student(RUN)
    before = student.head.weight.clone()
    with torch.no_grad():  # as a script for inference does for its whole process
        trained(replace(RUN, epochs=1), student)
    assert not torch.equal(student.head.weight, before)


def test_the_accuracy_of_a_teacher_without_finite_logits_is_not_measured() -> None:
    run = replace(RUN, teacher=NAN)
    teacher = Teacher.of([build(run.teacher, "none", 3, seed=0)])
    with pytest.raises(InputError, match=r"NaN or infinite for 30 of 30 examples of val \(first"):
        teachers.evaluate(run, blobs(), teacher, Resources(), ["val"])


def test_an_objective_must_leave_its_arguments_and_have_a_slope() -> None:
    with pytest.raises(InputError, match="has changed teacher in place"):
        check_objective(Run(loss="hostile_models:changes_the_teacher"), 3)
    with pytest.warns(UserWarning, match="has_no_slope with respect to .* is 0 for random logits"):
        check_objective(Run(loss="hostile_models:has_no_slope"), 3)

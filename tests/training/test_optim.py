"""Optimisers and schedules: the learning rate of every step, and the norm of clipped gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from blobs import RUN, new_student
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)

from kdtune.config.run import Run
from kdtune.training.loop import (
    is_stepped_by_batch,
    make_optimizer,
    make_scheduler,
    milestones,
    take_step,
)

STEPS = 3
"""Steps of an epoch."""


def rates(run: Run, steps: int = STEPS) -> list[float]:
    """The learning rate of every step, stepped as the loop does."""
    optimizer = make_optimizer(run, new_student(run))
    return walk(run, make_scheduler(run, optimizer, steps), steps, is_stepped_by_batch(run))


def walk(run: Run, scheduler: LRScheduler, steps: int, by_batch: bool) -> list[float]:
    optimizer, found = scheduler.optimizer, []
    for _ in range(run.epochs):
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if by_batch:
                scheduler.step()
        if not by_batch:
            scheduler.step()
    return found


def plain_optimizer(lr: float) -> SGD:
    return SGD([torch.zeros(1)], lr=lr)


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


@pytest.mark.parametrize("schedule", ["constant", "step", "multistep", "cosine", "onecycle"])
def test_without_warm_up_the_rates_are_torchs_to_the_last_bit(schedule: Any) -> None:
    run = replace(RUN, lr=0.3, epochs=11, schedule=schedule, **HALVES)
    optimizer = plain_optimizer(0.3)
    torchs: LRScheduler = {
        "constant": lambda: LambdaLR(optimizer, lambda step: 1.0),
        "step": lambda: StepLR(optimizer, 2, 0.5),
        "multistep": lambda: MultiStepLR(optimizer, [6, 8], 0.1),
        "cosine": lambda: CosineAnnealingLR(optimizer, 11),
        "onecycle": lambda: OneCycleLR(optimizer, 0.3, 11 * STEPS, cycle_momentum=False),
    }[schedule]()
    if schedule == "multistep":
        run = replace(run, lr_gamma=0.1)
    assert rates(run) == walk(run, torchs, STEPS, schedule == "onecycle")


def test_milestones_of_short_runs_never_come_before_the_first_epoch() -> None:
    assert milestones(replace(RUN, epochs=1, lr_milestones=(0.1, 0.9))) == [1, 1]


def stepped(run: Run, scale: float) -> list[float]:
    """Two parameters of two groups after a step of lr 1 from 0: their negative gradient."""
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = SGD([{"params": [a]}, {"params": [b]}], lr=1.0)
    # gradient (2, 4, 4), of norm 6
    take_step(run, optimizer, scale * (a @ torch.tensor([2.0, 4.0]) + 4 * b.sum()))
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

"""Optimisers, their steps, and learning-rate schedules."""

from torch import Tensor, nn, zeros
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)

from kdtune.config.run import Run
from kdtune.config.run_checks import check_warmup
from kdtune.models.classifier import Classifier


def make_optimizer(run: Run, student: Classifier, projector: nn.Module | None = None) -> Optimizer:
    """Return the run's optimiser of all parameters of both modules that require a gradient."""
    modules = (student,) if projector is None else (student, projector)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if run.optimizer == "adamw":
        return AdamW(parameters, lr=run.lr, weight_decay=run.weight_decay)
    return SGD(
        parameters,
        lr=run.lr,
        momentum=run.momentum,
        weight_decay=run.weight_decay,
        nesterov=run.optimizer == "nesterov",
    )


def take_step(run: Run, optimizer: Optimizer, loss: Tensor) -> None:
    """Take a step of the optimiser along the gradient of a batch's loss.

    With `run.clip_norm`, a gradient that is longer is scaled down to that norm before: the L2 norm
    over all parameters of the optimiser together.
    """
    optimizer.zero_grad()
    loss.backward()
    if run.clip_norm > 0:
        # a gradient that is not finite makes the weights NaN, which the metrics show: asking here
        # would wait for the GPU in every step
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        clip_grad_norm_(trained, run.clip_norm, error_if_nonfinite=False)
    optimizer.step()


def is_stepped_by_batch(run: Run) -> bool:
    """Return True if the run's schedule changes after each batch, False if after each epoch."""
    return run.schedule == "onecycle" or run.warmup_epochs > 0


def make_scheduler(run: Run, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """Return the run's learning-rate schedule, for `is_stepped_by_batch`.

    Raises InputError if the warm-up is not shorter than the training.
    """
    if run.schedule == "onecycle":
        steps = run.epochs * steps_per_epoch
        # the momentum is a hyperparameter of its own and stays as given
        return OneCycleLR(optimizer, run.lr, steps, cycle_momentum=False)
    if run.warmup_epochs == 0:
        return _by_epoch(run, optimizer, run.epochs)
    check_warmup(run.schedule, run.warmup_epochs, run.epochs)
    factors = _epoch_factors(run)
    warmup_steps = run.warmup_epochs * steps_per_epoch

    # one function of the step: torch's LinearLR and the schedules by epoch step at different times
    def factor(step: int) -> float:
        epoch = min(step // steps_per_epoch, run.epochs - 1)  # torch also asks for the step after
        return factors[epoch] * min(1.0, (step + 1) / warmup_steps)

    return LambdaLR(optimizer, factor)


def milestones(run: Run) -> list[int]:
    """Return the numbers of epochs after which the schedule multistep decays, each 1 or more."""
    return [max(1, round(share * run.epochs)) for share in run.lr_milestones]


def _by_epoch(run: Run, optimizer: Optimizer, epochs: int) -> LRScheduler:
    """Return a schedule that is stepped after each epoch; cosine reaches 0 after `epochs`."""
    match run.schedule:
        case "step":
            return StepLR(optimizer, run.lr_step_size, run.lr_gamma)
        case "multistep":
            return MultiStepLR(optimizer, milestones(run), run.lr_gamma)
        case "cosine":
            return CosineAnnealingLR(optimizer, epochs)
        case _:
            return ConstantLR(optimizer, factor=1.0)


def _epoch_factors(run: Run) -> list[float]:
    """Return the learning rate of each epoch as a share of `run.lr`, without the warm-up itself.

    Step and multistep decay by the epoch's number in the run; cosine begins after the warm-up.
    """
    before = run.warmup_epochs if run.schedule == "cosine" else 0
    optimizer = SGD([zeros(())], lr=1.0)
    scheduler = _by_epoch(run, optimizer, run.epochs - before)
    factors = [1.0] * before
    while len(factors) < run.epochs:
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors

"""Optimisers and learning-rate schedules."""

from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)

from kdtune.config.run import Run
from kdtune.models.classifier import Classifier


def make_optimizer(run: Run, student: Classifier) -> Optimizer:
    """Return the run's optimiser of the student's parameters that require a gradient."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    if run.optimizer == "adamw":
        return AdamW(parameters, lr=run.lr, weight_decay=run.weight_decay)
    return SGD(
        parameters,
        lr=run.lr,
        momentum=run.momentum,
        weight_decay=run.weight_decay,
        nesterov=run.optimizer == "nesterov" and run.momentum > 0,  # without momentum both are SGD
    )


def make_scheduler(run: Run, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """Return the run's learning-rate schedule.

    "onecycle" is stepped after each batch, the others after each epoch.
    """
    match run.schedule:
        case "constant":
            return ConstantLR(optimizer, factor=1.0)
        case "step":
            return StepLR(optimizer, run.lr_step_size, run.lr_gamma)
        case "multistep":
            decays = [round(share * run.epochs) for share in run.lr_milestones]
            return MultiStepLR(optimizer, decays, run.lr_gamma)
        case "cosine":
            return CosineAnnealingLR(optimizer, run.epochs)
        case "onecycle":
            steps = run.epochs * steps_per_epoch
            # the momentum is a hyperparameter of its own and stays as given
            return OneCycleLR(optimizer, run.lr, steps, cycle_momentum=False)

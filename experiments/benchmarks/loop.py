"""The training loop with distillation that a user of plain PyTorch, Ray Tune or Optuna writes."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from task import Task, accuracy
from torch import nn


def train(
    task: Task,
    model: nn.Module,
    epochs: int,
    images: int | None = None,
    teacher: nn.Module | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
) -> Iterator[float]:
    """Train a model and yield its accuracy on val after each epoch."""
    loader, val = task.loader("train", images), task.loader("val")
    optimizer = torch.optim.AdamW(model.parameters(), task.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, task.lr, epochs * len(loader), cycle_momentum=False
    )
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            logits = model(x)
            loss = alpha * F.cross_entropy(logits, y)
            if teacher is not None and alpha < 1:
                with torch.no_grad():
                    target = (teacher(x) / temperature).softmax(1)
                own = (logits / temperature).log_softmax(1)
                kl = F.kl_div(own, target, reduction="batchmean")
                loss = loss + (1 - alpha) * temperature**2 * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield accuracy(model, val)


def train_teacher(task: Task) -> nn.Module:
    """Return a trained teacher in evaluation mode."""
    torch.manual_seed(0)
    teacher = task.network("teacher")
    for epoch, score in enumerate(train(task, teacher, task.teacher_epochs)):
        print(f"teacher, epoch {epoch}: {score:.3f}")
    return teacher.eval().requires_grad_(False)

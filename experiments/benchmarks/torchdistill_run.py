"""The study with torchdistill: its boxes, its loss and a YAML file, in a loop over settings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from task import Outcome, Task, accuracy, collate_train, collate_val, load_task, show
from torch import nn
from torch.utils.data import Subset
from torchdistill.common import yaml_util
from torchdistill.core.distillation import get_distillation_box
from torchdistill.core.training import get_training_box
from torchdistill.datasets.registry import register_collate_func

register_collate_func(collate_train)
register_collate_func(collate_val)


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
    config = yaml_util.load_yaml_file(str(Path(__file__).with_name("torchdistill.yaml")))
    config = config["plain" if alpha == 1 else "distill"]
    data: dict[str, Any] = {"train": task.source("train"), "val": task.source("val")}
    if images is not None:
        index = torch.randperm(len(data["train"]))[:images].tolist()
        data["train"] = Subset(data["train"], index)
    config["num_epochs"] = epochs
    config["train_data_loader"]["kwargs"]["batch_size"] = task.batch_size
    config["optimizer"]["kwargs"]["lr"] = config["scheduler"]["kwargs"]["max_lr"] = task.lr
    steps = -(-len(data["train"]) // task.batch_size)
    config["scheduler"]["kwargs"]["total_steps"] = epochs * steps
    common = (data, config, torch.device("cpu"), None, False, 1)
    if alpha == 1:
        box = get_training_box(model, *common)
    else:
        loss = config["criterion"]["kwargs"]["sub_terms"]["kd"]["criterion"]["kwargs"]
        loss.update(alpha=alpha, temperature=temperature)
        box = get_distillation_box(teacher, model, *common)
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for x, y, extra in box.train_data_loader:
            box.post_forward_process(loss=box.forward_process(x, y, extra))
        box.post_epoch_process()
        yield accuracy(model, box.val_data_loader)
    box.clean_modules()


if __name__ == "__main__":
    task = load_task()
    torch.manual_seed(0)
    teacher = task.network("teacher")
    for epoch, score in enumerate(train(task, teacher, task.teacher_epochs)):
        print(f"teacher, epoch {epoch}: {score:.3f}")
    runs = []
    for setting in task.settings:
        for repeat in range(task.repeats):
            torch.manual_seed(repeat)
            student = task.network("student")
            scores = list(train(task, student, task.epochs, task.images, teacher, *setting))
            runs.append(Outcome(*setting, repeat, scores))
    show(runs)
    task.done(runs)

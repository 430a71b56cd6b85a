"""The study as a plain loop over settings and seeds, one process for each core."""

import os
from itertools import product

import torch
from loop import train, train_teacher
from task import Outcome, Setting, Task, load_task, show
from torch import nn
from torch.multiprocessing import get_context


def run(task: Task, teacher: nn.Module, setting: Setting, repeat: int) -> Outcome:
    """Train one student."""
    torch.set_num_threads(1)
    torch.manual_seed(repeat)
    student = task.network("student")
    scores = list(train(task, student, task.epochs, task.images, teacher, *setting))
    print(f"alpha, temperature {setting}, repeat {repeat}: {scores[-1]:.3f}", flush=True)
    return Outcome(*setting, repeat, scores)


if __name__ == "__main__":
    task = load_task()
    teacher = train_teacher(task)
    jobs = [(task, teacher, *job) for job in product(task.settings, range(task.repeats))]
    with get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        runs = pool.starmap(run, jobs, chunksize=1)
    show(runs)
    task.done(runs)

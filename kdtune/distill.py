"""One student from one teacher.

python -m kdtune.distill [EXPERIMENT.py] [--flags]
"""

if __name__ == "__main__":
    from kdtune.cli import start

    start("distill")  # answers bad flags before torch loads; does not return

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from kdtune.config import InputError, Run, Study, derive_seed
from kdtune.data import load_data
from kdtune.models import Classifier, build, probe
from kdtune.resources import Resources
from kdtune.stream import Stream
from kdtune.teacher import check_teacher, fine_tune, is_ready, load_teacher, teacher_run
from kdtune.train import Epoch, train
from kdtune.weights import save_weights

CHECKPOINT = "checkpoint.pt"
STUDENT = "student.safetensors"
PREDICTIONS = "predictions.parquet"


def distill(
    run: Run, teacher: Path, resources: Resources, folder: Path | None = None
) -> Iterator[Epoch]:
    """Distil the run's teacher into its student, an epoch at a time.

    Args:
        run: what to do; alpha = 1 trains plainly and only measures the teacher.
        teacher: folder of the fine-tuned teacher (unused where `run.teacher_epochs` is 0).
        resources: device, cache and loader workers.
        folder: where the checkpoint of each epoch and, at the end, the student's weights and its
            right and wrong predictions are left; a run found there goes on. None: nowhere.
    """
    data = load_data(run.data)
    model, teacher_print = _teacher_at_hand(teacher_run(run), teacher, resources.device)
    student = make_student(run).place(resources.device, run.precision)
    stream = Stream(run, data, student, model, resources, teacher_print)
    if folder is None:
        yield from train(run, student, stream)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in train(run, student, stream, folder / CHECKPOINT):
        yield epoch
    save_weights(student.net, folder / STUDENT)
    save_predictions(run, epoch.correct, folder / PREDICTIONS)


@lru_cache(maxsize=1)
def _teacher_at_hand(own: Run, folder: Path, device: torch.device) -> tuple[Classifier, str]:
    """The frozen teacher and its fingerprint, kept from one run of a process to the next."""
    model = load_teacher(own, folder).place(device, own.precision)
    return model, model.fingerprint()


def check(run: Run) -> None:
    """Raise InputError, before any work, if the run's data or models will not do."""
    data, student = load_data(run.data), make_student(run)
    data.subset(run)
    views = check_teacher(run, student)
    probe(student, views, len(data.classes), whole=run.trainable == "all")


def make_student(run: Run) -> Classifier:
    """The student as this repeat starts it: every configuration of the repeat starts equal."""
    classes = len(load_data(run.data).classes)
    seed = derive_seed("init", run.seed, run.repeat)
    return build(run.student, run.student_weights, classes, seed=seed)


def save_predictions(run: Run, correct: dict[str, Tensor], file: Path) -> None:
    """Write which examples of val and test the trained student gets right."""
    frames = []
    for split, hits in correct.items():
        columns = {"trial_id": run.trial_id, "split": split}
        frames.append(
            pd.DataFrame({**columns, "example": range(len(hits)), "correct": hits.numpy()})
        )
    pd.concat(frames).to_parquet(file, index=False)


def main(study: Study) -> int:
    """Run one distillation, its teacher first where that is missing, printing the epochs."""
    run, resources, folder = study.run, Resources.of(study), study.folder / "teacher"
    if run.repeat < 0:
        raise InputError(f"repeat must be 0 or more, but got repeat={run.repeat}")
    torch.set_num_threads(study.cpus_per_trial)
    check(run)
    if not is_ready(run, folder):
        print(f"teacher {run.teacher}, into {folder}")
        for epoch in fine_tune(run, folder, resources):
            print(epoch, flush=True)
    settings = ", ".join(
        f"{name} {value}" for name, value in run.config.items() if value is not None
    )
    print(f"student {run.student}: repeat {run.repeat}, {settings}")
    for epoch in distill(run, folder, resources):
        print(epoch, flush=True)
    return 0

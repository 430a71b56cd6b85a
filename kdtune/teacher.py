"""Fine-tune the teacher of a study.

python -m kdtune.teacher [EXPERIMENT.py] [--flags]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("teacher")  # refuses wrong flags before torch is loaded; does not return

import torch

from kdtune.config.errors import InputError
from kdtune.config.study import Study
from kdtune.data.folder import verify
from kdtune.data.sources import load_data
from kdtune.streams.resources import Resources, check_gpus, check_precision
from kdtune.training.teacher import WEIGHTS, fine_tune, initial_teacher, is_ready, probe_teacher


def main(study: Study) -> int:
    """Fine-tune the teacher of a study and print its epochs; do nothing if it is ready.

    Raises InputError if there is nothing to fine-tune, or the data or the model do not fit.
    """
    folder = study.folder / "teacher"
    check_gpus(study, torch.cuda.device_count())
    check_precision(study.run, Resources.of(study).device)
    if study.run.teacher_epochs == 0:
        raise InputError(
            "teacher_epochs must be 1 or more to fine-tune a teacher, but got teacher_epochs=0"
        )
    if is_ready(study.run, folder):
        print(f"the teacher is ready: {folder / WEIGHTS}")
        return 0
    torch.set_num_threads(study.cpus_per_trial)
    verify(load_data(study.run.data))
    probe_teacher(study.run, initial_teacher(study.run))
    for epoch in fine_tune(study.run, folder, Resources.of(study)):
        print(epoch)
    print(f"written: {folder / WEIGHTS}")
    return 0

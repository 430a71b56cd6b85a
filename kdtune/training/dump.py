"""Writing a teacher's outputs into a file, which is then a teacher without its network."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.names import OUTPUT_SUFFIXES, is_output_file
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.models.ensemble import Teacher
from kdtune.models.output_writing import SplitOutputs, write_outputs
from kdtune.models.outputs import OutputsRecord
from kdtune.streams.resources import Resources
from kdtune.streams.shards import view_size
from kdtune.training.evaluation import teacher_logits
from kdtune.training.output_teacher import file_names, load_output_teacher
from kdtune.training.recipe import (
    BEFORE_ORIENTATION,
    OF_VIEWS,
    numbered,
    students,
    teachers,
    untrained,
    whole_teachers,
)
from kdtune.training.teacher import load_teacher, teacher_place


def check_dump(study: Study, file: Path) -> None:
    """Raise InputError, before any work, if the study's teacher cannot be written into a file.

    Args:
        study: The study, resolved.
        file: The file.
    """
    if file.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"--dump must end in {' or '.join(OUTPUT_SUFFIXES)}, but got {file}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--dump must be in a folder that exists, but got {file}")
    if study.run.folds is not None:
        raise InputError(
            "--dump writes the outputs of one teacher, but with --folds each repeat has a teacher "
            "and a val of its own; leave out --folds"
        )
    if len(own := numbered(study, whole_teachers(study))) > 1:
        names = dict.fromkeys(run.teacher for run in own)
        raise InputError(
            f"--dump writes the outputs of one teacher, but the study has {len(own)} "
            f"({', '.join(names)}); give one teacher, and --teachers 1"
        )


def with_views_of_teacher(run: Run) -> Run:
    """Return the run with views of its teacher's input size, whatever its student's is."""
    data = load_data(run)
    if data.kind == "tensors" or run.image_size is not None:
        return run
    members = [untrained(own, "teacher") for own in run.teacher_members]
    return replace(run, image_size=view_size(run, data, *members))


def dump_teacher(run: Run, root: Path, resources: Resources, file: Path) -> dict[str, int]:
    """Write the logits of the run's teacher on train, val and test, without augmentation.

    The views have the teacher's input size unless the run says another. The images of train that
    the student learns from are passed through the network as a run would, and then all of train:
    the last bits of logits may depend on the other images of their batch.

    Args:
        run: The run, resolved.
        root: Folder of all teachers; the run's is ready.
        resources: Device, cache and loader workers.
        file: A .parquet or .npz file.

    Returns:
        The number of examples of each split.
    """
    data = load_data(run)
    models = [
        load_teacher(own, root / teacher_place(run, own)).place(resources.device, run.precision)
        for own in run.teacher_members
    ]
    teacher, views = Teacher.of(models), {}
    if data.kind != "tensors":
        run = with_views_of_teacher(run)
        views = {name: getattr(run, name) for name in ("image_size", *OF_VIEWS)}
    splits = {
        split: SplitOutputs(
            _whole_split(run, teacher, resources, split).numpy(), file_names(data, split)
        )
        for split in data.splits
    }
    record = OutputsRecord(run.teacher, data.fingerprint, data.cut is not None, views)
    write_outputs(file, splits, data.classes, record)
    return {split: len(own.logits) for split, own in splits.items()}


def _whole_split(run: Run, teacher: Teacher, resources: Resources, split: str) -> Tensor:
    """Return the logits of all examples of a split, float32 [N, K], in its own order."""
    own, _ = teacher_logits(run, teacher, resources, split)
    if split != "train" or run.train_images is None:
        return own
    whole, _ = teacher_logits(replace(run, train_images=None), teacher, resources, split)
    whole = whole.clone()
    whole[load_data(run).subset(run)] = own
    return whole


def find_other_views(study: Study) -> Iterator[str]:
    """Yield a sentence for each file of outputs that was made of other views than the students'.

    Nothing is known, and so nothing said, of files that kdtune has not written.

    Args:
        study: The study, resolved.
    """
    data = load_data(study.run)
    own_students = [untrained(run, "student") for run in students(study)]
    for run in teachers(study):
        if not is_output_file(run.teacher) or data.kind == "tensors":
            continue
        teacher = load_output_teacher(run)
        made_of = {} if teacher.record is None else teacher.record.views
        seen = {
            "image_size": max(view_size(run, data, teacher, one) for one in own_students),
            **{name: getattr(run, name) for name in OF_VIEWS},
        }
        if data.kind != "files":
            made_of = {name: value for name, value in made_of.items() if name != "orientation"}
        elif made_of:
            made_of = BEFORE_ORIENTATION | made_of
        other = [name for name, value in made_of.items() if seen.get(name) != value]
        if other:
            shown = ", ".join(f"{name} {made_of[name]} → {seen[name]}" for name in other)
            flags = " ".join(f"--{name.replace('_', '-')} {seen[name]}" for name in other)
            yield (
                f"the outputs in {run.teacher} were made of other images than the students see "
                f"({shown}); to make them equal, write the file with {flags}"
            )

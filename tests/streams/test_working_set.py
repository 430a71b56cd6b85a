"""The working set against sizes counted on the disk and by hand, and the warning about it."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.arrays import with_extra
from kdtune.data.sources import load_data
from kdtune.models.outputs import Teacher
from kdtune.models.registry import build
from kdtune.streams.cache import Cache
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources
from kdtune.streams.working_set import WorkingSet, cache_warning, working_set

TEACHER, STUDENT = "kdtune.models:fashion_teacher", "kdtune.models:fashion_student"
RUN = Run(
    train_images=70,
    teacher=TEACHER,
    student=STUDENT,
    teacher_weights="none",
    student_weights="none",
    epochs=3,
    batch_size=32,
)
CPU = torch.device("cpu")
HEADER = 4096
"""Bytes that an entry may have besides its tensors: names, key and checksum."""


def read_all(run: Run, cache: Cache) -> None:
    """Read a whole stream as a run does."""
    teacher = build(run.teacher, "none", 10, seed=1).place(CPU, run.precision)
    student = build(run.student, "none", 10, seed=2 + run.repeat).place(CPU, run.precision)
    data = with_extra(load_data(Run()), run)
    stream = Stream(run, data, student, Teacher.of([teacher]), Resources(cache=cache))
    for epoch in range(run.epochs):
        list(stream.train(epoch))
        list(stream.evaluate("val", epoch))
    list(stream.evaluate("test", run.epochs - 1))


def bytes_on_disk(study: Study, folder: Path) -> tuple[int, int]:
    """Return the least and the largest size of all that a study's runs store, without headers."""
    cache = Cache(folder, 1)
    grid = itertools.product(*study.space.values())
    for repeat, values in itertools.product(range(study.repeats), grid):
        run = replace(study.run, repeat=repeat, **dict(zip(study.space, values, strict=True)))
        read_all(run, cache)
    files = list(folder.glob("*/*/*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    return size - HEADER * len(files), size


def need_of(study: Study, trials: int = 2) -> WorkingSet:
    student, teacher = (build(name, "none", 10, seed=1) for name in (STUDENT, TEACHER))
    data = with_extra(load_data(Run()), study.run)
    return working_set(study, trials, data, student, [teacher])


@pytest.mark.parametrize(
    ("trainable", "batch_norm", "augment", "share"),
    [
        ("all", "train", "crop", 0.0),
        ("all", "train", "none", 0.9),
        ("all", "eval", "crop", 0.5),
        ("head", "train", "crop", 0.0),
        ("head", "train", "none", 0.5),
        ("head", "eval", "crop", 0.9),
    ],
)
def test_the_estimate_is_what_a_study_leaves_on_the_disk(
    trainable: str, batch_norm: str, augment: str, share: float, tmp_path: Path
) -> None:
    run = replace(RUN, trainable=trainable, batch_norm=batch_norm, augment=augment)
    # in 3 epochs 210 or 2,031 of the 1,930 others: one block, or a whole pass and one block
    run = replace(run, extra="rest" if share else None, extra_share=share)
    study = Study(name="s", run=run, repeats=2, gpus=0, space={"lr": (0.1,)})
    need = need_of(study)
    least, most = bytes_on_disk(study, tmp_path)
    assert least <= need.views + need.outputs <= most


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_the_estimate_of_several_streams_is_never_too_small(trainable: str, tmp_path: Path) -> None:
    space = {"mixup": (0.0, 0.2), "augment": ("none", "crop"), "batch_size": (32, 20)}
    run = replace(RUN, trainable=trainable, epochs=2)
    study = Study(name="s", run=run, repeats=1, gpus=0, space=space)
    least, most = bytes_on_disk(study, tmp_path)
    need = need_of(study)
    assert least <= need.views + need.outputs <= 3 * most


def test_a_study_worked_by_hand() -> None:
    run = replace(RUN, trainable="head", augment="crop", student_weights="default")
    need = need_of(Study(name="s", run=run, repeats=8, gpus=0, space={"lr": (0.1,)}), trials=4)
    features = 3 * (70 + 500) * 24 * 4 + 1000 * 24 * 4
    shared = 1500 * 10 * 4
    assert need == WorkingSet(4, 1500 * 784, 4 * (3 * 70 * 10 * 4 + features) + shared)
    assert need.needed_cache == max(need.views + need.outputs, 2 * need.views)


def study_of(**options: object) -> Study:
    run = replace(RUN, **options)  # type: ignore[arg-type]
    return Study(name="s", run=run, repeats=8, gpus=0, search="tpe", space={"lr": (0.1,)})


def warning(study: Study, trials: int = 2) -> str | None:
    student, teacher = (build(name, "none", 10, seed=1) for name in (STUDENT, TEACHER))
    return cache_warning(study, trials, load_data(Run()), student, [teacher])


def test_a_cache_that_is_too_small_is_said_with_sizes() -> None:
    study = study_of(trainable="head", train_images=2000, epochs=100)
    assert warning(study) is None
    assert warning(replace(study, cache_gb=0)) is None  # asked for
    small = replace(study, cache_gb=0.2)
    text = warning(small)
    # 2,000 x (10 + 24) and 500 x 24 float32 numbers in each of 100 epochs of 8 repeats
    needed = 8 * 100 * (2000 * 34 + 500 * 24) * 4 / 1e9
    assert text is not None and f"streams of 8 repeats need up to {needed:.2g} GB" in text
    advised = float(text.split("--cache-gb ")[-1].split()[0])
    assert warning(replace(study, cache_gb=advised)) is None
    assert warning(replace(small, search="grid"), trials=2) is None  # two repeats fit
    searched = replace(study_of(train_images=2000, epochs=1), cache_gb=0.2)
    assert warning(searched) is None
    searched = replace(searched, space={"epochs": (1, 100), "trainable": ("all", "head")})
    assert f"need up to {needed:.2g} GB" in (warning(searched) or "")


def test_views_may_fill_half_of_the_cache() -> None:
    study = replace(study_of(train_images=2000, epochs=50), cache_gb=1.0)
    text = warning(study)
    assert text is not None and f"{8 * 50 * 2000 * 784 / 1e9:.2g} GB of it for views" in text
    advised = float(text.split("--cache-gb ")[-1].split()[0])
    assert warning(replace(study, cache_gb=advised)) is None


def test_logits_of_mixed_images_count_once_for_each_mixing_and_batch_size() -> None:
    """Views are shared; train has 4 * 2 * 4 sets of 10 float32 numbers for each image."""
    space = {"mixup": (0.0, 0.1, 0.2, 0.4), "cutmix": (0.0, 1.0), "batch_size": (16, 32, 64, 128)}
    need = need_of(replace(study_of(train_images=2000, epochs=10), space=space))
    assert need.views == 8 * 10 * 2000 * 784 + 1500 * 784
    assert need.outputs == 8 * 10 * 2000 * 32 * 40 + 1500 * 40

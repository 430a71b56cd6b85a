"""The working set against sizes counted on the disk and by hand, and what is stored of it."""

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
from kdtune.streams.cache import Cache, Key
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


def stream_of(run: Run, resources: Resources) -> Stream:
    teacher = build(run.teacher, "none", 10, seed=1).place(CPU, run.precision)
    student = build(run.student, "none", 10, seed=2 + run.repeat).place(CPU, run.precision)
    data = with_extra(load_data(Run()), run)
    return Stream(run, data, student, Teacher.of([teacher]), resources)


def read_all(run: Run, resources: Resources) -> set[str]:
    """Read a whole stream as a run does; return in words what was built for it."""
    built = set[str]()
    resources = replace(resources, watch=lambda what, done, total: built.add(what))
    stream = stream_of(run, resources)
    for epoch in range(run.epochs):
        list(stream.train(epoch))
        list(stream.evaluate("val", epoch))
    list(stream.evaluate("test", run.epochs - 1))
    return built


@pytest.mark.parametrize("trainable", ["all", "head"])
@pytest.mark.parametrize("batch_norm", ["train", "eval"])
@pytest.mark.parametrize("augment", ["crop", "none"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_estimate_is_what_a_study_leaves_on_the_disk(
    trainable: str, batch_norm: str, augment: str, share: float, tmp_path: Path
) -> None:
    run = replace(RUN, trainable=trainable, batch_norm=batch_norm, augment=augment)
    # in 3 epochs 210 or 2,031 of the 1,930 others: one block, or a whole pass and one block
    run = replace(run, extra="rest" if share else None, extra_share=share)
    resources = Resources(cache=Cache(tmp_path, 1), repeats=2)
    for repeat in (0, 1):
        read_all(replace(run, repeat=repeat), resources)
    files = list(tmp_path.glob("*/*/*.safetensors"))
    on_disk = sum(file.stat().st_size for file in files)
    stream = stream_of(run, resources)
    needed = stream.working_set.needed
    assert on_disk - HEADER * len(files) <= needed <= on_disk


VARIANTS = {
    "mixing": {"mixup": (0.0, 0.2, 0.4), "cutmix": (0.0, 1.0), "batch_size": (32, 20)},
    "only mixed": {"mixup": (0.3,), "augment": ("none", "crop")},
    "augmentation": {"augment": ("none", "crop", "resized-crop")},
}


@pytest.mark.parametrize("space", VARIANTS)
@pytest.mark.parametrize(
    ("trainable", "batch_norm"), [("all", "train"), ("head", "train"), ("head", "eval")]
)
def test_the_estimate_counts_the_streams_of_all_configurations(
    trainable: str, batch_norm: str, space: str, tmp_path: Path
) -> None:
    run = replace(RUN, trainable=trainable, batch_norm=batch_norm, epochs=2)
    study = Study(name="s", run=run, repeats=1, gpus=0, space=VARIANTS[space])
    resources = replace(Resources.of(study), cache=Cache(tmp_path, 1))
    for values in itertools.product(*VARIANTS[space].values()):
        read_all(replace(run, **dict(zip(VARIANTS[space], values, strict=True))), resources)
    files = list(tmp_path.glob("*/*/*.safetensors"))
    on_disk = sum(file.stat().st_size for file in files)
    needed = {stream_of(r, resources).working_set.needed for r in study.runs()}
    assert len(needed) == 1  # whichever configuration is asked
    assert on_disk - HEADER * len(files) <= needed.pop() <= on_disk


def test_a_study_worked_by_hand() -> None:
    run = replace(RUN, trainable="head", augment="crop", student_weights="default")
    student, teacher = (build(name, "none", 10, seed=1) for name in (STUDENT, TEACHER))
    resources = Resources(cache=Cache(gigabytes=1), repeats=4)
    found = working_set(run, load_data(Run()), student, [teacher], resources)
    buffers = 3 * 8 + 2 * 4 * (6 + 12 + 24)  # counters, means and variances of three layers
    features = 3 * (70 * 24 * 4 + buffers + 500 * 24 * 4) + 1000 * 24 * 4
    assert found.per_repeat == 3 * 70 * 10 * 4 + features
    assert found.shared == (500 + 1000) * 10 * 4
    assert found.views == {"val": 500 * 784, "test": 1000 * 784}  # of train only once looked at
    assert found.needed == 4 * found.per_repeat + found.shared + 1500 * 784


def test_only_as_many_repeats_are_stored_as_fit() -> None:
    def fit(limit: int) -> int:
        return WorkingSet({"train": 40}, 10, 5, repeats=4, limit=limit).kept_repeats

    # 40 of views fit half of 80; 5 are shared; 10 for each repeat
    assert [fit(n) for n in (14, 15, 44, 45, 79, 80, 85, 1000)] == [0, 1, 3, 4, 4, 3, 4, 4]
    half = WorkingSet({}, 10, 0, repeats=4, limit=25)
    own = Key("logits", {"repeat": 0})
    stored = [r for r in range(12) if half.keeps(own, replace(RUN, repeat=r))]
    assert stored == [0, 1, 4, 5, 8, 9]  # of every four that are read in turn, two
    assert half.keeps(Key("logits", {}), replace(RUN, repeat=3))  # of val, shared by all
    own = Key("features", {})
    assert not half.keeps(own, replace(RUN, repeat=3))  # random weights differ between repeats
    assert half.keeps(own, replace(RUN, repeat=3, student_weights="default"))


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_a_cyclic_working_set_larger_than_the_cache_still_gives_hits(
    trainable: str, tmp_path: Path
) -> None:
    """Three repeats are read twice with room for two; least recently used alone finds none."""
    run = replace(RUN, trainable=trainable, train_images=2000, epochs=2)
    student, teacher = (build(name, "none", 10, seed=1) for name in (STUDENT, TEACHER))
    large = Resources(cache=Cache(tmp_path, 1), repeats=3)
    need = working_set(run, load_data(Run()), student, [teacher], large)
    room = need.views["val"] + need.views["test"] + need.shared + int(2.5 * need.per_repeat)
    small = replace(large, cache=Cache(tmp_path, room / 1e9))
    for _ in range(2):
        built = [read_all(replace(run, repeat=r), small) for r in range(3)]
    stored = {"logits"} if trainable == "all" else {"logits", "features"}
    for found in built[:2]:
        assert not {what.partition(",")[0] for what in found} & stored
    assert {"logits, repeat 2, epoch 0", "logits, repeat 2, epoch 1"} <= built[2]
    files = tmp_path.glob("*/*/*.safetensors")
    assert sum(file.stat().st_size for file in files) <= room


def study_of(**options: object) -> Study:
    return Study(name="s", run=replace(RUN, **options), repeats=8, gpus=0)


def warning(study: Study, trials: int = 2) -> str | None:
    student, teacher = (build(name, "none", 10, seed=1) for name in (STUDENT, TEACHER))
    return cache_warning(study, trials, student, [teacher])


def test_a_cache_that_holds_the_study_needs_no_word() -> None:
    assert warning(study_of()) is None
    assert warning(replace(study_of(), cache_gb=0)) is None  # asked for


def test_a_cache_that_is_too_small_is_said_with_sizes() -> None:
    study = replace(study_of(trainable="head", train_images=2000, epochs=100), search="tpe")
    small = replace(study, cache_gb=0.2)
    text = warning(small)
    # 2,000 x (10 + 24) and 500 x 24 float32 numbers in each of 100 epochs of 8 repeats
    needed = 8 * 100 * (2000 * 34 + 500 * 24) * 4 / 1e9
    assert text is not None and f"streams of 8 repeats need {needed:.2g} GB" in text
    # 0.2 GB hold six times a repeat's 32 MB
    assert "--cache-gb is 0.2: logits and features of 6 repeats are stored" in text
    advised = float(text.split("--cache-gb ")[-1].split()[0])
    assert warning(replace(study, cache_gb=advised)) is None
    assert warning(replace(small, search="grid"), trials=2) is None  # two repeats fit


def test_logits_of_mixed_images_count_once_for_each_mixing_and_batch_size() -> None:
    """Views are shared; train has 1 + 7 * 4 sets of 10 float32 numbers for each image."""
    study = replace(study_of(train_images=2000, epochs=10), search="tpe", cache_gb=0.3)
    assert warning(study) is None
    space = {"mixup": (0.0, 0.1, 0.2, 0.4), "cutmix": (0.0, 1.0), "batch_size": (16, 32, 64, 128)}
    needed = 8 * 10 * 2000 * (784 + 29 * 40) + 1500 * (784 + 40)
    text = warning(replace(study, space=space))
    assert text is not None and f"streams of 8 repeats need {needed / 1e9:.2g} GB" in text
    # the views need 0.127 GB, so a repeat's 23 MB of logits fit seven times
    assert "--cache-gb is 0.3: logits of 7 repeats are stored" in text
    assert warning(replace(study, space=space, cache_gb=needed / 1e9 + 1e-6)) is None


def test_searched_epochs_and_layers_count() -> None:
    study = replace(study_of(train_images=2000, epochs=1), search="tpe", cache_gb=0.2)
    assert warning(study) is None
    searched = replace(study, space={"epochs": (1, 100), "trainable": ("all", "head")})
    assert "logits and features of" in (warning(searched) or "")


def test_views_that_do_not_fit_are_said() -> None:
    study = replace(study_of(train_images=2000, epochs=50), search="tpe", cache_gb=1.0)
    text = warning(study)
    size = 8 * 50 * 2000 * 784 / 1e9
    assert text is not None and f"the views of 8 repeats need {size:.2g} GB" in text
    advised = float(text.split("--cache-gb ")[-1].split()[0])
    assert warning(replace(study, cache_gb=advised)) is None

"""The loop's state: what a cut run goes on from. That the loop is right: test_stream.py."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from kdtune.config.run import Run
from kdtune.streams.cache import Cache
from kdtune.streams.resources import Resources
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.metrics import Epoch
from kdtune.training.optim import make_optimizer, make_scheduler
from kdtune.training.run import CHECKPOINT, distill, make_student


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_a_run_goes_on_exactly_where_it_was_cut(
    trainable: str, tiny: Run, teacher_folder: Path, tmp_path: Path
) -> None:
    run = replace(tiny, trainable=trainable, student="factories:dropout_student")
    resources = Resources(cache=Cache(tmp_path / "cache", 1))
    whole = list(distill(run, teacher_folder, resources, tmp_path / "whole"))
    cut = distill(run, teacher_folder, resources, tmp_path / "cut")
    next(cut), next(cut)  # the first epoch is on disk once the second is asked for
    cut.close()
    rest = list(distill(run, teacher_folder, resources, tmp_path / "cut"))
    assert [e.splits for e in rest] == [e.splits for e in whole]
    files = [tmp_path / name / "student.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_state_begins_again(
    left: int, tiny: Run, teacher_folder: Path, tmp_path: Path
) -> None:
    whole = list(distill(tiny, teacher_folder, Resources(), tmp_path))
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:left])
    again = list(distill(tiny, teacher_folder, Resources(), tmp_path))
    assert [epoch.splits for epoch in again] == [epoch.splits for epoch in whole]
    assert [epoch.seconds for epoch in again] != [epoch.seconds for epoch in whole]


def test_what_is_costly_to_keep_is_kept_less_often(tiny: Run, tmp_path: Path) -> None:
    sent: list[int] = []
    past: list[Epoch] = []

    def send() -> None:  # takes 10 ms, a hundredth of a second
        time.sleep(0.01)
        sent.append(len(past))

    student = make_student(tiny)
    optimizer = make_optimizer(tiny, student)
    scheduler = make_scheduler(tiny, optimizer, 5)
    checkpoint = Checkpoint(tmp_path / CHECKPOINT, send)
    # the first; a second has not passed; at the latest after two; so in sum, too
    for seconds in (0.01, 0.4, 0.4, 2.0, 0.8, 1.2, 0.1):
        past.append(Epoch(len(past), seconds, {}))
        checkpoint.keep(student, optimizer, scheduler, past)
    assert sent == [1, 4, 6]
    assert checkpoint.load(student, optimizer, scheduler) == past[:6]

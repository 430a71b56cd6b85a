"""Checkpoints: what an interrupted run resumes from, and which files are ignored."""

import copy
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import RUN, new_stream, new_student
from torch import Tensor

from kdtune.config.fields import OPTIMIZERS
from kdtune.config.run import Run
from kdtune.training.epoch import Epoch, Metrics
from kdtune.training.loop import Checkpoint, Training, train

DROPOUT = replace(RUN, student="factories:dropout_student", image_size=24, schedule="onecycle")
CUT = replace(DROPOUT, ema=0.7, clip_norm=0.5, schedule="cosine", warmup_epochs=1, epochs=5)
KINDS = {
    **{name: replace(DROPOUT, optimizer=name, lr=0.01) for name in OPTIMIZERS},
    "warm-up": replace(DROPOUT, schedule="multistep", warmup_epochs=2, optimizer="nesterov"),
    "average": replace(CUT, epochs=4),
    "average of the head": replace(
        DROPOUT, ema=0.7, trainable="head", batch_norm="train", schedule="cosine"
    ),
    # the scale of the gradients is halved before the cut and after it
    "fp16": replace(RUN, precision="fp16", loss="dkd", dkd_beta=300.0, lr=1e-3),
    "mixed images": replace(RUN, mixup=0.4, cutmix=1.0),
    # an epoch ends in the middle of a pass over these 8 images
    "images without labels": replace(RUN, train_images=33, extra="rest", extra_share=0.5),
}


class Eager(Checkpoint):
    """Saves after every epoch, however short."""

    MAX_AGE_SECONDS = 0.0


def follow(
    run: Run, file: Path, epochs: int, said: list[str] | None = None
) -> tuple[list[Epoch], dict[str, Tensor]]:
    """The first epochs of a run that saves its state, and the student's weights then."""
    student, write = new_student(run), ([] if said is None else said).append
    loop = train(run, student, new_stream(run, student), Eager(file, write=write))
    first = [next(loop) for _ in range(epochs)]
    if epochs == run.epochs:
        next(loop, None)  # the average takes its place
    return first, student.net.state_dict()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return one.keys() == other.keys() and all(same(one[n], other[n]) for n in one)


def seconds(epochs: list[Epoch]) -> list[float]:
    return [epoch.seconds for epoch in epochs]


def numbers(epochs: list[Epoch]) -> list[dict[str, Metrics]]:
    return [epoch.splits for epoch in epochs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_exactly_where_it_was_cut(kind: str, tmp_path: Path) -> None:
    run = KINDS[kind]
    whole, weights = follow(run, tmp_path / "whole", 4)
    for after in {"adamw": (1, 2), "average": (2, 4), "fp16": (1,)}.get(kind, (2,)):
        cut, _ = follow(run, tmp_path / f"cut {after}", after)
        rest, resumed = follow(run, tmp_path / f"cut {after}", 4)
        assert numbers(rest) == numbers(whole)
        assert seconds(rest)[:after] == seconds(cut)
        assert same(resumed, weights)
        for split, predictions in whole[-1].predictions.items():
            exact = {"rtol": 0, "atol": 0}
            torch.testing.assert_close(
                vars(rest[-1].predictions[split]), vars(predictions), **exact
            )


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Epoch]]:
    """The folder of the state after the fourth epoch of a run, and its epochs."""
    folder = tmp_path_factory.mktemp("cut")
    return folder, follow(CUT, folder / "state", 4)[0]


@pytest.fixture
def state(cut: tuple[Path, list[Epoch]], tmp_path: Path) -> Path:
    """A copy of the last state."""
    return shutil.copytree(cut[0], tmp_path / "cut") / "state"


def loaded(file: Path, owner: str = "") -> tuple[int, list[str]]:
    """After how many epochs a new training resumes, which is as new if it is none; what is said."""
    training, said = Training.of(CUT, new_student(CUT), (), 3), list[str]()
    before = copy.deepcopy(training.state_dict())
    past = Checkpoint(file, owner=owner, write=said.append).load(training)
    after = training.state_dict()
    assert same(after["student"], before["student"]) == (not past)
    for part in ("optimizer", "scheduler"):
        assert (after[part] == before[part]) == (not past), part
    assert after["average"]["updates"] == 3 * len(past)
    return len(past), said


def rewrite(file: Path, change: Any) -> None:
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)


def as_version_0_1(state: dict[str, Any]) -> None:
    """What kdtune 0.1 wrote: no format, and bool tensors named `correct`."""
    del state["format"]
    for epoch in state["epochs"]:
        del epoch["predictions"]
        epoch["correct"] = {"val": torch.ones(30, dtype=torch.bool)}


UNFIT = {
    "an older version's": as_version_0_1,
    "no weights": lambda state: state.pop("student"),
    "no average": lambda state: state.update(average=None),
    "no scheduler": lambda state: state.pop("scheduler"),
    "another architecture": lambda state: state["student"].popitem(),
    "other shapes": lambda state: state["student"].update({"10.bias": torch.zeros(7)}),
    "another optimiser's": lambda state: state["optimizer"]["param_groups"].clear(),
    "epochs without a field": lambda state: state["epochs"][0].pop("seconds"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_state_that_does_not_fit_is_ignored(kind: str, state: Path) -> None:
    rewrite(state, UNFIT[kind])
    assert loaded(state)[0] == 0


def truncate(left: int) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes()[:left]) and None


def flip(file: Path) -> None:
    """Flip a bit of the largest tensor: elsewhere are bytes that nothing reads."""
    with zipfile.ZipFile(file) as archive:
        largest = max(map(archive.read, archive.namelist()), key=len)
    content = bytearray(file.read_bytes())
    content[content.index(largest) + len(largest) // 2] ^= 16
    file.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (truncate(0), "File is not a zip file"),
    "cut": (truncate(2000), "File is not a zip file"),
    "a bit flipped": (flip, "it is damaged"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_run_whose_state_cannot_be_used_begins_again(kind: str, state: Path) -> None:
    damage, reason = DAMAGE[kind]
    damage(state)
    epochs, (sentence,) = loaded(state)
    assert epochs == 0
    assert sentence.startswith(f"{state} cannot be used (") and reason in sentence
    assert sentence.endswith("), so the run begins again")


def test_the_state_of_another_run_is_ignored(state: Path) -> None:
    """One of an earlier version, which does not say whose it is, is taken."""
    rewrite(state, lambda values: values.update(owner="a-r00"))
    assert loaded(state, owner="a-r00") == (4, [])
    assert loaded(state, owner="a-r01")[0] == 0
    rewrite(state, lambda values: values.pop("owner"))
    assert loaded(state, owner="a-r01") == (4, [])


def test_a_costly_checkpoint_is_saved_less_often(tmp_path: Path) -> None:
    saved, past = list[int](), list[Epoch]()

    def upload() -> None:  # takes 10 ms, a hundredth of a second
        time.sleep(0.01)
        saved.append(len(past))

    training = Training.of(RUN, new_student(RUN), (), 5)
    checkpoint = Checkpoint(tmp_path / "state", upload)
    # the first; a second has not passed; at the latest after two; so in sum, too
    for seconds in (0.01, 0.4, 0.4, 2.0, 0.8, 1.2, 0.1):
        past.append(Epoch(len(past), seconds, {}))
        checkpoint.save(training, past)
    assert saved == [1, 4, 6]
    assert list(map(asdict, checkpoint.load(training))) == list(map(asdict, past[:6]))

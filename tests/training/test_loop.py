"""The training loop against a plain one, of torch's optimisers, schedules and losses.

Also the average of a student's weights by hand, the learning rate of every step, clipped gradients,
and what a run that diverges is blamed on: the teacher, the student, the objective or the lr. Then
checkpoints: what an interrupted run resumes from, and which files are ignored.
"""

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
from blobs import NOWHERE, RUN, blobs, new_stream, new_student
from reference import PlainEpoch, plain_loop
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD

from kdtune.config.fields import OPTIMIZERS
from kdtune.config.run import Run
from kdtune.config.text import Diverged, InputError
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher
from kdtune.models.registry import build
from kdtune.streams.views import Resources
from kdtune.training import loop, teachers
from kdtune.training.epoch import Epoch, WeightAverage
from kdtune.training.loop import Checkpoint, Training, train
from kdtune.training.losses import check_objective


def train_both(run: Run) -> tuple[Classifier, list[Epoch], list[PlainEpoch]]:
    """The student after training with kdtune, its epochs, and those of the plain loop."""
    student = new_student(run)
    epochs = list(train(run, student, new_stream(run, student)))
    return student, epochs, list(plain_loop(run, NOWHERE, data=blobs()))


KINDS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name, "lr": 0.01, "weight_decay": 0.1} for name in OPTIMIZERS},
    "constant": {},
    "step, mse": {"schedule": "step", "lr_step_size": 2, "lr_gamma": 0.3, "loss": "mse"}
    | {"alpha": 0.2},
    "cosine, no momentum, dkd": {"schedule": "cosine", "momentum": 0.0, "loss": "dkd"}
    | {"dkd_alpha": 0.5, "dkd_beta": 2.0, "temperature": 2.0},
    "onecycle, ls": {"schedule": "onecycle", "loss": "ls", "alpha": 0.1},
    "weight decay, dist": {"weight_decay": 0.1, "loss": "dist", "dist_gamma": 1.0}
    | {"temperature": 2.0, "teacher_temperature": 3.0},
    "adamw, cosine, nkd and mse": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.3}
    | {"schedule": "cosine", "loss": "nkd+mse", "loss_weight": 0.2, "temperature": 2.0}
    | {"nkd_gamma": 2.0},
    "adamw, onecycle, only the teacher": {"optimizer": "adamw", "lr": 0.01, "schedule": "onecycle"}
    | {"alpha": 0.0, "temperature": 1.0},
    "only the labels, another repeat": {"alpha": 1.0, "repeat": 2, "seed": 1},
    "head": {"trainable": "head", "batch_norm": "train", "schedule": "cosine", "weight_decay": 0.1},
    "fp16": {"precision": "fp16", "clip_norm": 0.5, "loss": "dkd", "dkd_beta": 300.0, "lr": 1e-3},
    "average, batch norm eval": {"ema": 0.6, "batch_norm": "eval"},
    "average of the head": {"ema": 0.6, "trainable": "head"},
    "dropout": {"student": "factories:dropout_student", "image_size": 24},
    "multistep": {"schedule": "multistep", "lr_milestones": (0.25, 0.5), "lr_gamma": 0.5},
    "nesterov, warm-up": {"optimizer": "nesterov", "schedule": "step", "lr_step_size": 1}
    | {"lr_gamma": 0.5, "warmup_epochs": 2},
    "nesterov, warm-up, cosine, clipped, average": {"optimizer": "nesterov", "schedule": "cosine"}
    | {"warmup_epochs": 2, "clip_norm": 0.8, "ema": 0.8, "momentum": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_loop_of_torch(kind: str, seen: dict[tuple[float, ...], str]) -> None:
    run = replace(RUN, **KINDS[kind])
    student, epochs, plain = train_both(run)
    assert seen.setdefault(tuple(student.head.bias.tolist()), kind) == kind
    want = plain[-1].student.net.state_dict()
    for name, value in student.net.state_dict().items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-6)
    assert [list(e.splits) for e in epochs] == [["train", "val"]] * 3 + [["train", "val", "test"]]
    assert [list(e.predictions) for e in epochs] == [[], [], [], ["val", "test"]]
    for epoch, reference in zip(epochs, plain, strict=True):
        for split, means in reference.metrics.items():
            if run.loss == "dist":  # no mean over images: it depends on the batches
                means = {k: v for k, v in means.items() if k not in ("loss", "distill")}
            got = {name: epoch.splits[split][name] for name in means}
            assert got == pytest.approx(means, rel=1e-4, abs=1e-6), (epoch.number, split)
            assert epoch.splits[split]["n_examples"] == len(blobs().splits[split])


class Tiny(nn.Module):
    """A layer with a statistic, a counter, a mask of -inf and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        self.register_buffer("statistic", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def fill(net: Tiny, value: float) -> None:
    with torch.no_grad():
        net.head.weight.fill_(value)
        net.statistic.fill_(10 * value)
        net.count.fill_(int(value))
        net.scratch.fill_(value)


def values(net: Tiny) -> tuple[float, ...]:
    own = (net.head.weight[0].detach(), net.statistic, net.count, net.scratch)
    return tuple(float(value) for value in own)


def test_values_by_hand() -> None:
    """The first update copies; then the decay is 2/11 after one, 3/12 after two; at most 0.2."""
    student = Classifier("tiny", net := Tiny(), None)
    average = WeightAverage(0.2, student, whole=True)
    for value in (1.0, 12.0, 100.0):
        fill(net, value)
        average.update()
    second = 1.0 * 2 / 11 + 12.0 * 9 / 11
    third = 0.2 * second + 0.8 * 100.0
    with average.in_student():
        assert values(net) == pytest.approx((third, 10 * third, 100, 100), rel=1e-6)
        assert net.mask.tolist() == [0.0, -torch.inf]
    assert values(net) == (100, 1000, 100, 100)


def test_a_projector_is_averaged_with_its_student() -> None:
    student, projector = Classifier("tiny", net := Tiny(), None), nn.Linear(1, 1)
    average = WeightAverage(0.2, student, whole=True, projector=projector)
    for value in (1.0, 12.0):
        fill(net, value)
        nn.init.constant_(projector.weight, value)
        average.update()
    with average.in_student():
        assert projector.weight.item() == pytest.approx(10.0)
        assert values(net)[0] == pytest.approx(10.0)
    assert projector.weight.item() == 12


def rates(run: Run) -> list[float]:
    """The learning rate of every step, 3 of an epoch, stepped as the loop does."""
    optimizer, found = loop.make_optimizer(run, new_student(run)), []
    scheduler = loop.make_scheduler(run, optimizer, 3)
    for _ in range(run.epochs):
        for _ in range(3):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if loop.is_stepped_by_batch(run):
                scheduler.step()
        if not loop.is_stepped_by_batch(run):
            scheduler.step()
    return found


HALVES = {"lr_step_size": 2, "lr_gamma": 0.5, "lr_milestones": (0.5, 0.75)}
BY_HAND: dict[tuple[str, int], list[float]] = {
    # 4 epochs of 3 steps; lr 6
    ("constant", 0): [6.0] * 12,
    ("constant", 1): [2.0, 4.0, 6.0] + [6.0] * 9,
    ("constant", 2): [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] + [6.0] * 6,
    ("step", 1): [2.0, 4.0, 6.0] + [6.0] * 3 + [3.0] * 6,
    # the decay after epoch 2 does not wait for the warm-up: 7/9, 8/9 and 9/9 of 3
    ("step", 3): [6 * s / 9 for s in range(1, 7)] + [7 / 3, 8 / 3, 3.0] + [3.0] * 3,
    ("multistep", 0): [6.0] * 6 + [3.0] * 3 + [1.5] * 3,
    ("multistep", 1): [2.0, 4.0, 6.0] + [6.0] * 3 + [3.0] * 3 + [1.5] * 3,
    # cosine of the 3 epochs that remain: (1 + cos(0, pi/3, 2 pi/3)) / 2
    ("cosine", 1): [2.0, 4.0, 6.0] + [6.0] * 3 + [4.5] * 3 + [1.5] * 3,
    ("cosine", 3): [6 * s / 9 for s in range(1, 10)] + [6.0] * 3,
}


@pytest.mark.parametrize(("schedule", "warmup"), BY_HAND)
def test_learning_rate_of_every_step_by_hand(schedule: Any, warmup: int) -> None:
    run = replace(RUN, lr=6.0, schedule=schedule, warmup_epochs=warmup, **HALVES)
    assert rates(run) == pytest.approx(BY_HAND[schedule, warmup], rel=1e-12)
    assert loop.milestones(replace(RUN, epochs=1, lr_milestones=(0.1, 0.9))) == [1, 1]


def stepped(run: Run, scale: float) -> list[float]:
    """Two parameters of two groups after a step of lr 1 from 0: their negative gradient."""
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = SGD([{"params": [a]}, {"params": [b]}], lr=1.0)
    # gradient (2, 4, 4), of norm 6
    loss = scale * (a @ torch.tensor([2.0, 4.0]) + 4 * b.sum())
    loop.take_step(run, optimizer, GradScaler(enabled=False), loss)
    return [*a.tolist(), *b.tolist()]


def test_gradients_are_clipped_to_the_norm_of_all_groups_together() -> None:
    assert stepped(RUN, 1.0) == [-2.0, -4.0, -4.0]
    assert stepped(replace(RUN, clip_norm=3.0), 1.0) == pytest.approx([-1.0, -2.0, -2.0], rel=1e-5)
    assert stepped(replace(RUN, clip_norm=6.1), 1.0) == [-2.0, -4.0, -4.0]  # short enough
    long, longer = (stepped(replace(RUN, clip_norm=3.0), scale) for scale in (10.0, 1e4))
    assert long == pytest.approx(longer, rel=1e-5)
    # So that the metrics are not finite, and the run is refused as diverged.
    assert not torch.tensor(stepped(replace(RUN, clip_norm=3.0), float("inf"))).isfinite().all()


NAN = "hostile_models:nan_for_many"


def trained(run: Run, student: Classifier | None = None) -> None:
    """Train on the blobs with the run's teacher."""
    student = student or new_student(run)
    list(train(run, student, new_stream(run, student)))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"loss": "hostile_models:is_nan_for_many"},
            "the objective hostile_models:is_nan_for_many is NaN or infinite for a batch of train",
        ),
        ({"lr": 1e3, "loss": "mse"}, "a lower lr may help$"),
        ({"lr": 1e3, "loss": "mse", "precision": "bf16"}, "a lower lr .*, or --precision fp32$"),
        ({"lr": 1e3, "loss": "mse", "precision": "fp16"}, "a lower lr .*, or --precision fp32$"),
    ],
)
def test_the_culprit_is_named(changes: dict[str, object], cause: str) -> None:
    with pytest.raises(Diverged, match=rf"became .* in epoch 0; {cause}"):
        trained(replace(RUN, **changes))  # type: ignore[arg-type]


def test_an_exit_is_no_success_and_an_objective_must_have_a_slope() -> None:
    with pytest.raises(InputError, match=r"exits_in_training, or .* ended: it calls sys"):
        trained(replace(RUN, student="hostile_models:exits_in_training"))
    with pytest.raises(InputError, match=r"objective .*exits_late, ended: it calls sys\.exit\(0\)"):
        trained(replace(RUN, loss="hostile_models:exits_late"))
    with pytest.raises(InputError, match="has changed teacher in place"):
        check_objective(Run(loss="hostile_models:changes_the_teacher"), 3)
    with pytest.warns(UserWarning, match="has_no_slope with respect to .* is 0 for random logits"):
        check_objective(Run(loss="hostile_models:has_no_slope"), 3)


def test_a_student_learns_where_gradients_are_turned_off() -> None:
    student = new_student(RUN)
    before = student.head.weight.clone()
    with torch.no_grad():  # as a script for inference does for its whole process
        trained(replace(RUN, epochs=1), student)
    assert not torch.equal(student.head.weight, before)


def test_the_accuracy_of_a_teacher_without_finite_logits_is_not_measured() -> None:
    run = replace(RUN, teacher=NAN)
    teacher = Teacher.of([build(run.teacher, "none", 3, seed=0)])
    with pytest.raises(InputError, match=r"NaN or infinite for 30 of 30 examples of val \(first"):
        teachers.evaluate(run, blobs(), teacher, Resources(), ["val"])


DROPOUT = replace(RUN, student="factories:dropout_student", image_size=24, schedule="onecycle")
CUT = replace(DROPOUT, ema=0.7, clip_norm=0.5, schedule="cosine", warmup_epochs=1, epochs=5)
RESUMED = {
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


def follow(run: Run, file: Path, epochs: int) -> tuple[list[Epoch], dict[str, Tensor]]:
    """The first epochs of a run that saves its state, and the student's weights then."""
    student = new_student(run)
    loop = train(run, student, new_stream(run, student), Eager(file))
    first = [next(loop) for _ in range(epochs)]
    if epochs == run.epochs:
        next(loop, None)  # the average takes its place
    return first, student.net.state_dict()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return one.keys() == other.keys() and all(same(one[n], other[n]) for n in one)


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_resumes_exactly_where_it_was_cut(kind: str, tmp_path: Path) -> None:
    run = RESUMED[kind]
    whole, weights = follow(run, tmp_path / "whole", 4)
    for after in {"adamw": (1, 2), "average": (2, 4), "fp16": (1,)}.get(kind, (2,)):
        cut, _ = follow(run, tmp_path / f"cut {after}", after)
        rest, resumed = follow(run, tmp_path / f"cut {after}", 4)
        assert [epoch.splits for epoch in rest] == [epoch.splits for epoch in whole]
        assert [epoch.seconds for epoch in rest[:after]] == [epoch.seconds for epoch in cut]
        assert same(resumed, weights)
        for split, predictions in whole[-1].predictions.items():
            again = vars(rest[-1].predictions[split])
            torch.testing.assert_close(again, vars(predictions), rtol=0, atol=0)


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

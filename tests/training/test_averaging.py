"""The average of a student's weights: its values, where it is used, and what it leaves alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from blobs import RUN, new_stream, new_student
from torch import Tensor, nn

from kdtune.models.classifier import Classifier
from kdtune.training.epoch import WeightAverage
from kdtune.training.loop import Checkpoint, train


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


def test_the_training_goes_on_with_the_raw_weights() -> None:
    """The losses on train are those without an average, to the last bit; those on val differ."""
    found = {}
    for ema in (0.0, 0.9):
        run = replace(RUN, ema=ema)
        student = new_student(run)
        found[ema] = list(train(run, student, new_stream(run, student)))
    for without, averaged in zip(found[0.0], found[0.9], strict=True):
        assert averaged.splits["train"] == without.splits["train"]
        assert averaged.splits["val"]["loss"] != without.splits["val"]["loss"]


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_the_student_has_the_average_at_the_end(trainable: str, tmp_path: Path) -> None:
    """It is the student of the predictions, also of a run that resumes after its last epoch."""
    run = replace(RUN, ema=0.9, trainable=trainable)
    weights = []
    for _ in range(2):
        student = new_student(run)
        *_, last = train(run, student, new_stream(run, student), Checkpoint(tmp_path / "state"))
        weights.append({n: v.clone() for n, v in student.net.state_dict().items()})
        stream = new_stream(run, student)
        student.set_mode(False)
        if trainable == "all":
            (batch,) = list(stream.evaluate("val", run.epochs))
            with torch.no_grad():
                p = student(batch.views).softmax(1)
            of_label = p[torch.arange(len(p)), batch.labels]
            torch.testing.assert_close(of_label, last.predictions["val"].p_label.float())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    raw = new_student(run)
    list(train(replace(run, ema=0.0), raw, new_stream(run, raw)))
    differing = {n for n, v in raw.net.state_dict().items() if not torch.equal(v, weights[0][n])}
    parameters = {name for name, _ in raw.net.named_parameters()}
    head = {name for name in parameters if name.startswith(f"{raw.head_name}.")}
    assert differing & parameters == (parameters if trainable == "all" else head)
    # the running statistics under a frozen backbone are those of the stream
    assert bool(differing - parameters) == (trainable == "all")

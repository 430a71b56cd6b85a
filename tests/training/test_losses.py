"""The loss of a batch, objectives by name and metrics, against definitions and numbers by hand.

Metrics are held to scikit-learn and reference.py, too; losses of logits to the definitions of the
papers (Hinton et al., 2015; Kim et al., 2021; Zhao et al., 2022; Huang et al., 2022; Yang et al.,
2023; Sun et al., 2024) in reference.py, and their gradients to autograd's. Float64, tolerance
1e-12, unless a test says otherwise.
"""

import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from blobs import blobs
from hypothesis import given
from hypothesis import strategies as st
from random_logits import LABELS, B, K, close, gradient, laws, pair, temperatures
from reference import calibration_error, distillation
from torch import Tensor

from kdtune.config import task
from kdtune.config.fields import takes_features
from kdtune.config.run import Run
from kdtune.config.task import expected_calibration_error, macro_f1, negative_log_likelihood
from kdtune.config.text import InputError
from kdtune.streams.views import Batch
from kdtune.training import epoch
from kdtune.training.epoch import Losses, Meter, Outputs, Predictions
from kdtune.training.losses import (
    OBJECTIVES,
    check_objective,
    check_searched,
    class_weights,
    cross_entropy,
    objective,
    total,
)

STUDENT, TEACHER = pair()
BATCH = Batch(LABELS, teacher=TEACHER)


def losses(run: Run, batch: Batch, weights: Tensor | None = None) -> Losses:
    bound = replace(objective(run), class_weights=weights)
    return Losses.of(run, bound, Outputs(STUDENT), batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_1_is_cross_entropy_bit_for_bit(dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    student.requires_grad_()
    want = F.cross_entropy(student, LABELS)
    distill = objective(Run())(student, teacher * 1e5, LABELS)
    got = total(1, cross_entropy(student, LABELS), distill)
    assert torch.equal(got, want)
    assert torch.equal(gradient(got, student), gradient(want, student))


def test_a_dead_term_that_overflowed_stays_dead() -> None:
    three, nan, infinite = (torch.tensor(value) for value in (3.0, math.nan, math.inf))
    assert total(1, three, infinite) == total(0, nan, three) == 3


WEIGHTS = torch.linspace(0.5, 2, K, dtype=STUDENT.dtype)


def test_smoothing_and_weights_enter_the_loss_and_not_the_metric() -> None:
    run = Run(alpha=0.3, label_smoothing=0.2)
    got = losses(run, BATCH)
    hard = F.cross_entropy(STUDENT, LABELS)
    close(got.ce, hard)
    smooth = 0.8 * hard - 0.2 * STUDENT.log_softmax(1).mean()
    close(got.loss, 0.3 * smooth + 0.7 * got.distill)
    for smoothing in (0.0, 0.2):
        weighted = losses(replace(run, label_smoothing=smoothing), BATCH, weights=WEIGHTS)
        close(torch.stack([weighted.ce, weighted.distill]), torch.stack([hard, got.distill]))
        want = F.cross_entropy(STUDENT, LABELS, WEIGHTS, label_smoothing=smoothing)
        close(weighted.loss, 0.3 * want + 0.7 * got.distill)


@pytest.mark.parametrize("loss", ["kl", "dkd"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_both_labels_of_mixtures_count(loss: str, smoothing: float, weights: Tensor | None) -> None:
    share, partners = 0.7, LABELS.roll(1)
    mixed = Batch(LABELS, teacher=TEACHER, partners=partners, shares=torch.full((B,), share))
    run = Run(alpha=0.4, loss=loss, label_smoothing=smoothing)
    ce, distill = (
        share * term(LABELS) + (1 - share) * term(partners)
        for term in (
            lambda y: F.cross_entropy(STUDENT, y, weights, label_smoothing=smoothing),
            lambda y: objective(run)(STUDENT, TEACHER, y),
        )
    )
    got = losses(run, mixed, weights=weights).loss
    close(got, 0.4 * ce + 0.6 * distill, rtol=1e-6, atol=0)


def test_balanced_weights_are_scikit_learns() -> None:
    reference = pytest.importorskip("sklearn.utils.class_weight")
    data, run = blobs(), Run(class_weights="balanced")
    y = torch.tensor([0] * 30 + [1] * 8 + [2] * 3)
    data = replace(data, splits={"train": replace(data.splits["train"], labels=y)})
    want = reference.compute_class_weight("balanced", classes=y.unique().numpy(), y=y.numpy())
    assert class_weights(run, data).tolist() == pytest.approx(want.tolist())
    few = replace(run, train_images=9)  # drawn evenly
    assert class_weights(few, data).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("w.json", '{"b": 2, "a": 0.5, "c": 1}', None),
        ("w.csv", "class,weight\na,0.5\nc,1\nb,2\n", None),
        ("w.json", '{"a": 0.5, "c": 1}', "each of the 3 classes and no other, .* in b; correct"),
        ("w.csv", "class,weight\na,1\nb,2\na,1", "each class must be there once"),
        ("w.json", '{"a": 1, "b": 0, "c": 1}', "with a weight above 0"),
        ("w.csv", "a,1\nb,2", r"must be a file, .json such as .* got .*w.csv: KeyError: 'class'"),
        ("w.json", "[1, 2]", "TypeError"),
    ],
)
def test_weights_of_a_file(name: str, text: str, fault: str | None, here: Path) -> None:
    Path(name).write_text(text)
    with nullcontext() if fault is None else pytest.raises(InputError, match=fault):
        run = Run(class_weights=name)
        Path(name).unlink()  # the study needs it no more
        assert class_weights(replace(run, lr=0.1), blobs()).tolist() == [0.5, 2, 1]


SOUND = {
    "cosine": ("", "1 - torch.nn.functional.cosine_similarity(student, teacher).mean()"),
    "tempered": (
        ", *, temperature, dkd_beta",
        "((student - teacher) / temperature).square().mean() * dkd_beta",
    ),
}
"""By name: what follows (student, teacher, labels, and what is returned."""
NO_GRADIENT = "must have a finite gradient"
FAULTS = {
    "misspelt": (
        (", *, temprature=1.0", "student.sum()"),
        "keyword-only parameters of .*misspelt must be fields of .*temprature",
    ),
    "more": (
        (", other", "student.sum()"),
        r"must be a function \(student, teacher, labels, \*, hyperparameters\)",
    ),
    "rows": (("", "student.sum(1)"), r"must return a scalar tensor, but got \[4\]"),
    "number": (("", "1.0"), "must return a scalar tensor, but got float"),
    "nan": (("", "(student - student).sum() / 0"), "must be finite, but got nan"),
    "dead": (("", "student.detach().sum()"), NO_GRADIENT),
    "foreign": (("", "teacher.clone().requires_grad_().sum()"), NO_GRADIENT),
    "steep": (("", "(student - student).abs().sqrt().sum()"), NO_GRADIENT),
    "raises": (
        ("", '{}["weights"]'),
        r"failed on random logits of shape \[4, 5\]: KeyError: 'weights' .*line \d+",
    ),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    functions = SOUND | {name: function for name, (function, _) in FAULTS.items()}
    lines = ["import torch", "constant = 3"]
    for name, (more, value) in functions.items():
        lines += [f"def {name}(student, teacher, labels{more}):", f"    return {value}"]
    (tmp_path / "own_objectives.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_objectives", raising=False)
    return "own_objectives"


def test_an_objective_of_the_user_alone_and_in_a_sum(own: str) -> None:
    student, teacher = pair()
    cosine = Run(loss=f"{own}:cosine")
    check_objective(cosine, K)
    want = 1 - (student * teacher).sum(1) / student.norm(dim=1) / teacher.norm(dim=1)
    close(objective(cosine)(student, teacher, LABELS), want.mean())
    tempered = Run(loss=f"{own}:tempered", temperature=2, dkd_beta=3)
    check_objective(tempered, K)
    want = 3 * (student - teacher).square().mean() / 4
    close(objective(tempered)(student, teacher, LABELS), want)

    def value(loss: str, **weights: float) -> torch.Tensor:
        return objective(Run(loss=loss, temperature=2, **weights))(*pair(), LABELS)

    tempered = f"{own}:tempered"
    check_objective(Run(loss=f"dkd+{tempered}", temperature=2, dkd_beta=3, loss_weight=5), K)
    got = value(f"dkd+{tempered}", dkd_beta=3, loss_weight=5)
    close(got, value("dkd", dkd_beta=3) + 5 * value(tempered, dkd_beta=3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, message) for name, (_, message) in FAULTS.items()),
        ("constant", "signature of .*constant cannot be read: TypeError: 3 is not a callable"),
        ("absent", "cannot be imported: AttributeError"),
        ("nan+kl", "the objective own_objectives:nan must be finite"),
    ],
)
def test_an_objective_that_cannot_work_is_refused(name: str, message: str, own: str) -> None:
    with pytest.raises(InputError, match=message):
        check_objective(Run(loss=f"{own}:{name}"), K)


def test_searching_what_an_objective_of_the_user_does_not_take(own: str) -> None:
    check_searched(["kl", f"{own}:tempered"], ["temperature", "dkd_beta", "lr"])
    check_searched(["kl", f"{own}:cosine"], ["lr", "alpha"])
    check_searched(["mse", "kl"], ["temperature", "lr"])
    check_searched([f"{own}:cosine+kl"], ["temperature", "loss_weight"])
    with pytest.raises(InputError, match=r"temperature is searched, but the objective .*:cosine"):
        check_searched(["kl", f"{own}:cosine"], ["lr", "temperature"])
    with pytest.raises(InputError, match=rf"dkd_beta is searched, .* parameter of {own}:cosine$"):
        check_searched([f"{own}:cosine+kl"], ["dkd_beta"])


N = 150


def logits(seed: int, scale: float = 2.0, n: int = N) -> Tensor:
    return scale * torch.randn(n, K, generator=torch.Generator().manual_seed(seed))


def labels(n: int = N) -> Tensor:
    return torch.randint(K, (n,), generator=torch.Generator().manual_seed(11))


def logs(*rows: tuple[float, ...]) -> Tensor:
    """Logits whose probabilities, at T = 1, are proportional to these numbers."""
    return torch.tensor(rows, dtype=torch.float64).log()


def meter(run: Run, student: Tensor, teacher: Tensor | None, y: Tensor, size: int) -> Meter:
    """A meter that was given batches of this size."""
    found = Meter()
    targets = [None] * N if teacher is None else teacher.split(size)
    for s, t, part in zip(student.split(size), targets, y.split(size), strict=False):
        batch = Batch(views=None, features=None, labels=part, teacher=t)
        found.add(s, batch, Losses.of(run, objective(run), Outputs(s), batch))
    return found


SCIKIT_LEARN = {
    "balanced_acc": lambda sk, y, p: sk.balanced_accuracy_score(y, p.argmax(1)),
    "recall:c": lambda sk, y, p: sk.recall_score(y, p.argmax(1), average=None)[2],
    "precision:c": lambda sk, y, p: sk.precision_score(y, p.argmax(1), average=None)[2],
    "auc": lambda sk, y, p: sk.roc_auc_score(y, p, multi_class="ovr", labels=range(7)),
    "top5_acc": lambda sk, y, p: sk.top_k_accuracy_score(y, p, k=5, labels=range(7)),
}


@pytest.mark.parametrize("name", SCIKIT_LEARN)
def test_a_metric_that_decides_is_scikit_learns(name: str) -> None:
    """Its values per image are those of the jackknife, which an own function has."""
    reference, rng = pytest.importorskip("sklearn.metrics"), np.random.default_rng(1)
    y = rng.choice(7, 190, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    z = rng.normal(0, 1.5, (190, 7)) + 2 * np.eye(7)[y]
    p = np.exp(z if name == "top5_acc" else z.round())  # with ties
    p /= p.sum(1, keepdims=True)
    metric = task.find_metric(name, "abcdefg")
    users = replace(metric, of_outputs=lambda p, y: SCIKIT_LEARN[name](reference, y, p))
    values, jackknife = (epoch.values_of_metric(each, p, y, False) for each in (metric, users))
    want = SCIKIT_LEARN[name](reference, y, p)
    assert values.mean() == pytest.approx(want, rel=1e-6) == jackknife.mean()
    assert values.std() == pytest.approx(jackknife.std(), rel=0.1)
    assert np.corrcoef(values, jackknife)[0, 1] > 0.99
    # in 200 blocks of 10 images the variance of the mean is the same
    blocks = epoch.values_of_metric(users, np.tile(p, (10, 1)), np.tile(y, 10), False)
    assert blocks.std() == pytest.approx(values.std(), rel=0.3)
    assert "_" in name or np.isnan(epoch.compute_metric(metric, p, y % 2)).all()


@pytest.mark.parametrize("present", [range(K), (0, 2), (3,)])
def test_macro_f1_and_nll_are_scikit_learns(present: tuple[int, ...]) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    y = torch.tensor(list(present))[labels() % len(present)]
    for s in (logits(1), logits(1).index_fill(1, torch.tensor([1, 4]), -99.0)):
        want = reference.f1_score(y.numpy(), s.argmax(1).numpy(), average="macro")
        assert macro_f1(s, None, y) == pytest.approx(want, rel=1e-12)
    s = logits(1)
    want = reference.log_loss(y.numpy(), s.double().softmax(1).numpy(), labels=range(K))
    assert negative_log_likelihood(s, None, y) == pytest.approx(want, rel=1e-12)
    assert negative_log_likelihood(s, None, y) == pytest.approx(float(F.cross_entropy(s, y)))


@laws
@given(st.integers(0, 1000), st.floats(0.01, 20), st.integers(1, 40))
def test_ece_is_that_of_the_reference(seed: int, scale: float, n: int) -> None:
    s, y = logits(seed, scale, n), labels(n)
    got = expected_calibration_error(s, None, y)
    assert got == pytest.approx(calibration_error(s.double().softmax(1), y), abs=1e-12)
    assert 0 <= got <= 1


def test_an_edge_belongs_to_the_bin_below() -> None:
    # 0.6 = 9/15 is the upper edge of (8/15, 9/15], which 0.55 shares and 0.62 does not
    edge = logs((0.6, 0.4))
    assert float(edge.softmax(1).max()) == 0.6
    y = torch.tensor([0, 1])
    for other, want in ((0.55, abs((1 - 0.6) - 0.55) / 2), (0.62, ((1 - 0.6) + 0.62) / 2)):
        both = torch.cat([edge, logs((other, 1 - other))])
        assert expected_calibration_error(both, None, y) == pytest.approx(want, rel=1e-9)


def test_what_cannot_be_computed_is_none_and_predictions_by_hand() -> None:
    s, t, y = logits(1), logits(2), labels()
    alone = meter(Run(), s, None, y, 64).metrics()
    missing = {name for name, value in alone.items() if value is None}
    assert missing == {"distill", "teacher_acc", "logit_diff", "agreement", "kl"}
    assert alone["loss"] == alone["ce"]
    baseline = meter(Run(alpha=1.0), s, t, y, 64).metrics()
    assert {name for name, value in baseline.items() if value is None} == {"distill"}
    s = logs((0.7, 0.2, 0.1), (0.1, 0.3, 0.6))
    found = Predictions.of(s, torch.eye(3)[[2, 1]], torch.tensor([0, 1]))
    assert found.predicted.tolist() == [0, 2] and found.label.tolist() == [0, 1]
    assert found.p_predicted.tolist() == pytest.approx([0.7, 0.6])
    assert found.p_label.tolist() == pytest.approx([0.7, 0.3])
    assert found.teacher is not None and found.teacher.tolist() == [2, 1]
    assert found.correct.tolist() == [True, False]
    assert Predictions.of(s, None, torch.tensor([0, 1])).teacher is None


OF_LOGITS = [name for name in OBJECTIVES if not takes_features(name)]
BOTH = [(0.5, None), (1.0, 1.0), (4.0, None), (4.0, 2.0), (1.0, 4.0), (20.0, None)]
"""Temperatures of student and teacher."""


def any_labels(logits: Tensor) -> Tensor:
    """Labels 0, 1, 2, ..."""
    return torch.arange(len(logits)) % logits.shape[1]


def loss(
    name: str,
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    labels: Tensor | None = None,
    **weights: float,
) -> Tensor:
    """Return a loss of the table with the defaults of `Run`, for `any_labels` if none are given."""
    if name != "mse":
        weights["temperature"] = temperature
    run = Run(loss=name, teacher_temperature=teacher_temperature, **weights)
    return objective(run)(student, teacher, any_labels(student) if labels is None else labels)


def normal_logits(seed: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's logits, and a shift of each row."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(B, K, generator=generator).double() for _ in range(2))
    return scale * student, scale * teacher, torch.randn(B, 1, generator=generator).double()


LOSS_WEIGHTS: dict[str, list[dict[str, float]]] = {
    "dkd": [{"dkd_alpha": a, "dkd_beta": b} for a, b in ((1.0, 8.0), (0.0, 1.0), (2.0, 0.0))],
    "dist": [{"dist_beta": a, "dist_gamma": b} for a, b in ((2.0, 2.0), (1.0, 0.0), (0.0, 3.0))],
    "nkd": [{"nkd_gamma": gamma} for gamma in (0.0, 1.5, 4.0)],
}


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize(("ts", "tt"), BOTH)
def test_each_and_its_gradient_are_by_definition(name: str, ts: float, tt: float | None) -> None:
    student, teacher = pair()
    student.requires_grad_()
    for weights in LOSS_WEIGHTS.get(name, [{}]):
        got = loss(name, student, teacher, ts, tt, **weights)
        run = Run(loss=name, temperature=ts, teacher_temperature=tt, **weights)
        want = distillation(run, student, teacher, any_labels(student))
        close(got, want)
        close(gradient(got, student), gradient(want, student))


def test_kl_and_mse_by_hand() -> None:
    even, three_to_one = logs((1, 1)), logs((3, 1))
    # teacher (3/4, 1/4), student (1/2, 1/2): the direction of KL matters
    close(loss("kl", even, three_to_one), 0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    close(loss("kl", three_to_one, even), 0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    # at T = 2 the same probabilities come from twice the logits, and T^2 = 4 stands before
    want = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    close(loss("kl", even, 2 * three_to_one, 2.0), want)
    student, teacher = torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]])
    close(loss("mse", student, teacher), 2.0)


def test_dkd_and_nkd_by_hand() -> None:
    # label 0; teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4)
    teacher, student = logs((2, 1, 1)), logs((1, 2, 1))
    binary = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    among = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)  # (1/2, 1/2) from (2/3, 1/3)
    close(loss("dkd", student, teacher, dkd_alpha=1.0, dkd_beta=0.0), binary)
    close(loss("dkd", student, teacher, dkd_alpha=0.0, dkd_beta=1.0), among)
    got = loss("dkd", 2 * student, 2 * teacher, 2.0, dkd_alpha=1.0, dkd_beta=8.0)
    close(got, 4 * (binary + 8 * among))
    of_label = 0.5 * math.log(4)
    close(loss("nkd", student, teacher, nkd_gamma=0.0), of_label)
    close(loss("nkd", student, teacher), of_label + 1.5 * among)
    # at T = 2: softened are the others only; teacher's label 4/6, student's 1/6
    got = loss("nkd", 2 * student, 2 * teacher, 2.0, nkd_gamma=1.5)
    close(got, 2 / 3 * math.log(6) + 4 * 1.5 * among)


def test_dist_by_hand() -> None:
    up, down = (1.0, 2.0, 3.0), (3.0, 2.0, 1.0)
    weights = {"dist_beta": 10.0, "dist_gamma": 3.0}
    # rows: r = -1 twice; columns (1, 3), (2, 2), (3, 1) against their reverse: -1, none, -1
    got = loss("dist", logs(up, down), logs(down, up), **weights)
    close(got, 10 * 2 + 3 * (1 + 2 / 3), rtol=1e-6)
    # rows: r = 1 and -1; the teacher's columns are constant
    got = loss("dist", logs(up, down), logs(up, up), **weights)
    close(got, 10 * 1 + 3 * 1, rtol=1e-6)
    # at T = 2 twice the logits give the same probabilities, and there is no factor T^2
    got = loss("dist", 2 * logs(up, down), 2 * logs(up, up), 2.0, **weights)
    close(got, 10 * 1 + 3 * 1, rtol=1e-6)


def test_dist_of_one_image_and_of_two_classes() -> None:
    student, teacher = pair()
    one = student[:1].clone().requires_grad_()
    got = loss("dist", one, teacher[:1], dist_beta=2.0, dist_gamma=3.0)
    want = loss("dist", one, teacher[:1], dist_beta=2.0, dist_gamma=0.0)
    close(got, want + 3)  # columns of one image have no correlation, which counts as 0
    close(gradient(got, one), gradient(want, one))
    two = student[:, :2].clone().requires_grad_()
    got = loss("dist", two, teacher[:, :2], dist_gamma=0.0)
    agrees = (two[:, 0] > two[:, 1]) == (teacher[:, 0] > teacher[:, 1])
    close(got, 2 * (1 - (2 * agrees.double() - 1).mean()), rtol=1e-6)
    close(gradient(got, two), torch.zeros(B, 2), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_constant_row_has_no_correlation(classes: int, dtype: torch.dtype) -> None:
    # 1 / K is not exact, so what is left of it after centring is rounding error
    student = torch.full((4, classes), 0.3, dtype=dtype, requires_grad=True)
    teacher = torch.randn(4, classes, generator=torch.Generator().manual_seed(0)).to(dtype)
    for got in (loss("dist", student, teacher), loss("dist", student, student.detach())):
        assert got == 4
        assert (gradient(got, student) == 0).all()


@laws
@given(temperatures, st.integers(0, 99), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", OF_LOGITS)
def test_laws(name: str, temperature: float, seed: int, random) -> None:
    """Neither shifts of rows nor the order of images and classes matter."""
    student, teacher, shift = normal_logits(seed, 3)
    labels, exact = any_labels(student), {"rtol": 1e-10, "atol": 1e-10}
    want = loss(name, student, teacher, temperature)
    assert want >= -1e-12
    if name != "mse":
        close(loss(name, student + shift, teacher - shift, temperature), want, **exact)
    rows, columns = (random.sample(range(n), n) for n in student.shape)
    mixed = [z[rows][:, columns] for z in (student, teacher)]
    moved = torch.tensor(columns).argsort()[labels[rows]]
    close(loss(name, *mixed, temperature, labels=moved), want, **exact)
    if name in ("mse", "kl", "ls", "dkd"):
        close(loss(name, student, student, temperature), 0.0, **exact)
    if name == "dist":
        assert want <= 8
        close(loss(name, teacher, student, temperature), want)
    if name == "ls":  # 1e-7 beside the sd is all that shows of a scale
        close(loss(name, 7 * student, teacher / 3, temperature), want, rtol=1e-4, atol=1e-4)


@laws
@given(temperatures, st.integers(0, 99))
@pytest.mark.parametrize(("name", "weight"), [("dkd", "dkd_beta"), ("nkd", "nkd_gamma")])
def test_one_other_class_is_nothing(name: str, weight: str, temperature: float, seed: int) -> None:
    student, teacher, _ = normal_logits(seed, 3)
    without, others = (
        loss(name, student[:, :2], teacher[:, :2], temperature, **{weight: w}) for w in (0.0, 9.0)
    )
    close(others, without)


EXTREME = {
    "opposed": ([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], [[-1e4, 1e4, 0], [1e4, 0, -1e4]]),
    "one-hot teacher": ([[1, 2, 3], [3, 1, 2]], [[1e4, 0, 0], [0, 1e4, 0]]),
    "one-hot student": ([[1e4, 0, 0], [1e4, 0, 0]], [[1, 2, 3], [3, 1, 2]]),
    "constant rows": ([[0, 0, 0], [7, 7, 7]], [[1, 2, 3], [5, 5, 5]]),
    "all constant": ([[0, 0, 0], [0, 0, 0]], [[2, 2, 2], [2, 2, 2]]),
    "equal rows": ([[1, 2, 3], [1, 2, 3]], [[3, 2, 1], [3, 2, 1]]),
    "one image": ([[1, 2, 3]], [[3, 2, 1]]),
    "two classes": ([[1e4, -1e4], [0, 0]], [[-1e4, 1e4], [1, 2]]),
    "one image of two classes": ([[0, 0]], [[1e4, 0]]),
    "unlikely everywhere": ([[0, 50, -90], [50, 0, -90]], [[0, 50, -80], [50, 0, -99]]),
}


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ts", "tt"), [(0.5, None), (1.0, 20.0), (20.0, 0.5)])
def test_extremes_are_finite(name: str, dtype: torch.dtype, ts: float, tt: float | None) -> None:
    for kind, both in EXTREME.items():
        student, teacher = (torch.tensor(rows, dtype=dtype) for rows in both)
        student.requires_grad_()
        got = loss(name, student, teacher, ts, tt)
        assert got.isfinite() and got.dtype == torch.float32, kind
        assert gradient(got, student).isfinite().all(), kind


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(name, student, teacher, 20.0)
    assert torch.equal(got, loss(name, student.float(), teacher.float(), 20.0))

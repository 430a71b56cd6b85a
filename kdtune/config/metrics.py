"""Metrics of a split: one table that the loop, the records, tables, figures and flags read.

Nothing here imports torch or numpy: the functions use methods of the tensors that they are given,
so that the results and `--help` can read the table without it. Logits are [B, K] for a batch and
[N, K] for a whole split, labels int64 [B] or [N]. `teacher` is None where there is no teacher; only
metrics with `needs_teacher` use it, and they are not computed then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    OfBatch = Callable[[Tensor, Any, Tensor], Tensor]
    OfSplit = Callable[[Tensor, Any, Tensor], float]
    OfExample = Callable[[Any, Mapping[str, Any]], Any]

ECE_BINS = 15


@dataclass(frozen=True)
class Metric:
    """A number of one split in one epoch of a run."""

    name: str
    """Its column in records and dataframes."""
    label: str
    """In words, for axes and tables."""
    unit: Literal["points", "nats", ""]
    """How differences are shown: "points" are percentage points of a share, nats are printed."""
    better: Literal["higher", "lower"] | None
    """Which of two values is better; None: neither."""
    comparable: bool
    """Whether it means the same in every configuration; a loss that alpha weights does not."""
    needs_teacher: bool = False
    of_batch: OfBatch | None = None
    """of_batch(student, teacher, labels): a value per example [B], or their mean as a scalar. The
    metric of the split is the mean over its examples."""
    of_split: OfSplit | None = None
    """of_split(student, teacher, labels): the metric, from all logits of the split at once. For
    what is not a mean over examples, and for means that cost too much at each training step."""
    derived: Callable[[Mapping[str, Any]], Any] | None = None
    """From other metrics of the same split, numbers or columns; not recorded."""
    of_example: OfExample | None = None
    """of_example(numpy, predictions): a value per example [N], whose mean is the metric, from
    columns of predictions.parquet. With it, comparisons hold for new images. None: the metric is no
    mean over examples, and comparisons hold for the images of the study only."""

    @property
    def is_share(self) -> bool:
        """Whether it is recorded and lies in [0, 1]."""
        return self.unit == "points" and self.derived is None


def _accuracy(student: Tensor, teacher: Any, labels: Tensor) -> Tensor:
    return (student.argmax(1) == labels).double()


def _teacher_accuracy(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return (teacher.argmax(1) == labels).double()


def _agreement(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return (teacher.argmax(1) == student.argmax(1)).double()


def _logit_difference(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over examples and classes of |teacher - student|."""
    return (teacher - student).abs().mean()


def _kl(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over examples of KL(softmax(teacher) || softmax(student)), at T = 1."""
    log_student, log_teacher = student.log_softmax(1), teacher.log_softmax(1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum() / len(labels)


def negative_log_likelihood(student: Tensor, teacher: Any, labels: Tensor) -> float:
    """Return the mean over examples of -log p(label), in nats, >= 0.

    It is the cross-entropy with the labels, computed in float64 and so without the rounding of the
    batch means of `ce`.
    """
    log_p = student.double().log_softmax(1)
    return -float(log_p.gather(1, labels[:, None]).mean())


def expected_calibration_error(student: Tensor, teacher: Any, labels: Tensor) -> float:
    """Return the mean over examples of |accuracy - confidence| of their bin, in [0, 1].

    The confidence is the probability of the predicted class; the bins are `ECE_BINS` of equal
    width, open on the left, closed on the right (Guo et al., 2017, equation 3).
    """
    confidence, predicted = student.double().softmax(1).max(1)
    difference = (predicted == labels).double() - confidence
    # ceil: a confidence on an edge belongs to the bin below, as in Guo's (low, high]
    index = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    # on the CPU: a GPU adds the weights in an order that varies from run to run
    sums = index.cpu().bincount(weights=difference.cpu(), minlength=ECE_BINS)
    return float(sums.abs().sum()) / len(labels)


def macro_f1(student: Tensor, teacher: Any, labels: Tensor) -> float:
    """Return the unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN), in [0, 1].

    Over the classes that occur among labels or predictions, as in scikit-learn's `f1_score`.
    """
    classes, predicted = student.shape[1], student.argmax(1)
    hits = labels[predicted == labels].bincount(minlength=classes).double()
    both = labels.bincount(minlength=classes) + predicted.bincount(minlength=classes)
    occurs = both > 0
    return float((2 * hits[occurs] / both[occurs]).mean())


def _nll_of_examples(np: Any, of: Mapping[str, Any]) -> Any:
    p = np.asarray(of["p_label"], dtype="float64")
    return -np.log(np.maximum(p, 1e-45))  # the least positive number of float32


def _gap(metrics: Mapping[str, Any]) -> Any:
    return metrics["teacher_acc"] - metrics["acc"]


METRICS = {
    metric.name: metric
    for metric in (
        # the loop computes these three, with the gradient
        Metric("loss", "loss", "nats", "lower", comparable=False),
        Metric("ce", "cross-entropy", "nats", "lower", True, of_example=_nll_of_examples),
        Metric("distill", "distillation term", "nats", "lower", comparable=False),
        Metric(
            *("acc", "accuracy", "points", "higher", True),
            of_batch=_accuracy,
            of_example=lambda np, of: of["correct"],
        ),
        Metric("teacher_acc", "teacher accuracy", "points", None, True, True, _teacher_accuracy),
        Metric(
            *("logit_diff", "logit difference", "", "lower", True, True, _logit_difference),
            of_example=lambda np, of: of["logit_diff"],
        ),
        Metric(
            *("agreement", "agreement", "points", "higher", True, True, _agreement),
            of_example=lambda np, of: of["predicted"] == of["teacher"],
        ),
        Metric(
            *("kl", "KL divergence", "nats", "lower", True, True, _kl),
            of_example=lambda np, of: of["kl"],
        ),
        Metric(
            *("nll", "negative log-likelihood", "nats", "lower", True),
            of_split=negative_log_likelihood,
            of_example=_nll_of_examples,
        ),
        Metric(
            *("ece", "calibration error", "points", "lower", True),
            of_split=expected_calibration_error,
        ),
        Metric("macro_f1", "macro F1", "points", "higher", True, of_split=macro_f1),
        Metric(
            *("gap", "gap to the teacher", "points", "lower", True, True),
            derived=_gap,
            of_example=lambda np, of: 1.0 * (of["teacher"] == of["label"]) - of["correct"],
        ),
    )
}
"""All metrics by name. A new one is one entry here, and its test."""

RECORDED = tuple(name for name, metric in METRICS.items() if metric.derived is None)
COMPARABLE = tuple(
    name for name, metric in METRICS.items() if metric.comparable and metric.better is not None
)
"""Metrics by which configurations can be compared."""

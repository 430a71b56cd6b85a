"""What the trials of a study train: metrics, tasks, own training functions, ranges."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from kdtune.config.fields import MAX_INTEGER, MAX_NUMBER, Config, Hyperparameter, Value, takes
from kdtune.config.text import InputError, did_you_mean, import_named, list_some, shown, user_code

if TYPE_CHECKING:
    from torch import Tensor

    OfBatch = Callable[[Tensor, Any, Tensor], Tensor]
    OfSplit = Callable[[Tensor, Any, Tensor], float]
    OfExample = Callable[[Mapping[str, Any]], Any]
    OfOutputs = Callable[[Any, Any], Any]


# Metrics of a split: one table that the loop, the records, tables, figures and flags read.
#
# Nothing here imports torch or numpy: the functions use methods of the tensors that they are given,
# so that the results and `--help` can read the table without them. Logits are [B, K] for a batch
# and [N, K] for a whole split, labels int64 [B] or [N]. `teacher` is None where there is no
# teacher; only metrics with `needs_teacher` use it, and they are not computed then.

ECE_BINS = 15


@dataclass(frozen=True)
class Metric:
    """A number of one split in one epoch of a run."""

    name: str
    """Its column in records and dataframes."""
    label: str
    """In words, for axes and tables."""
    unit: Literal["points", "percent", "nats", ""]
    """How differences are shown: "points" are percentage points of a share in [0, 1], "percent"
    those of a share in [0, 100], nats are printed."""
    better: Literal["higher", "lower"] | None
    """Which of two values is better; None: neither."""
    of_batch: OfBatch | None = None
    """of_batch(student, teacher, labels): a value per example [B], or their mean as a scalar. The
    metric of the split is the mean over its examples."""
    of_example: OfExample | None = None
    """of_example(predictions): a value per example [N], whose mean is the metric, from
    columns of predictions.parquet. With it, comparisons hold for new images. None: the metric is no
    mean over examples, and comparisons hold for the images of the study only."""
    comparable: bool = True
    """Whether it means the same in every configuration; a loss that alpha weights does not."""
    needs_teacher: bool = False
    of_split: OfSplit | None = None
    """of_split(student, teacher, labels): the metric, from all logits of the split at once. For
    what is not a mean over examples, and for means that cost too much at each training step."""
    derived: Callable[[Mapping[str, Any]], Any] | None = None
    """From other metrics of the same split, numbers or columns; not recorded."""
    of_outputs: OfOutputs | None = None
    """of_outputs(probabilities, labels): a value per example [N], whose mean is the metric, or the
    metric itself, of val or test, as NumPy arrays [N, K] and [N]. A run computes it only if it is
    the metric that decides, and keeps the values per example in predictions.parquet."""
    home: str = ""
    """Module of the user's own function that computes it; "" for the others."""


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


def _nll_of_examples(of: Mapping[str, Any]) -> Any:
    import numpy as np  # which a command line is read without

    p = np.asarray(of["p_label"], dtype="float64")
    return -np.log(np.maximum(p, 1e-45))  # the least positive number of float32


def _same_class(of: Mapping[str, Any]) -> Any:
    return of["predicted"] == of["teacher"]


def _gap(metrics: Mapping[str, Any]) -> Any:
    return metrics["teacher_acc"] - metrics["acc"]


def _gap_of_examples(of: Mapping[str, Any]) -> Any:
    return 1.0 * (of["teacher"] == of["label"]) - of["correct"]


_of_teacher = partial(Metric, needs_teacher=True)
_ROWS = (
    # the loop computes the first three, with the gradient
    Metric("loss", "loss", "nats", "lower", comparable=False),
    Metric("ce", "cross-entropy", "nats", "lower", of_example=_nll_of_examples),
    Metric("distill", "distillation term", "nats", "lower", comparable=False),
    Metric("acc", "accuracy", "points", "higher", _accuracy, itemgetter("correct")),
    _of_teacher("teacher_acc", "teacher accuracy", "points", None, _teacher_accuracy),
    _of_teacher(
        "logit_diff", "logit difference", "", "lower", _logit_difference, itemgetter("logit_diff")
    ),
    _of_teacher("agreement", "agreement", "points", "higher", _agreement, _same_class),
    _of_teacher("kl", "KL divergence", "nats", "lower", _kl, itemgetter("kl")),
    Metric(
        "nll",
        "negative log-likelihood",
        "nats",
        "lower",
        of_split=negative_log_likelihood,
        of_example=_nll_of_examples,
    ),
    Metric("ece", "calibration error", "points", "lower", of_split=expected_calibration_error),
    Metric("macro_f1", "macro F1", "points", "higher", of_split=macro_f1),
    _of_teacher(
        "gap", "gap to the teacher", "points", "lower", derived=_gap, of_example=_gap_of_examples
    ),
)
METRICS = {metric.name: metric for metric in _ROWS}
"""The metrics that every run records, by name. A new one is one entry here, and its test."""


# Metrics that a run computes on val and test only if they decide.


def _linearised(hits: Any, counts: Any) -> Any:
    """Return a value per example, [N], whose mean is the mean over C of sum(hits) / sum(counts).

    That mean of ratios is no mean over examples, but is linear in them up to terms of 1 / N
    (Cochran, 1977, section 2.11): the values are its own plus N times the influence of each
    example. A ratio without counts is 0, as in scikit-learn.

    Args:
        hits: [N, C].
        counts: [N, C].
    """
    sums = counts.sum(0).clip(1)
    ratios = hits.sum(0) / sums
    return (ratios + (hits - ratios * counts) * (len(counts) / sums)).mean(1)


def _class_ratio(of: Mapping[str, Any], counted: str, number: int | None = None) -> Any:
    """Return values whose mean is the mean over classes of hits / examples counted in the class.

    NaN without an example of the class.

    Args:
        of: Columns label and predicted.
        counted: Column whose examples of a class are counted: "label" makes it the recall,
            "predicted" the precision.
        number: Of the class. None: all that have examples.
    """
    import numpy as np  # which a command line is read without

    columns = {name: np.asarray(of[name])[:, None] for name in ("label", "predicted")}
    classes = np.unique(columns["label"]) if number is None else np.array([number])
    is_class = {name: column == classes for name, column in columns.items()}
    if not is_class["label"].any():
        return np.full(len(of["label"]), np.nan)
    return _linearised(is_class["label"] & is_class["predicted"], is_class[counted])


def _top5(probabilities: Any, labels: Any) -> Any:
    of_label = probabilities[range(len(labels)), labels][:, None]
    is_first = (range(probabilities.shape[1]) < labels[:, None]) & (probabilities == of_label)
    return 1.0 * ((is_first | (probabilities > of_label)).sum(1) < 5)


def _auc(probabilities: Any, labels: Any) -> Any:
    """Return values whose mean is the area under the ROC curve, one class against the rest.

    It is the mean over classes; of equal probabilities each counts half. The values are its own
    plus N times the influence of each example (DeLong et al., 1988). NaN without a class.
    """
    import numpy as np
    from scipy.stats import rankdata

    n, values = len(labels), np.zeros(len(labels))
    if len(np.unique(labels)) < probabilities.shape[1]:
        return np.full(n, np.nan)
    for number, p in enumerate(probabilities.T):
        is_class, ranks, below = labels == number, rankdata(p), np.empty(n)
        for part in (is_class, ~is_class):  # below: the share of the others that are below
            below[part] = (ranks[part] - rankdata(p[part])) / (n - part.sum())
        right = np.where(is_class, below, 1 - below)
        area = right[is_class].mean()
        values += area + (right - area) / np.where(is_class, is_class.mean(), 1 - is_class.mean())
    return values / probabilities.shape[1]


def _of_own(probabilities: Any, labels: Any, name: str) -> Any:
    """Return what the user's function of a name returns."""
    import numpy as np

    with user_code(f"the metric {name} failed"):
        return np.asarray(import_named("the metric", name)(probabilities, labels), dtype=float)


_asked = partial(Metric, unit="points", better="higher")
_ASKED_ROWS = (
    _asked("balanced_acc", "balanced accuracy", of_example=partial(_class_ratio, counted="label")),
    _asked("top5_acc", "top-5 accuracy", of_example=itemgetter("top5_acc"), of_outputs=_top5),
    _asked("auc", "macro AUC", of_example=itemgetter("auc"), of_outputs=_auc),
)
ASKED = {metric.name: metric for metric in _ASKED_ROWS}
"""By name; a metric of a class or of the user's own is made by `find_metric`."""
OF_CLASS = {"recall": "label", "precision": "predicted"}
"""Column whose examples of the class are counted, by kind: recall:CLASS and precision:CLASS."""


def find_metric(
    name: str, classes: Sequence[str] | None = None, mode: Mode | None = None
) -> Metric:
    """Return a metric that can decide a study of distillation.

    Args:
        name: One of `METRICS` or `ASKED`, recall:CLASS, precision:CLASS or module:function.
        classes: Names of the classes of the data. None: a metric of a class can be shown, but not
            computed.
        mode: Of the user's own, "max" (None) or "min".

    Raises:
        InputError: There is no such metric, or no such class.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        recorded = [m for m in (*METRICS.values(), *ASKED.values()) if m.derived is None]
        table = {m.name: m for m in recorded if m.comparable and m.better is not None}
        if name in table:
            return table[name]
        forms = f"{', '.join(table)}, recall:CLASS, precision:CLASS or module:function"
        raise InputError(
            f"metric must be one of {forms}, but got {name}{did_you_mean(name, table)}"
        )
    if kind not in OF_CLASS:
        better: Literal["higher", "lower"] = "lower" if mode == "min" else "higher"
        own, each = partial(_of_own, name=name), itemgetter(name)
        return Metric(name, rest, "", better, of_example=each, of_outputs=own, home=kind)
    label = f"{kind} of {rest}"
    if classes is None:
        return _asked(name, label)
    if rest not in classes:
        raise InputError(
            f"metric {name} must name a class of the data, but there is no {rest}"
            f"{did_you_mean(rest, classes) or f' among {list_some(classes, 5)}'}"
        )
    values = partial(_class_ratio, counted=OF_CLASS[kind], number=classes.index(rest))
    return _asked(name, label, of_example=values)


# What the trials of a study train: its hyperparameters, its metrics and its baseline.
#
# Plan, tables and report know of distillation only what its task declares. A study of a training
# function of the user's own has a task that is made from the arguments of `Study`.


@dataclass(frozen=True, eq=False)
class Task:
    """Declarations of a study's hyperparameters, metrics and baseline."""

    hyperparameters: Mapping[str, Hyperparameter]
    """By name, in the order of the columns of dataframes."""
    metrics: Mapping[str, Metric]
    """By name."""
    score: str
    """Metric on val, at the last epoch, by which plan and sampler decide."""
    baseline: Mapping[str, Value]
    """The values that a configuration of the baseline has; empty if there is no baseline."""
    table_metrics: tuple[str, ...]
    """Metrics of the table of results."""
    groups: tuple[str, ...] = ()
    """Hyperparameters whose values have a baseline each: configurations are compared with the
    baseline of their own values. Empty: all have the same baseline."""
    baseline_words: str = ""
    """The baseline in words."""
    subject: str = ""
    """What all configurations but those of the baseline do, as the subject of a sentence."""
    examples: str = "images"
    """What a split consists of, in words."""
    has_groups: bool = False
    """Whether these belong to groups, which are then what conclusions generalise from."""
    train_examples: int | None = None
    """How many of them train consists of. None: not recorded."""
    is_distillation: bool = False
    """Whether trials are kdtune's own, with teachers, students and streams."""
    always_in_id: tuple[str, ...] | None = None
    """Hyperparameters that every id is a hash of; the others are in it only where they have an
    effect and differ from their neutral value. None: all are in every id."""

    @property
    def sampled(self) -> str:
        """What splits are a sample of, in words."""
        return "groups" if self.has_groups else self.examples

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the hyperparameters."""
        return tuple(self.hyperparameters)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The hyperparameters, those first that decide whether others have an effect."""
        return tuple(dict.fromkeys((*self.deciding, *self.names)))

    @cached_property
    def _by_dependence(self) -> dict[str, Hyperparameter]:
        """The hyperparameters, each after those that decide whether it has an effect."""
        left, ordered = dict(self.hyperparameters), dict[str, Hyperparameter]()
        while left:
            free = [name for name, setting in left.items() if not setting.depends_on & left.keys()]
            if not free:
                raise InputError(
                    f"unless must not make hyperparameters depend on each other, but does for "
                    f"{', '.join(left)}"
                )
            ordered[free[0]] = left.pop(free[0])
        return ordered

    @cached_property
    def deciding(self) -> tuple[str, ...]:
        """The hyperparameters that others depend on, each after those that it depends on itself."""
        decide = {
            other for setting in self.hyperparameters.values() for other in setting.depends_on
        }
        return tuple(name for name in self._by_dependence if name in decide)

    @cached_property
    def like(self) -> Mapping[str, str]:
        """Hyperparameters whose None stands for the value of another one, with its name."""
        return {name: s.like for name, s in self.hyperparameters.items() if s.like is not None}

    @cached_property
    def recorded(self) -> tuple[str, ...]:
        """The metrics that are recorded; the others are derived from them."""
        return tuple(name for name, metric in self.metrics.items() if metric.derived is None)

    @cached_property
    def comparable(self) -> tuple[str, ...]:
        """The metrics by which configurations can be compared."""
        metrics = self.metrics.values()
        return tuple(m.name for m in metrics if m.comparable and m.better is not None)

    def deciding_by(self, metric: Metric) -> Task:
        """Return the task in which a metric decides."""
        if metric == self.metrics.get(self.score):
            return self
        table = tuple(dict.fromkeys((metric.name, *self.table_metrics)))
        metrics = {**self.metrics, metric.name: metric}
        return replace(self, metrics=metrics, score=metric.name, table_metrics=table)

    @property
    def sign(self) -> int:
        """1 if higher scores are better, else -1."""
        return 1 if self.metrics[self.score].better == "higher" else -1

    def canonical(self, config: Mapping[str, Any]) -> Config:
        """Return the configuration with None for every hyperparameter that has no effect in it.

        For example temperature with the loss "mse", loss and temperature at alpha = 1, momentum
        with the optimizer "adamw". So equivalent configurations are equal. Whole floats become
        integers: 1 and 1.0 are one value.

        Args:
            config: A value of each hyperparameter; None is kept.
        """
        unused: set[str] = set()
        for name, setting in self._by_dependence.items():
            has_effect = setting.depends_on.isdisjoint(unused) and setting.is_used_with(config)
            if not has_effect or (setting.of_objective and not takes(config["loss"], name)):
                unused.add(name)
        # last: the other one may have no effect either
        unused |= {name for name, other in self.like.items() if config[name] == config[other]}
        return {name: None if name in unused else _plain(v) for name, v in config.items()}

    def resolved(self, config: Mapping[str, Any]) -> Config:
        """Return a canonical configuration with a number where None stands for another's value.

        None is then left for the hyperparameters that have no effect.
        """
        others = {n: config[other] for n, other in self.like.items() if config[n] is None}
        return {**config, **others}

    def identity(self, config: Config, study_values: Mapping[str, Value | None]) -> str:
        """Return a text that tells a canonical configuration from all others.

        A hyperparameter that a later version adds changes nothing in an old study.

        Args:
            config: The configuration, see `canonical`.
            study_values: Neutral values of the hyperparameters marked `of_study`; those without one
                are left out.
        """

        def counts(name: str, value: Value | None) -> bool:
            if self.always_in_id is None or name in self.always_in_id:
                return True
            declared = self.hyperparameters[name]
            neutral = study_values.get(name, value) if declared.of_study else declared.neutral
            return value is not None and value != neutral

        counted = {name: value for name, value in config.items() if counts(name, value)}
        return json.dumps(counted, sort_keys=True)

    def is_baseline(self, config: Mapping[str, Any]) -> bool:
        """Return True if a configuration has the values of the baseline."""
        values = self.baseline.items()
        return bool(values) and all(config[name] == value for name, value in values)

    def with_metrics(self, names: Collection[str], shown: Collection[str] = ()) -> Task:
        """Return the task with further metrics that a training function has reported.

        Args:
            names: All of them.
            shown: Those that the table of results has, besides the one that decides.
        """
        new = [name for name in names if name not in self.metrics]
        if self.is_distillation or not new:
            return self
        metrics = dict(self.metrics) | {name: own_metric(name) for name in new}
        table = dict.fromkeys((self.score, *(name for name in metrics if name in shown)))
        return replace(self, metrics=metrics, table_metrics=tuple(table))


def _plain(value: Value | None) -> Value | None:
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value  # type: ignore[arg-type]


def group_text(values: Iterable[Any]) -> str:
    """Return e.g. "resnet18" or, with several numbers of images, "resnet18, 1,000 images"."""
    return ", ".join(v if isinstance(v, str) else f"{int(v):,} images" for v in values)


def own_metric(name: str, better: Any = None) -> Metric:
    """Return the metric of a training function: label and unit are kdtune's if it has the name.

    Args:
        name: Without the split.
        better: "higher" or "lower". None: as for kdtune's metric, else neither.
    """
    same = METRICS.get(name)
    label, unit = (same.label, same.unit) if same else (name, "")
    unit = unit if unit == "points" else ""  # a share, which `function_trial` checks
    better = better or (same.better if same else None)
    return Metric(name, label, unit, better, of_example=itemgetter(name))


def check_names(noun: str, names: Collection[str], allowed: Collection[str]) -> None:
    """Raise InputError if a name is not among the allowed ones."""
    for name in names:
        if name not in allowed:
            raise InputError(f"{noun} must be one of {', '.join(allowed)}, but got {name}")


# What plan, records and tables know of a trial, whatever it trains.


class BaseRun(ABC):
    """One trial: a configuration in a repeat. Its subclasses are frozen dataclasses."""

    repeat: int
    seed: int
    study_values: tuple[tuple[str, Value | None], ...] = ()
    """See `Task.identity`."""

    @property
    @abstractmethod
    def task(self) -> Task:
        """What the trials of the study train."""

    @cached_property
    def config(self) -> Config:
        """The hyperparameters, with None for those that have no effect."""
        return self.task.canonical({name: self.value(name) for name in self.task.names})

    @cached_property
    def identity(self) -> str:
        """What tells the configuration from all others, the same in every repeat."""
        return self.task.identity(self.config, dict(self.study_values))

    @cached_property
    def config_id(self) -> str:
        """Eight hex digits that name the configuration; rarely, two have the same."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:8]

    @abstractmethod
    def sample(self, **values: Any) -> Self:
        """Return the run with a sample of a search space, and perhaps another repeat."""

    def at(self, repeat: int) -> Self:
        """Return the run of the same configuration in another repeat."""
        return replace(self, repeat=repeat)  # type: ignore[type-var]

    def value(self, name: str) -> Value:
        """Return the value of a hyperparameter, whether it has an effect or not."""
        value: Value = getattr(self, name)
        return value

    def resolved_value(self, name: str) -> Value:
        """Return the value of a hyperparameter; if None stands for another's value, that one."""
        value, like = self.value(name), self.task.hyperparameters[name].like
        return self.value(like) if value is None and like is not None else value

    @property
    def planned_epochs(self) -> int | None:
        """Number of epochs of the trial; None if it is not known."""
        epochs: int | None = getattr(self, "epochs", None)
        return epochs

    @property
    def trial_id(self) -> str:
        """Name of the trial: this configuration in this repeat."""
        return f"{self.config_id}-r{self.repeat:02d}"

    @property
    def is_baseline(self) -> bool:
        """Whether the configuration belongs to the baseline."""
        return self.task.is_baseline(self.config)

    @property
    def group(self) -> str:
        """The configurations that this one is compared with: those of its student and size."""
        return group_text(self.value(name) for name in self.task.groups)


# A trial of a training function of the user's own, and the task that its study declares.


Train = Callable[..., Any]
"""train(config, repeat) or train(config, repeat, folder): yields a dict of metrics per epoch."""
Mode = Literal["max", "min"]
SPLITS = ("train", "val", "test")
NO_MODULES = ("__main__", "<run_path>")
"""Modules that another process cannot import: the script that was started, an experiment."""
_RESERVED = """
kind trial_id config_id repeat attempt time split correct epoch seconds n_examples label run self
phase example configuration
"""
RESERVED_METRICS = tuple(_RESERVED.split())
"""Names that the records and the dataframes have for something else."""
RESERVED_HYPERPARAMETERS = ("repeat", "label", "self", "n", "n_planned", "value", "hyperparameter")
_MAX_NAME = 64
"""Letters of a hyperparameter's or a metric's name."""


@dataclass(frozen=True)
class FunctionRun(BaseRun):
    """One call of a training function: a configuration in a repeat."""

    declared: Task
    """What the study declares."""
    values: tuple[tuple[str, Value], ...]
    """Value of each hyperparameter."""
    epochs: int | None = None
    """Number of epochs; None if it is not known."""
    seed: int = 0
    """Of the proposals of configurations. The function is given the repeat and seeds itself."""
    repeat: int = 0

    @property
    def task(self) -> Task:
        """What the study declares."""
        return self.declared

    @cached_property
    def _values(self) -> dict[str, Value]:
        return dict(self.values)

    def value(self, name: str) -> Value:
        """Return the value of a hyperparameter, whether it has an effect or not."""
        return self._values[name]

    @property
    def planned_epochs(self) -> int | None:
        """Number of epochs: the hyperparameter of this name, else that of the study."""
        epochs = self._values.get("epochs", self.epochs)
        return epochs if isinstance(epochs, int) else None

    def sample(self, **values: Any) -> Self:
        """Return the run with a sample of the space, and perhaps another repeat."""
        repeat = values.pop("repeat", self.repeat)
        return replace(self, values=tuple((self._values | values).items()), repeat=repeat)


def check_name(name: str) -> str:
    """Return the name of a hyperparameter, a column; raise InputError if it cannot be one."""
    fits = isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MAX_NAME
    if not fits or name in RESERVED_HYPERPARAMETERS:
        raise InputError(
            f"a hyperparameter of the space must have a name of 1 to {_MAX_NAME} letters other "
            f"than {', '.join(RESERVED_HYPERPARAMETERS)}, but got {name!r}"
        )
    return name


def parse_metric(text: str, split: str = "val") -> str:
    """Return the name of a metric that is given as SPLIT/NAME, of a certain split."""
    prefix, slash, name = text.partition("/")
    is_name = name.isidentifier() and len(name) <= _MAX_NAME and name not in RESERVED_METRICS
    if not slash or prefix != split or not is_name:
        raise InputError(
            f'metric must be "{split}/NAME" with a NAME of letters, digits and _, other than '
            f"{', '.join(RESERVED_METRICS)}, but got {text!r}"
        )
    return name


def name_of(train: Train | str) -> str:
    """Return module:function of a training function; raise InputError for anything else."""
    if isinstance(train, str):
        home, _, attribute = train.partition(":")
        if home and attribute:
            return train
    elif callable(train) and hasattr(train, "__qualname__"):
        home = train.__module__
        if home in NO_MODULES:  # a script has a name, which a notebook has not
            main = getattr(sys.modules.get("__main__"), "__file__", None)
            file = getattr(getattr(train, "__code__", None), "co_filename", "")
            home = Path(file).stem if home != "__main__" or file == main else home
        return f"{home}:{train.__qualname__}"
    raise InputError(f"train must be a function or module:function, but got {train!r}")


def load_function(name: str) -> Train:
    """Return the training function module:function.

    Raises:
        InputError: It cannot be imported, is no function, or takes other arguments.
    """
    function: Train = import_named("the training function", name)
    check_signature(function, name)
    return function


def check_signature(function: Any, name: str) -> None:
    """Raise InputError unless a function can be called as train(config, repeat[, folder])."""
    try:
        signature = inspect.signature(function)
        folder = {"folder": None} if "folder" in signature.parameters else {}
        signature.bind({}, 0, **folder)
    except (TypeError, ValueError) as error:  # of a compiled function
        raise InputError(
            f"{name} must be a function train(config, repeat) or train(config, repeat, folder), "
            f"but {error}"
        ) from None


# Values that a study searches: lists and ranges.

BOUNDED = f"finite numbers up to {MAX_NUMBER:g}, whole ones of 64 bits"
"""What `is_bounded` demands, in words."""


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, both included; whole numbers if the field is whole.

    >>> study = kdtune.Study(space={"lr": kdtune.Range(1e-4, 1e-1, log=True)}, search="random")
    >>> print(study.space["lr"])
    0.0001..0.1:log
    >>> print(kdtune.Range(0.001, 0.999, logit=True))
    0.001..0.999:logit
    """

    low: float
    high: float
    log: bool = False
    """Sample uniformly on a logarithmic scale."""
    logit: bool = False
    """Sample uniformly on the scale of the log-odds, log(x / (1 - x)): 0.001 to 0.01 is as likely
    as 0.99 to 0.999. Both ends lie between 0 and 1."""

    def __post_init__(self) -> None:
        if not (is_bounded(self.low) and is_bounded(self.high) and self.low < self.high):
            ends = f"{shown(self.low)}..{shown(self.high)}"
            raise InputError(f"a range must be LOW..HIGH, LOW < HIGH, {BOUNDED}, but got {ends}")
        is_on_scale = not self.scale or 0 < self.low < self.high < (1 if self.logit else math.inf)
        if not is_on_scale or (self.log and self.logit):
            raise InputError(
                f"a range must begin above 0 with :log, or lie between 0 and 1, both excluded, "
                f"with :logit (0.001..0.999:logit), and have one scale, but got {self}"
            )

    @property
    def is_whole(self) -> bool:
        """Whether the range is of whole numbers: both ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def scale(self) -> str:
        """The scale that is sampled evenly: "log", "logit", or "" for the values themselves."""
        return "log" if self.log else "logit" if self.logit else ""

    def __str__(self) -> str:
        short = {end: f"{end:g}" for end in (self.low, self.high)}
        ends = (text if float(text) == end else repr(end) for end, text in short.items())
        return "..".join(ends) + f":{self.scale}".rstrip(":")

    @staticmethod
    def parse(text: str, kind: type[int] | type[float]) -> Range:
        """Return the range of `LOW..HIGH`, `LOW..HIGH:log` or `LOW..HIGH:logit`.

        Raises:
            InputError: The numbers are not the ends of a range.
            ValueError: It is other text.
        """
        ends, _, scale = text.partition(":")
        low, high = ends.split("..")
        if "..." in text or scale not in ("", "log", "logit"):
            raise ValueError(f"{text} is no range")
        return Range(kind(low), kind(high), log=scale == "log", logit=scale == "logit")


Values = tuple[Value, ...] | Range
"""Possible values of a hyperparameter: a list or a range."""


def is_bounded(value: object) -> bool:
    """Return True for a finite number that is small enough for the records, see `BOUNDED`."""
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return isinstance(value, float) and abs(value) <= MAX_NUMBER  # False for NaN


def to_list_or_range(name: str, values: object) -> Values:
    """Return the values of a space as a tuple or a range; raise InputError for anything else."""
    if isinstance(values, Range):
        return values
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise InputError(
            f"{name} must have a list of values, at least one, or a Range, but got {values!r}"
        )
    return tuple(values)


def to_space(space: Mapping[str, object]) -> dict[str, Values]:
    """Return the space of a training function; raise InputError for what it cannot have."""
    return {check_name(name): to_list_or_range(name, values) for name, values in space.items()}


def check_value(name: str, value: object) -> None:
    """Raise InputError unless a value can be that of a training function's hyperparameter."""
    if not isinstance(value, str) and not is_bounded(value):
        raise InputError(f"{name} must have texts as values, or {BOUNDED}, but got {shown(value)}")


def including(values: Range, value: Value) -> Range:
    """Return a range that also contains a number; without its scale if the number is not on it.

    For example alpha = 1, the baseline, is on no scale of log-odds.
    """
    if isinstance(value, str) or values.low <= value <= values.high:
        return values
    low, high = min(values.low, value), max(values.high, value)
    return Range(low, high, log=values.log and low > 0, logit=values.logit and 0 < low < high < 1)


def ends_of(values: Sequence[Value] | Range) -> tuple[Value, ...]:
    """Return all values of a list, or both ends of a range."""
    return (values.low, values.high) if isinstance(values, Range) else tuple(values)


def models_of(values: Sequence[Value] | Range) -> list[str]:
    """Return the names of the models that a hyperparameter lists, of ensembles their members."""
    return [name for value in ends_of(values) for name in str(value).split("+")]


def covers(wide: Values, narrow: Values) -> bool:
    """Return True if `wide` allows every value that `narrow` allows."""
    if isinstance(wide, tuple):
        return isinstance(narrow, tuple) and set(narrow) <= set(wide)
    ends = (narrow.low, narrow.high) if isinstance(narrow, Range) else narrow
    return all(
        isinstance(end, int | float) and wide.low <= end <= wide.high
        for end in ends  # which may be a word, or None where that stands for another's value
    )

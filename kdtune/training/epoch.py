"""One epoch of training: its losses, averaged weights, metrics and predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdtune.config.fields import takes_features
from kdtune.config.files import atomic_write
from kdtune.config.run import DISTILLATION, Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.task import METRICS, Metric, find_metric
from kdtune.config.text import InputError, list_some
from kdtune.data.dataset import Data
from kdtune.models.classifier import Classifier
from kdtune.models.code_hash import source_digest
from kdtune.models.outputs import Model
from kdtune.streams.views import Batch, losses_of
from kdtune.training.losses import BoundObjective, cross_entropy, total

# Exponential moving average of a student's weights over the steps of its training.


class WeightAverage:
    """Average of what a run trains of its student: the student that is evaluated and saved.

    The first update copies the weights. Update n + 1 moves the average to the weights by 1 - d,
    where d = min(decay, (1 + n) / (10 + n)), as TensorFlow and timm do: so a run of a hundred steps
    does not remember its first ones.

    Averaged are the parameters that are trained and, if the whole student learns, its running
    statistics of floating point. The activations of averaged weights are closer to averaged
    statistics than to those of the last steps, whose weights are noisier; timm and torchvision's
    references also average both. Whole numbers, such as `num_batches_tracked`, stay those of the
    student. Under a frozen backbone the running statistics follow the stream, which does not depend
    on the head.

    It is no `AveragedModel`: that copies the whole student, asks for the number of updates in each,
    and averages constants such as masks of -inf, which become NaN.

    Args:
        decay: In (0, 1).
        student: On its device, with a frozen backbone if only its head is trained.
        whole: Whether the whole student learns.
        projector: Of the student's features, averaged as well: the distillation term is then that
            of a student and a projector of the same steps.
    """

    def __init__(
        self, decay: float, student: Classifier, whole: bool, projector: nn.Module | None = None
    ):
        self.decay, self.updates = decay, 0
        averaged = [p.detach() for p in student.parameters() if p.requires_grad]
        if whole:
            saved = student.net.state_dict()
            buffers = [x for name, x in student.net.named_buffers() if name in saved]
            averaged += [x for x in buffers if x.is_floating_point() and bool(x.isfinite().all())]
        if projector is not None:
            averaged += [p.detach() for p in projector.parameters()]
        self._weights = averaged
        self._averages = [weight.clone() for weight in averaged]

    @classmethod
    def of(cls, run: Run, student: Classifier, projector: nn.Module | None = None) -> Self | None:
        """Return the average that the run asks for; None if it asks for none."""
        whole = run.trainable == "all"
        return cls(run.ema, student, whole, projector) if run.ema > 0 else None

    @torch.no_grad()
    def update(self) -> None:
        """Take the student's weights into the average, after a step of the optimiser."""
        if self.updates == 0:
            torch._foreach_copy_(self._averages, self._weights)
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            get_ema_multi_avg_fn(decay)(self._averages, self._weights, self.updates)
        self.updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values of the student and of the average, to the last bit.

        Values are copied and no tensors replaced, since optimiser, stream and initial student hold
        the student's own.
        """
        weights = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, self._averages)
        torch._foreach_copy_(self._averages, weights)

    @contextmanager
    def in_student(self) -> Iterator[None]:
        """Let the student have the averaged weights for the duration of the context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"updates": self.updates, "averages": self._averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; raise ValueError, and change nothing, if it is of another student."""
        if [x.shape for x in state["averages"]] != [x.shape for x in self._averages]:
            raise ValueError("the average is of another student")
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy_(saved)
        self.updates = state["updates"]


# The loss of a batch: its cross-entropy with the labels, its distillation term, and their sum.


@dataclass(frozen=True)
class Outputs:
    """Outputs of the student for a batch."""

    logits: Tensor
    """[B, K]."""
    features: Tensor | None = None
    """Projected features, float32 [B, D] with the D of the teacher; None unless the loss compares
    features."""


@dataclass(frozen=True)
class Losses:
    """The loss of one batch and its two terms: scalars in nats, with their graph."""

    loss: Tensor
    ce: Tensor
    """Cross-entropy with the labels, without label smoothing and weights of classes."""
    distill: Tensor | None
    """None without a teacher and at alpha = 1."""

    @staticmethod
    def of(run: Run, objective: BoundObjective, outputs: Outputs, batch: Batch) -> "Losses":
        """Return the losses of the student's outputs for a batch.

        The cross-entropy is the mean over the images that have a label, weighted by class in the
        loss if the objective says so, the distillation term that over all images.
        """
        ce = _cross_entropy(outputs.logits, batch)
        hard = ce
        smoothing, weights = run.label_smoothing, objective.class_weights
        if smoothing > 0 or weights is not None:
            hard = _cross_entropy(outputs.logits, batch, label_smoothing=smoothing, weight=weights)
        if batch.teacher is None or run.alpha == 1:
            return Losses(hard, ce, None)
        distill = _distillation(objective, outputs, batch)
        return Losses(total(run.alpha, hard, distill), ce, distill)


def _cross_entropy(logits: Tensor, batch: Batch, **options: Any) -> Tensor:
    """Return the mean over the labelled images; of a mixed image, that of both labels by share."""
    labelled = batch.labelled
    logits = logits[: len(labelled)]
    if labelled.partners is None:
        return cross_entropy(logits, labelled.labels, **options)
    assert labelled.shares is not None  # noqa: S101 - mixed, with a teacher
    first = cross_entropy(logits, labelled.labels, of_each=True, **options)
    second = cross_entropy(logits, labelled.partners, of_each=True, **options)
    mean = (labelled.shares * first + (1 - labelled.shares) * second).mean()
    # a batch is mixed with itself, so its labels and its partners have the same weights
    weights = options.get("weight")
    return mean if weights is None else mean / weights[labelled.labels].mean()


def _distillation(objective: BoundObjective, outputs: Outputs, batch: Batch) -> Tensor:
    """Return the distillation term; of mixed images, that with either label by share.

    So an objective that uses the labels sees those of both images, as the cross-entropy does. For
    one that does not, the two terms are equal.
    """
    assert batch.teacher is not None  # noqa: S101 - mixed, with a teacher
    features = outputs.features, batch.teacher_features
    term = objective(outputs.logits, batch.teacher, batch.labels, *features)
    if batch.partners is None:
        return term
    assert batch.shares is not None  # noqa: S101 - mixed, with a teacher
    share = batch.shares[0]  # all images of a training batch have the same
    other = objective(outputs.logits, batch.teacher, batch.partners, *features)
    return share * term + (1 - share) * other


# A student's predictions on the examples of a split, and their file.


@dataclass(frozen=True)
class Predictions:
    """Predictions of a student on the N examples of a split, in the split's own order."""

    label: Tensor
    """Class of each example, int64 [N]."""
    predicted: Tensor
    """Class of the largest logit, int64 [N]."""
    p_predicted: Tensor
    """The student's probability of the predicted class, float32 [N]."""
    p_label: Tensor
    """The student's probability of the label, float32 [N]."""
    teacher: Tensor | None
    """The teacher's class, int64 [N]; None without a teacher."""
    kl: Tensor | None = None
    """KL(softmax(teacher) || softmax(student)) at T = 1, in nats, float32 [N]."""
    logit_diff: Tensor | None = None
    """Mean over classes of |teacher - student|, float32 [N]."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Values of the metric that decides, by its name, float32 [N], see `Metric.of_outputs`."""

    @staticmethod
    def of(student: Tensor, teacher: Tensor | None, labels: Tensor) -> "Predictions":
        """Return the predictions of logits [N, K], on the CPU."""
        if student.device.type == "mps":  # it has no float64
            student, labels = student.cpu(), labels.cpu()
            teacher = None if teacher is None else teacher.cpu()
        predicted = student.argmax(1)
        p = student.double().softmax(1)
        fidelity = {} if teacher is None else _fidelity(student.double(), teacher.double())
        return Predictions(
            label=labels.cpu(),
            predicted=predicted.cpu(),
            p_predicted=p.gather(1, predicted[:, None])[:, 0].float().cpu(),
            p_label=p.gather(1, labels[:, None])[:, 0].float().cpu(),
            teacher=None if teacher is None else teacher.argmax(1).cpu(),
            **{name: value.float().cpu() for name, value in fidelity.items()},
        )

    @property
    def correct(self) -> Tensor:
        """Whether each prediction is right, bool [N]."""
        return self.predicted == self.label


def _fidelity(student: Tensor, teacher: Tensor) -> dict[str, Any]:
    """Return KL divergence and logit difference of each example, from logits [N, K]."""
    log_student, log_teacher = student.log_softmax(1), teacher.log_softmax(1)
    kl = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
    return {"kl": kl, "logit_diff": (teacher - student).abs().mean(1)}


def save_predictions(
    run: Run, data: Data, predictions: Mapping[str, Predictions], file: Path
) -> None:
    """Write the predictions on val and test as a parquet file, one row per example.

    Columns: trial_id, split, example (its index in the split or, with --folds, the number of the
    image in train and val together), file (relative to the data's folder; null where examples are
    not files), label, predicted, p_predicted, p_label, teacher, kl, logit_diff (all three null
    without a teacher), correct; group (name), if the data have groups; and the values of a metric
    that decides and needs all probabilities, under its name. Classes are indices.
    """
    frames = [_frame(run, data, split, of_split) for split, of_split in predictions.items()]
    with atomic_write(file) as part:
        pd.concat(frames).to_parquet(part, index=False)


def file_names(data: Data, split: str) -> tuple[str, ...] | None:
    """Return the file of each example, relative to the data's folder; None if they are no files."""
    inputs = data.splits[split].inputs
    if not isinstance(inputs, tuple):
        return None
    return tuple(Path(file).relative_to(data.root).as_posix() for file in inputs)


def _frame(run: Run, data: Data, name: str, predictions: Predictions) -> pd.DataFrame:
    """Return the rows of one split."""
    count = len(predictions.label)
    files = file_names(data, name) or [None] * count
    teacher = [None] * count if predictions.teacher is None else predictions.teacher.numpy()
    unknown = np.full(count, np.nan, dtype=np.float32)
    columns: dict[str, Any] = {
        column: unknown if values is None else values.numpy()
        for column, values in {**vars(predictions), **predictions.values}.items()
        if column != "values"
    }
    columns["teacher"] = pd.Series(teacher, dtype="Int64")
    return pd.DataFrame(
        {
            "trial_id": run.trial_id,
            "split": name,
            "example": data.numbers(name).numpy(),
            "file": pd.Series(files, dtype="string"),
            **columns,
            "correct": predictions.correct.numpy(),
            **({} if (groups := data.splits[name].groups) is None else {"group": groups}),
        }
    )


# Metrics of an epoch, computed as the table `kdtune.config.task.METRICS` says.


Metrics = dict[str, float | int | None]
"""Metrics of a split by name, and n_examples. None where one cannot be computed: without a
teacher, or without a distillation term (alpha = 1)."""

_SHOWN = ("loss", "acc", "agreement")
"""Metrics of the line that is printed for an epoch."""


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    number: int
    """0, 1, 2, ..."""
    seconds: float
    """Wall time of training and evaluation."""
    splits: dict[str, Metrics]
    """Metrics of train, val and, in the last epoch, test. Those of train are of the forward passes
    that the student learned from."""
    predictions: dict[str, Predictions] = field(default_factory=dict, repr=False)
    """In the last epoch: the student's predictions on val and test."""
    skipped_steps: int = 0
    """Training steps that were left out in fp16, since their gradients were not finite."""

    def __str__(self) -> str:
        parts = [f"epoch {self.number:3d}  {self.seconds:6.2f} s"]
        for split, metrics in self.splits.items():
            values = [f"{name} {metrics[name]:.4f}" for name in _SHOWN if metrics[name] is not None]
            parts.append(f"{split} {' '.join(values)}")
        if self.skipped_steps:
            parts.append(f"{self.skipped_steps} steps left out")
        return "  ".join(parts)


class Meter:
    """Metrics of a split, from its batches.

    Args:
        metric: Of val or test, one that decides.
    """

    def __init__(self, metric: Metric | None = None) -> None:
        is_extra = metric is not None and metric.name not in METRICS
        self._metric = metric if is_extra else None
        self.count = 0
        """Examples so far."""
        self.skipped_steps = 0
        """See `Epoch.skipped_steps`."""
        self._names: list[str] = []
        self._means: list[Tensor] = []
        """Of each batch, one value a name."""
        self._batches: list[tuple[Tensor, Tensor | None, Tensor]] = []

    @torch.no_grad()
    def add(self, logits: Tensor, batch: Batch, losses: Losses) -> None:
        """Add a batch with the student's logits [B, K]; a GPU is not waited for."""
        student, teacher, labels = logits.detach(), batch.teacher, batch.labels
        means = {name: value for name, value in vars(losses).items() if value is not None}
        for name, metric in METRICS.items():
            if metric.of_batch is not None and not (metric.needs_teacher and teacher is None):
                value = metric.of_batch(student, teacher, labels)
                means[name] = value.mean() if value.ndim else value
        self._names = list(means)
        self._means.append(torch.stack([value.detach() for value in means.values()]))
        self._batches.append((student, teacher, labels))
        self.count += len(labels)

    def metrics(self) -> Metrics:
        """Return all recorded metrics of the batches so far."""
        sums = torch.zeros(len(self._names), dtype=torch.float64)
        # on the CPU, since not every device has float64
        for means, (*_, labels) in zip(torch.stack(self._means).cpu(), self._batches, strict=True):
            sums += means.double() * len(labels)
        values: dict[str, Any] = dict(zip(self._names, (sums / self.count).tolist(), strict=True))
        student, teacher, labels = self._outputs()
        for name, metric in METRICS.items():
            if metric.of_split is not None and not (metric.needs_teacher and teacher is None):
                values[name] = metric.of_split(student, teacher, labels)
        recorded = {name: values.get(name) for name in DISTILLATION.recorded}
        if self._metric is not None:
            value = compute_metric(self._metric, *_arrays(student, labels))
            recorded[self._metric.name] = float(value.mean())
        return {"n_examples": self.count} | recorded

    @torch.no_grad()
    def is_finite(self, objective: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
        """Return True if an objective is finite for all batches whose logits are finite.

        Args:
            objective: Of the student's logits, the teacher's and the labels.
        """
        return all(
            bool(objective(student, teacher, labels).isfinite())
            for student, teacher, labels in self._batches
            if teacher is not None and student.isfinite().all() and teacher.isfinite().all()
        )

    def predictions(self, each: bool = False) -> Predictions:
        """Return the predictions on the batches so far; for `each` see `values_of_metric`."""
        student, teacher, labels = self._outputs()
        predictions = Predictions.of(student, teacher, labels)
        if self._metric is None or self._metric.of_outputs is None:
            return predictions
        values = values_of_metric(self._metric, *_arrays(student, labels), each)
        return replace(predictions, values={self._metric.name: torch.from_numpy(values)})

    def _outputs(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the logits of student and teacher [N, K] and the labels [N]."""
        student, teacher, labels = zip(*self._batches, strict=True)
        of_teacher = None if teacher[0] is None else torch.cat(teacher)
        return torch.cat(student), of_teacher, torch.cat(labels)


# The metric that decides, where not every run records it: from NumPy arrays of val or test.


_Array = np.ndarray[Any, Any]
BLOCKS = 200
"""Most parts of a split that are left out in turn; a metric of the user's own may be slow."""


def _arrays(logits: Tensor, labels: Tensor) -> tuple[_Array, _Array]:
    """Return probabilities, float64 [N, K], and labels, int64 [N]."""
    return logits.cpu().double().softmax(1).numpy(), labels.cpu().numpy()


def compute_metric(metric: Metric, probabilities: _Array, labels: _Array) -> _Array:
    """Return the metric, or a value per example, [N], whose mean it is."""
    if metric.of_outputs is not None:
        return np.asarray(metric.of_outputs(probabilities.copy(), labels.copy()), dtype=float)
    assert metric.of_example is not None  # noqa: S101 - it has one of the two
    columns = {"label": labels, "predicted": probabilities.argmax(1)}
    return np.asarray(metric.of_example(columns), dtype=float)


def values_of_metric(metric: Metric, probabilities: _Array, labels: _Array, each: bool) -> _Array:
    """Return a value per example, float32 [N], whose mean is the metric.

    Where the metric does not say it, the values are those of the jackknife that leaves out one of G
    blocks in turn (Shao and Tu, 1995, section 2.3): t + sqrt(N / G) (G - 1) (mean of all t_g - t_g)
    for an example of block g, with the metric t of all examples and t_g without the block. The
    factor sqrt(N / G) makes the variance of their mean that of the jackknife. They are NaN where
    the metric cannot be computed without a block.

    Args:
        metric: The metric.
        probabilities: [N, K].
        labels: [N].
        each: Whether each example is a block, as groups of examples need; else there are `BLOCKS`.
    """
    values, n = compute_metric(metric, probabilities, labels), len(labels)
    if not values.ndim:
        block = np.arange(n) % (n if each else min(n, BLOCKS))
        blocks, without = block.max() + 1, np.full(block.max() + 1, np.nan)
        for g in range(blocks):
            with suppress(InputError):
                rest = block != g
                without[g] = compute_metric(metric, probabilities[rest], labels[rest]).mean()
        deviations = (without.mean() - without)[block] * np.sqrt(n / blocks) * (blocks - 1)
        values = values + deviations - deviations.mean()
    return values.astype(np.float32)


def check_metric(study: Study, data: Data) -> dict[str, str]:
    """Raise InputError, before any work, if the metric that decides cannot be computed.

    It is tried on random probabilities. Returns the fingerprint of a user's own, as
    "metric module:function", see `training.run.check_objectives`.
    """
    name, k, random = study.task.score, len(data.classes), np.random.default_rng(0)
    metric = find_metric(name, data.classes, study.mode)
    if name == "top5_acc" and k <= 5:
        raise InputError(f"metric top5_acc must be left out with {k} classes, as it is always 1")
    for split in [s for s in ("val", "test") if s in data.splits and name not in METRICS]:
        labels = data.splits[split].labels.numpy()
        value = compute_metric(metric, random.dirichlet(np.ones(k), len(labels)), labels)
        if value.shape not in ((), labels.shape) or not np.isfinite(value).all():
            absent = [data.classes[i] for i in set(range(k)) - set(labels.tolist())]
            has_no = f", which has no example of {list_some(absent, 3)}" if absent else ""
            raise InputError(
                f"metric {name} must be a finite number, or one for each example, but got "
                f"{value.mean()} of shape {list(value.shape)} for random outputs on {split}{has_no}"
            )
    if not metric.home:
        return {}
    return {f"metric {name}": source_digest([metric.home], nn.Module())[:16]}


# Linear projector from the student's features to the teacher's, and the checks it needs.


def make_projector(
    run: Run, student: Classifier, teacher: Sequence[Classifier]
) -> nn.Linear | None:
    """Return the projector of a run on the student's device; None if its loss needs none.

    It is trained with the student and left out of its weights. It computes in float32 also where
    the models run in bf16 or fp16.

    Args:
        run: Its seed and repeat decide the initial weights, the same for all configurations.
        student: On its device.
        teacher: The members of the teacher; none without a teacher.
    """
    if not run.compares_features or not teacher:
        return None
    sizes = student.feature_size, teacher[0].feature_size
    with torch.random.fork_rng(devices=[]):  # a student draws the same numbers with and without
        torch.default_generator.manual_seed(derive_seed("projector", run.seed, run.repeat))
        projector = nn.Linear(*sizes)
    return projector.to(next(student.parameters()).device)


def check_features(
    study: Study, teachers: Sequence[Model], students: Sequence[Classifier], views: Tensor
) -> None:
    """Raise InputError if losses of features cannot work with the models of a study.

    Args:
        study: The study.
        teachers: Its teachers, on the CPU; the members of an ensemble one by one, or files of
            outputs.
        students: Its students, on the CPU.
        views: Two of the data, [2, ...].
    """
    losses = [loss for loss in losses_of(study) if takes_features(loss)]
    if not losses:
        return
    if "head" in study.values("trainable"):  # type: ignore[operator]
        raise InputError(
            f"--trainable must be all with --loss {losses[0]}, since a frozen backbone learns "
            f"nothing from features, but got --trainable head; or use a loss such as kl"
        )
    ensembles = [name for name in map(str, study.values("teacher")) if "+" in name]  # type: ignore[arg-type]
    wrong = [f"--teacher {name}" for name in ensembles]
    wrong += [f"--teacher {model.name}" for model in teachers if not _has_features(model, views)]
    wrong += [f"--student {model.name}" for model in students if not _has_features(model, views)]
    if wrong:
        raise InputError(
            f"teacher and student must be one network each with features [B, D], the input of a "
            f"Linear layer as the last one, with --loss {losses[0]}, but got {wrong[0]}; use "
            f"another model, or a loss of logits such as kl"
        )


def _has_features(model: Model, views: Tensor) -> bool:
    """Return True if a model has features [B, D], the input of a Linear layer."""
    if not isinstance(model, Classifier) or not isinstance(model.head, nn.Linear):
        return False
    model.set_mode(False)
    with torch.no_grad():
        return model.features(views).shape == (len(views), model.feature_size)

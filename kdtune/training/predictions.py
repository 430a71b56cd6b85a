"""A student's predictions on the examples of a split, and their file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from kdtune.config.files import atomic_write
from kdtune.config.run import Run
from kdtune.data.dataset import Data


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


def _fidelity(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
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
    without a teacher), correct. Classes are indices.
    """
    frames = [_frame(run, data, split, own) for split, own in predictions.items()]
    with atomic_write(file) as part:
        pd.concat(frames).to_parquet(part, index=False)


def _frame(run: Run, data: Data, name: str, own: Predictions) -> pd.DataFrame:
    """Return the rows of one split."""
    count = len(own.label)
    files: list[str | None] = [None] * count
    inputs = data.splits[name].inputs
    if isinstance(inputs, tuple):
        files = [Path(path).relative_to(data.root).as_posix() for path in inputs]
    teacher = [None] * count if own.teacher is None else own.teacher.numpy()
    unknown = np.full(count, np.nan, dtype=np.float32)
    return pd.DataFrame(
        {
            "trial_id": run.trial_id,
            "split": name,
            "example": data.numbers(name).numpy(),
            "file": pd.Series(files, dtype="string"),
            "label": own.label.numpy(),
            "predicted": own.predicted.numpy(),
            "p_predicted": own.p_predicted.numpy(),
            "p_label": own.p_label.numpy(),
            "teacher": pd.Series(teacher, dtype="Int64"),
            "kl": unknown if own.kl is None else own.kl.numpy(),
            "logit_diff": unknown if own.logit_diff is None else own.logit_diff.numpy(),
            "correct": own.correct.numpy(),
        }
    )

"""Comparison of a student with the predictions that its study recorded."""

import numpy as np
from torch import Tensor

from kdtune.deploy.description import trial_of
from kdtune.deploy.subject import Subject
from kdtune.results.predictions import read_predictions

EXPECTED = 0.99
"""Share of equal classes below which something is wrong: another machine or precision changes the
class of few images, other weights or another preprocessing that of many."""


def compare_recorded(subject: Subject, logits: Tensor) -> str:
    """Return how many classes are those that the study recorded, as a sentence.

    Args:
        subject: the student.
        logits: of PyTorch on the split that judges, [N, K].

    Returns:
        The sentence; "" if the study has no such record.
    """
    views = subject.views
    trial = trial_of(subject.results, subject.student)
    if views is None or trial is None:
        return ""
    columns = ["split", "example", "predicted"]
    frame = read_predictions(subject.results.folder, [trial.trial_id], columns)
    if "predicted" not in frame:  # gone, or of version 0.1
        return ""
    own = frame[frame.split == views.split].set_index("example")["predicted"]
    numbers = views.data.numbers(views.split).numpy()
    if len(own) != len(numbers) or not own.index.isin(numbers).all():
        return ""
    same = int(np.sum(own.loc[numbers].to_numpy() == logits.argmax(1).numpy()))
    text = f"The study recorded the same class for {same:,} of {len(numbers):,}."
    if same >= EXPECTED * len(numbers):
        return text
    if subject.student.record.configured_run.precision == "bf16":
        return f"{text} It predicted in bfloat16, this file is in float32."
    return f"warning: {text} Has the model's code or a library changed since?"

"""Fields of a run: the loss."""

from dataclasses import dataclass
from typing import Annotated

from kdtune.config import effects
from kdtune.config.bounds import MAX_TEMPERATURE, MAX_WEIGHT, MIN_TEMPERATURE
from kdtune.config.fields import OF_STUDENT, Hyperparameter


@dataclass(frozen=True)
class ObjectiveFields:
    """The loss, alpha * CE + (1 - alpha) * D, and the hyperparameters of its terms."""

    loss: Annotated[
        str,
        Hyperparameter(unless={"alpha": 1}, choices=effects.objective_choices, commands=OF_STUDENT),
    ] = "kl"
    """Distillation loss: "kl" (KL divergence of the softened probabilities, times T squared), "mse"
    (of the logits), "dkd" (decoupled: label and other classes apart), "ls" (kl of standardised
    logits), "dist" (correlation of the probabilities), "nkd" (cross-entropy of the label, kl of the
    other classes), "features_mse" and "features_cosine" (of the inputs of the last layers, through
    a projector), your own as module:function, or a sum of two, "kl+dist" (see loss_weight)."""
    alpha: Annotated[float, Hyperparameter(low=0, high=1, commands=OF_STUDENT)] = 0.5
    """Weight of the cross-entropy with the labels; the distillation loss has weight 1 - alpha.
    1 is training without distillation, 0 uses the teacher only."""
    temperature: Annotated[
        float,
        Hyperparameter(
            low=MIN_TEMPERATURE, high=MAX_TEMPERATURE, of_objective=True, commands=OF_STUDENT
        ),
    ] = 4.0
    """Temperature T that divides the logits of student and teacher before the softmax."""
    teacher_temperature: Annotated[
        float | None,
        Hyperparameter(
            low=MIN_TEMPERATURE,
            high=MAX_TEMPERATURE,
            like="temperature",
            of_objective=True,
            commands=OF_STUDENT,
        ),
    ] = None
    """Temperature of the teacher's logits, where it is another than the student's. None: the same
    temperature."""
    dkd_alpha: Annotated[
        float, Hyperparameter(low=0, high=MAX_WEIGHT, of_objective=True, commands=OF_STUDENT)
    ] = 1.0
    """Weight of the target-class term of decoupled distillation (Zhao et al., 2022)."""
    dkd_beta: Annotated[
        float, Hyperparameter(low=0, high=MAX_WEIGHT, of_objective=True, commands=OF_STUDENT)
    ] = 8.0
    """Weight of the non-target-class term of decoupled distillation (Zhao et al., 2022)."""
    dist_beta: Annotated[
        float,
        Hyperparameter(low=0, high=MAX_WEIGHT, neutral=2, of_objective=True, commands=OF_STUDENT),
    ] = 2.0
    """Weight of the correlation over the classes of an image in the loss dist (Huang et al.,
    2022)."""
    dist_gamma: Annotated[
        float,
        Hyperparameter(low=0, high=MAX_WEIGHT, neutral=2, of_objective=True, commands=OF_STUDENT),
    ] = 2.0
    """Weight of the correlation over the images of a batch in the loss dist (Huang et al.,
    2022)."""
    nkd_gamma: Annotated[
        float,
        Hyperparameter(low=0, high=MAX_WEIGHT, neutral=1.5, of_objective=True, commands=OF_STUDENT),
    ] = 1.5
    """Weight of the classes other than the label in the loss nkd (Yang et al., 2023)."""
    loss_weight: Annotated[
        float,
        Hyperparameter(above=0, high=MAX_WEIGHT, neutral=1, of_objective=True, commands=OF_STUDENT),
    ] = 1.0
    """Weight of the second of two losses: A+B is A + loss_weight * B."""

"""Recipe of teachers that are given none, and the default study.

All other defaults are those of the fields of `Run` and `Study`.
"""

from typing import Any, Literal, assert_never

from kdtune.config.fields import OPTIMIZERS
from kdtune.config.run import Run
from kdtune.config.study import Study

WeightsKind = Literal["pretrained", "random", "finished"]
"""Weights that a teacher begins with: trained on other data, random, or trained on these data."""

_SHARED: dict[str, Any] = {
    "trainable": "all",
    "batch_norm": "train",
    "momentum": 0.9,
    "lr_step_size": 7,
    "lr_gamma": 0.1,
}
PRETRAINED: dict[str, Any] = {
    **_SHARED,
    "optimizer": "sgd",
    "schedule": "cosine",
    "epochs": 10,
    "batch_size": 32,
}
"""Recipe of a teacher with pretrained weights."""
FROM_SCRATCH: dict[str, Any] = {
    **_SHARED,
    "optimizer": "adamw",
    "schedule": "onecycle",
    "epochs": 30,
    "batch_size": 64,
}
"""Recipe of a teacher with random weights."""
TEACHER_RECIPE = (*PRETRAINED, "lr", "weight_decay")
"""Settings of the teacher's training that depend on the kind of its weights, without teacher_."""
_LR_OF = {
    "all layers of pretrained weights": "lr_pretrained",
    "the head of pretrained weights": "lr_head",
    "random weights": "lr_random",
}
"""Attribute of `OptimizerDeclaration` that is the learning rate, by what is trained."""
BATCH_NORM_OF_HEAD = "eval"
"""Mode of batch norm where only the head is trained: nothing of the backbone changes."""


def teacher_recipe(kind: WeightsKind, given: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a teacher, with defaults for everything that is not given.

    Args:
        kind: Of its initial weights.
        given: Values by name, without "teacher_"; None for those that are not given.
    """
    match kind:
        case "random":
            defaults, part = FROM_SCRATCH, "random weights"
        case "pretrained":
            defaults, part = PRETRAINED, "all layers of pretrained weights"
        case "finished":
            defaults, part = PRETRAINED | {"epochs": 0}, "all layers of pretrained weights"
        case _:
            assert_never(kind)
    values = {name: value for name, value in given.items() if value is not None}
    recipe = defaults | values
    if recipe["trainable"] == "head":
        recipe["batch_norm"] = values.get("batch_norm", BATCH_NORM_OF_HEAD)
        if kind != "random":
            part = "the head of pretrained weights"
    optimizer = OPTIMIZERS[recipe["optimizer"]]
    return {
        "lr": getattr(optimizer, _LR_OF[part]),
        "weight_decay": optimizer.weight_decay,
        **recipe,
    }


def describe_teacher_default(name: str) -> str:
    """Return the default of a part of the teacher's recipe as a sentence for --help; else ""."""
    if name == "lr":
        rates = [f"{_by_optimizer(attribute)} for {part}" for part, attribute in _LR_OF.items()]
        return f"None: {'; '.join(rates)}."
    if name == "weight_decay":
        return f"None: {_by_optimizer('weight_decay')}."
    if name not in PRETRAINED:
        return ""
    usual, scratch = PRETRAINED[name], FROM_SCRATCH[name]
    text = f"None: {usual}"
    if usual != scratch:
        text += f" for pretrained weights, {scratch} for random ones"
    if name == "epochs":
        text += ", 0 for a finished teacher of kdtune"
    if name == "batch_norm":
        text += f', "{BATCH_NORM_OF_HEAD}" where only the head is trained'
    return f"{text}."


def _by_optimizer(attribute: str) -> str:
    """Return a default of the optimizers in words: "0.1 (sgd, nesterov) or 0.01 (adamw)"."""
    names: dict[float, list[str]] = {}
    for name, declared in OPTIMIZERS.items():
        names.setdefault(getattr(declared, attribute), []).append(name)
    return " or ".join(f"{value:g} ({', '.join(words)})" for value, words in names.items())


def fashion() -> Study:
    """Return the default study: does distillation help with 300 labelled images of Fashion-MNIST?

    It has eight repeats, since four rarely reach significance after Holm's correction. A trial
    takes about two seconds on one core.
    """
    run = Run(
        train_images=300,
        teacher="kdtune.models:fashion_teacher",
        teacher_weights="none",
        teacher_epochs=20,
        teacher_lr=2e-2,
        teacher_optimizer="adamw",
        teacher_weight_decay=1e-2,
        teacher_schedule="onecycle",
        teacher_batch_size=64,
        student="kdtune.models:fashion_student",
        student_weights="none",
        optimizer="adamw",
        lr=2e-2,
        weight_decay=1e-2,
        schedule="onecycle",
        epochs=60,
        batch_size=64,
    )
    return Study(run=run, space={"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}, repeats=8)

"""Other tools' distillation losses as a table, and the conversion of their weights.

Most tools minimise ce · CE + distill · D with free weights. kdtune's loss is alpha · CE +
(1 - alpha) · D. So alpha = ce / (ce + distill), and the tool's loss is kdtune's, multiplied by
ce + distill.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from kdtune.config.fields import OPTIMIZERS, Optimizer, declarations
from kdtune.config.run import Run
from kdtune.config.text import InputError

Parameters = Mapping[str, float | str]
"""Values of a tool's parameters by the tool's names, numbers or words."""

LEAST, MOST = 1e-9, 1e9
"""Bounds on weights other than 0, so that their quotients are finite."""


@dataclass(frozen=True)
class Convention:
    """Parameters and loss of another tool. A weight is a number, "NAME" or "1 - NAME"."""

    title: str
    """Its name, and where the loss is."""
    formula: str
    """Its loss in its own names; CE, KL and MSE are means over the images of a batch."""
    signature: str
    """The parameters with their defaults: "gamma=1, alpha, kd_T=4"; optional ones in []."""
    ce: str | float = 1.0
    """Weight of the cross-entropy."""
    distill: str | float = 1.0
    """Weight of the distillation term."""
    temperature: str = ""
    """Parameter that is the temperature T."""
    loss: str = "kl"
    """kdtune's name of the distillation term."""
    squared: bool = True
    """Whether the tool's term has the factor T²."""
    per_class: bool = False
    """Whether the tool divides its term by the number of classes, `num_classes`."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Further hyperparameters of the term by kdtune's names, as parameters of the tool."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Words that parameters may be. One whose default is a word is never a number."""
    note: str = ""
    """What else differs, in a sentence."""
    cases: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)
    """What a value of a parameter changes, in this order: "NAME=VALUE" ("NAME=": not given) or
    "NAME>VALUE", with other values of these fields, or with why kdtune has no equal loss."""


# Each was read in the tool's code, at the commit that docs/conventions.md names. A new tool is one
# entry here and a formula in tests/training/test_conventions.py.

_SECOND_HEAD = "a second head of the student, which kdtune's students do not have"
_REDUCTIONS = {"reduction": ("batchmean", "mean", "sum")}
_REDUCTION_CASES: Mapping[str, Mapping[str, Any] | str] = {
    "reduction=sum": "with reduction=sum a batch counts by its number of images, so that the last, "
    "smaller one counts less; use batchmean there, with the learning rate times the batch size",
    "reduction=mean": {"per_class": True},
}
_KL_ALONE = {
    "ce": 0.0,
    "distill": 1.0,
    "squared": False,
    "note": "At alpha = 0 or None, torchdistill's KDLoss leaves out T² and beta.",
}

CONVENTIONS = {
    "repdistiller": Convention(
        title="RepDistiller, train_student.py --distill kd",
        formula="gamma · CE + alpha · kd_T² · KL",
        signature="gamma=1, alpha, kd_T=4, beta=0",
        ce="gamma",
        distill="alpha",
        temperature="kd_T",
        cases={
            "beta>0": "beta is the weight of another method's loss, on features; for --distill kd "
            "it has no effect (beta=0)"
        },
    ),
    "mdistiller": Convention(
        title="mdistiller, distiller KD",
        formula="CE_WEIGHT · CE + KD_WEIGHT · TEMPERATURE² · KL",
        signature="KD.LOSS.CE_WEIGHT=0.1, KD.LOSS.KD_WEIGHT=0.9, KD.TEMPERATURE=4",
        ce="KD.LOSS.CE_WEIGHT",
        distill="KD.LOSS.KD_WEIGHT",
        temperature="KD.TEMPERATURE",
    ),
    "mdistiller-dkd": Convention(
        title="mdistiller, distiller DKD",
        formula="CE_WEIGHT · CE + min(epoch / WARMUP, 1) · T² · (ALPHA · TCKD + BETA · NCKD)",
        signature="DKD.CE_WEIGHT=1, DKD.ALPHA=1, DKD.BETA=8, DKD.T=4, DKD.WARMUP=20",
        ce="DKD.CE_WEIGHT",
        temperature="DKD.T",
        loss="dkd",
        others={"dkd_alpha": "DKD.ALPHA", "dkd_beta": "DKD.BETA"},
        note="mdistiller multiplies the distillation term by epoch / %(DKD.WARMUP)g until epoch "
        "%(DKD.WARMUP)g, which kdtune does not do: the losses are equal from then on.",
        cases={"DKD.WARMUP=1": {"note": ""}},
    ),
    "logit-standardization": Convention(
        title="logit-standardization-KD, train.py --logit-stand, distiller KD",
        formula="CE_WEIGHT · CE + kd_weight · base_temp² · KL of standardised logits",
        signature="KD.LOSS.CE_WEIGHT=0.1, kd_weight=9, base_temp=2",
        ce="KD.LOSS.CE_WEIGHT",
        distill="kd_weight",
        temperature="base_temp",
        loss="ls",
    ),
    "torchdistill": Convention(
        title="torchdistill, KDLoss",
        formula="alpha · CE + beta · temperature² · KL; KL alone at alpha = 0 or None",
        signature="alpha, temperature, [beta], reduction=batchmean, [num_classes]",
        ce="alpha",
        distill="beta",
        temperature="temperature",
        words={"alpha": ("None",), **_REDUCTIONS},
        cases={
            **_REDUCTION_CASES,
            "beta=": {"distill": "1 - alpha"},
            "alpha=0": _KL_ALONE,
            "alpha=None": _KL_ALONE,
        },
    ),
    "timm": Convention(
        title="timm, train.py --kd-model-name",
        formula="task_loss_weight · CE + distill_loss_weight · kd_temperature² · KL",
        signature="[task_loss_weight], [distill_loss_weight], kd_temperature=4, "
        "kd_distill_type=logit, smoothing=0.1",
        ce="task_loss_weight",
        distill="distill_loss_weight",
        temperature="kd_temperature",
        words={"kd_distill_type": ("logit", "feature", "token")},
        cases={
            "kd_distill_type=feature": "kd_distill_type=feature compares features, not logits",
            "kd_distill_type=token": f"kd_distill_type=token compares the teacher with "
            f"{_SECOND_HEAD}",
            "distill_loss_weight=": {
                "distill": "1 - task_loss_weight",
                "note": "distill_loss_weight is 1 - task_loss_weight if it is not given.",
            },
            # without both weights, each is 1
            "task_loss_weight=": {"ce": 1.0, "note": ""},
        },
    ),
    "hinton": Convention(
        title="Hinton et al. (2015), or a loss of your own",
        formula="hard_weight · CE + soft_weight · temperature² · KL; "
        "t_squared=no: without temperature²",
        signature="hard_weight, soft_weight, temperature, t_squared=yes, reduction=batchmean, "
        "[num_classes]",
        ce="hard_weight",
        distill="soft_weight",
        temperature="temperature",
        words={"t_squared": ("yes", "no"), **_REDUCTIONS},
        cases={**_REDUCTION_CASES, "t_squared=no": {"squared": False}},
    ),
    "huggingface": Convention(
        title="Transformers, guide on image classification",
        formula="(1 - lambda_param) · CE + lambda_param · temperature² · KL",
        signature="lambda_param, temperature",
        ce="1 - lambda_param",
        distill="lambda_param",
        temperature="temperature",
    ),
    "pytorch": Convention(
        title="PyTorch, tutorial on knowledge distillation",
        formula="ce_loss_weight · CE + soft_target_loss_weight · T² · KL",
        signature="ce_loss_weight=0.75, soft_target_loss_weight=0.25, T=2",
        ce="ce_loss_weight",
        distill="soft_target_loss_weight",
        temperature="T",
    ),
    "deit": Convention(
        title="DeiT, main.py",
        formula="(1 - distillation_alpha) · CE + distillation_alpha · distillation_tau² · KL / "
        "num_classes",
        signature="distillation_type=none, distillation_alpha=0.5, distillation_tau=1, "
        "smoothing=0.1, [num_classes]",
        ce="1 - distillation_alpha",
        distill="distillation_alpha",
        temperature="distillation_tau",
        per_class=True,
        words={"distillation_type": ("none", "soft", "hard")},
        note=f"DeiT divides KL by the number of classes, and compares the teacher with "
        f"{_SECOND_HEAD}: the losses are equal for a student whose two heads are one.",
        cases={
            "distillation_type=none": {"ce": 1.0, "distill": 0.0, "per_class": False, "note": ""},
            "distillation_type=hard": "distillation_type=hard trains on the teacher's class, not "
            "on its probabilities",
        },
    ),
    "haitongli": Convention(
        title="haitongli/knowledge-distillation-pytorch, loss_fn_kd",
        formula="(1 - alpha) · CE + alpha · temperature² · KL / num_classes",
        signature="alpha, temperature, num_classes=10",
        ce="1 - alpha",
        distill="alpha",
        temperature="temperature",
        per_class=True,
        note="nn.KLDivLoss() divides by the number of classes, too.",
    ),
    "keras": Convention(
        title="Keras, Distiller with LogitsDistillation",
        formula="student_loss_weight · CE + (1 - student_loss_weight) · temperature² · KL",
        signature="student_loss_weight=0.5, temperature=3, loss=kl_divergence",
        ce="student_loss_weight",
        distill="1 - student_loss_weight",
        temperature="temperature",
        words={"loss": ("kl_divergence", "mean_squared_error", "categorical_crossentropy")},
        note="Keras clips probabilities below 1e-7, kdtune does not.",
        cases={
            # of logits / T, without T²
            "loss=mean_squared_error": {"loss": "mse", "squared": False, "note": ""},
            "loss=categorical_crossentropy": "LogitsDistillation gives categorical_crossentropy "
            "the logits, not the probabilities",
        },
    ),
    "textbrewer": Convention(
        title="TextBrewer, DistillationConfig",
        formula="hard_label_weight · CE + kd_loss_weight · KL; kd_loss_type=mse: MSE of logits / T "
        "for KL",
        signature="hard_label_weight=0, kd_loss_weight=1, temperature=4, kd_loss_type=ce",
        ce="hard_label_weight",
        distill="kd_loss_weight",
        temperature="temperature",
        squared=False,
        words={"kd_loss_type": ("ce", "mse")},
        note="TextBrewer leaves out T².",
        # the cross-entropy with the teacher is KL plus a constant
        cases={"kd_loss_type=mse": {"loss": "mse"}},
    ),
    "kd_lib": Convention(
        title="KD_Lib, VanillaKD",
        formula="(1 - distil_weight) · CE + distil_weight · temp² · loss_fn of probabilities",
        signature="distil_weight=0.5, temp=20, loss_fn=MSELoss",
        temperature="temp",
        words={"loss_fn": ("MSELoss", "KLDivLoss")},
        cases={
            "loss_fn=MSELoss": "VanillaKD compares probabilities by their squared difference, "
            "whose gradient is not that of KL or of the squared difference of logits at any "
            "temperature",
            "loss_fn=KLDivLoss": "VanillaKD gives KLDivLoss probabilities, where it takes their "
            "logarithms",
        },
    ),
}
"""The tools by the name that `--from` takes."""


@dataclass(frozen=True)
class Conversion:
    """kdtune's hyperparameters whose loss is another tool's loss divided by `scale`."""

    hyperparameters: Mapping[str, float | str]
    """loss, alpha, temperature and others that have an effect, by the names of `Run`'s fields."""
    scale: float
    """The tool's loss divided by kdtune's; its gradient likewise."""
    note: str
    """What else differs, in a sentence, or ""."""


def convert(tool: str, given: Mapping[str, str]) -> Conversion:
    """Return the hyperparameters whose loss equals a tool's but for a factor.

    Args:
        tool: A key of `CONVENTIONS`.
        given: Values of the tool's parameters as text; the others have its defaults.

    Raises:
        InputError: There is no such tool or parameter, a value is missing or not allowed, or no
            hyperparameters of kdtune make the losses equal.
    """
    if tool not in CONVENTIONS:
        raise InputError(
            f"--from must be one of {', '.join(CONVENTIONS)}, but got "
            f"{tool or 'none'}{_nearest(tool, CONVENTIONS)}"
        )
    values = _values(tool, given)
    convention = CONVENTIONS[tool]
    for case, change in convention.cases.items():
        if not _holds(case, values):
            continue
        if isinstance(change, str):
            raise _no_equal(tool, change)
        convention = replace(convention, **change)
    weights = [_weight(weight, values) for weight in (convention.ce, convention.distill)]
    for weight, text in zip(weights, (convention.ce, convention.distill), strict=True):
        if weight < 0:
            raise _no_equal(tool, f"the weight {text} is negative")
    return _conversion(tool, convention, values, *weights)


def converted_training(
    scale: float, optimizer: Optimizer, training: Mapping[str, float]
) -> dict[str, float]:
    """Return lr, weight_decay and clip_norm for a loss that is 1 / scale of the tool's.

    SGD's step is lr * (gradient + weight_decay * weights), also within its momentum: it is the same
    with lr times the scale and weight_decay divided by it. AdamW's step divides the gradient by its
    own size, and decays the weights by lr * weight_decay: neither changes.

    Args:
        scale: The tool's loss divided by kdtune's.
        optimizer: A key of `OPTIMIZERS`.
        training: The tool's values, by the names of `Run`'s fields.
    """
    factors = {"clip_norm": 1 / scale}
    if OPTIMIZERS[optimizer].scales_with_loss:
        factors |= {"lr": scale, "weight_decay": 1 / scale}
    return {name: value * factors.get(name, 1.0) for name, value in training.items()}


def _conversion(
    tool: str, convention: Convention, values: Parameters, ce: float, distill: float
) -> Conversion:
    """Return the hyperparameters of a convention; those without an effect are left out."""
    temperature = values[convention.temperature]
    if convention.per_class:
        distill /= _number_of_classes(values)
    if not convention.squared:
        distill /= float(temperature) ** 2
    scale = ce + distill
    if scale == 0:
        raise InputError(f"a weight must be greater than 0, but both of {tool} are 0")
    converted: dict[str, float | str] = {"alpha": ce / scale}
    if distill > 0:
        converted = {"loss": convention.loss, **converted}
        if convention.loss != "mse":
            converted["temperature"] = temperature
        converted |= {name: values[other] for name, other in convention.others.items()}
    notes = [convention.note % values]
    if values.get("smoothing", 0):
        notes.append("Its cross-entropy has label smoothing, 0.1 unless --smoothing is given.")
        if ce > 0:
            converted["label_smoothing"] = values["smoothing"]
    for name, value in converted.items():
        declarations(Run)[name].check(value)
    return Conversion(converted, scale, " ".join(filter(None, notes)))


def _holds(case: str, values: Parameters) -> bool:
    """Return True if the values fulfil the condition of a case, see `Convention.cases`."""
    if ">" in case:
        name, _, bound = case.partition(">")
        return float(values[name]) > float(bound)
    name, _, word = case.partition("=")
    value = values.get(name, "")
    return word == (value if isinstance(value, str) else f"{value:g}")


def _weight(weight: str | float, values: Parameters) -> float:
    """Return the value of a weight, see `Convention`."""
    if not isinstance(weight, str):
        return weight
    if weight.startswith("1 - "):
        return 1 - float(values.get(weight.removeprefix("1 - "), 0))
    return float(values[weight])


def _no_equal(tool: str, reason: str) -> InputError:
    return InputError(f"no alpha and temperature make kdtune's loss equal to {tool}'s: {reason}")


def _number_of_classes(values: Parameters) -> float:
    number = float(values.get("num_classes", 0))
    if number < 2:
        raise InputError(
            "num_classes must be given, 2 or more: the tool divides KL by it (num_classes=100)"
        )
    return number


def _values(tool: str, given: Mapping[str, str]) -> Parameters:
    """Return the values of a tool's parameters; raise InputError for what does not fit them."""
    convention = CONVENTIONS[tool]
    defaults = {}  # by parameter; "" if there is none
    for parameter in convention.signature.split(", "):
        name, _, defaults_to = parameter.strip("[]").partition("=")
        defaults[name] = defaults_to
    if unknown := [name for name in given if name not in defaults]:
        raise InputError(
            f"NAME=VALUE must be a parameter of {tool} ({convention.signature}), but got "
            f"{unknown[0]}{_nearest(unknown[0], defaults)}"
        )
    values: dict[str, float | str] = {}
    for name, default in defaults.items():
        if text := given.get(name, default):
            words = convention.words.get(name, ())
            is_number = default not in words
            values[name] = _value(name, text, words, is_number, name == convention.temperature)
        elif f"[{name}]" not in convention.signature:
            raise InputError(
                f"{name} must be given, since {tool} has no default for it; its parameters are "
                f"{convention.signature}"
            )
    return values


def _value(
    name: str, text: str, words: tuple[str, ...], is_number: bool, is_positive: bool
) -> float | str:
    """Return the value of a parameter; raise InputError if it is not allowed."""
    if text in words:
        return text
    try:
        value = float(text) if is_number else -1.0
    except ValueError:
        value = -1.0
    if LEAST <= value <= MOST or (value == 0 and not is_positive):
        return value
    if value > 0:
        raise InputError(f"{name} must lie between {LEAST:g} and {MOST:g}, but got {name}={text}")
    numbers = ["a number greater than 0" if is_positive else "a number of 0 or more"] * is_number
    raise InputError(f"{name} must be {' or '.join([*words, *numbers])}, but got {name}={text}")


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""

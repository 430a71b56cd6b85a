"""Other tools' distillation losses: a table, and the conversion of their weights."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from kdtune.config.fields import declarations
from kdtune.config.run import Run
from kdtune.config.text import InputError

# Form of an entry of `conventions.CONVENTIONS`: parameters and loss of another tool.


Parameters = Mapping[str, Any]
"""Values of a tool's parameters by its own names, numbers or words."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of another tool, under the tool's own name."""

    name: str
    default: float | str | None = None
    """The tool's default. None: it has none."""
    words: tuple[str, ...] = ()
    """Words that it may be."""
    number: bool = True
    """Whether it may be a number of 0 or more."""
    positive: bool = False
    """Whether the number must be greater than 0."""
    optional: bool = False
    """Whether it may be left out although it has no default."""

    def __str__(self) -> str:
        if self.default is not None:
            shown = self.default if isinstance(self.default, str) else f"{self.default:g}"
            return f"{self.name}={shown}"
        return f"[{self.name}]" if self.optional else self.name


@dataclass(frozen=True)
class Terms:
    """A tool's loss as ce * CE + distill * D, with D an objective of kdtune."""

    ce: float
    distill: float
    temperature: float | None = None
    loss: str = "kl"
    label_smoothing: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)
    """Further hyperparameters of D."""
    note: str = ""
    """What else differs, in a sentence."""


@dataclass(frozen=True)
class Convention:
    """Parameters and loss of another tool."""

    title: str
    """Its name, and where the loss is."""
    formula: str
    """Its loss in its own names; CE, KL and MSE are means over the images of a batch."""
    parameters: tuple[Parameter, ...]
    terms: Callable[[Parameters], Terms | str]
    """Pure function of the parameters: the loss in kdtune's terms, or why there is no equal."""

    @property
    def signature(self) -> str:
        """The parameters with their defaults: "gamma=1, alpha, kd_T=4"; optional ones in []."""
        return ", ".join(map(str, self.parameters))


# Table of other tools' distillation losses, in their own names and in kdtune's terms.
#
# Each was read in the tool's code, at the commit that docs/conventions.md names. A new tool is
# one
# entry of `CONVENTIONS` and a formula in tests/training/test_conventions.py.


_SECOND_HEAD = "a second head of the student, which kdtune's students do not have"
_SUM = (
    "with reduction=sum a batch counts by its number of images, so that the last, smaller one "
    "counts less; use batchmean there, with the learning rate times the batch size"
)


def _repdistiller(p: Parameters) -> Terms | str:
    if p["beta"] > 0:
        return (
            "beta is the weight of another method's loss, on features; for --distill kd it has "
            "no effect (beta=0)"
        )
    return Terms(p["gamma"], p["alpha"], p["kd_T"])


def _mdistiller(p: Parameters) -> Terms:
    return Terms(p["KD.LOSS.CE_WEIGHT"], p["KD.LOSS.KD_WEIGHT"], p["KD.TEMPERATURE"])


def _mdistiller_dkd(p: Parameters) -> Terms:
    warmup, others = p["DKD.WARMUP"], {"dkd_alpha": p["DKD.ALPHA"], "dkd_beta": p["DKD.BETA"]}
    note = (
        f"mdistiller multiplies the distillation term by epoch / {warmup:g} until epoch "
        f"{warmup:g}, which kdtune does not do: the losses are equal from then on."
    )
    return Terms(
        p["DKD.CE_WEIGHT"], 1.0, p["DKD.T"], "dkd", others=others, note=note if warmup > 1 else ""
    )


def _logit_standardization(p: Parameters) -> Terms:
    return Terms(p["KD.LOSS.CE_WEIGHT"], p["kd_weight"], p["base_temp"], "ls")


def _torchdistill(p: Parameters) -> Terms | str:
    if p["reduction"] == "sum":
        return _SUM
    t, share = p["temperature"], _share_of_class(p)
    if p["alpha"] in (0, "None"):
        note = "At alpha = 0 or None, torchdistill's KDLoss leaves out T² and beta."
        return Terms(0.0, share / t**2, t, note=note)
    if "beta" not in p and p["alpha"] > 1:
        return "beta is 1 - alpha by default, which is negative for an alpha greater than 1"
    return Terms(p["alpha"], p.get("beta", 1 - p["alpha"]) * share, t)


def _timm(p: Parameters) -> Terms | str:
    if p["kd_distill_type"] == "feature":
        return "kd_distill_type=feature compares features, not logits"
    if p["kd_distill_type"] == "token":
        return f"kd_distill_type=token compares the teacher with {_SECOND_HEAD}"
    task, distill = p.get("task_loss_weight"), p.get("distill_loss_weight")
    if distill is None and task is not None and task > 1:
        return (
            "distill_loss_weight is 1 - task_loss_weight if it is not given, which is negative for "
            "a task_loss_weight greater than 1"
        )
    note = _smoothed(p)
    if distill is None:
        distill = 1.0 if task is None else 1 - task
        note += " distill_loss_weight is 1 - task_loss_weight if it is not given." * bool(task)
    ce = 1.0 if task is None else task
    return Terms(
        ce, distill, p["kd_temperature"], label_smoothing=p["smoothing"], note=note.strip()
    )


def _hinton(p: Parameters) -> Terms | str:
    if p["reduction"] == "sum":
        return _SUM
    t = p["temperature"]
    size = _share_of_class(p) / (1 if p["t_squared"] == "yes" else t**2)
    return Terms(p["hard_weight"], p["soft_weight"] * size, t)


def _huggingface(p: Parameters) -> Terms | str:
    weight = p["lambda_param"]
    return Terms(1 - weight, weight, p["temperature"]) if weight <= 1 else _above_1("lambda_param")


def _pytorch(p: Parameters) -> Terms:
    return Terms(p["ce_loss_weight"], p["soft_target_loss_weight"], p["T"])


def _deit(p: Parameters) -> Terms | str:
    kind, weight = p["distillation_type"], p["distillation_alpha"]
    if kind == "none":
        return Terms(1.0, 0.0, label_smoothing=p["smoothing"])
    if kind == "hard":
        return "distillation_type=hard trains on the teacher's class, not on its probabilities"
    if weight > 1:
        return _above_1("distillation_alpha")
    note = (
        f"DeiT divides KL by the number of classes, and compares the teacher with {_SECOND_HEAD}: "
        f"the losses are equal for a student whose two heads are one. {_smoothed(p)}"
    )
    share = weight / _number_of_classes(p)
    return Terms(
        1 - weight, share, p["distillation_tau"], label_smoothing=p["smoothing"], note=note.strip()
    )


def _haitongli(p: Parameters) -> Terms | str:
    if p["alpha"] > 1:
        return _above_1("alpha")
    note = "nn.KLDivLoss() divides by the number of classes, too."
    return Terms(1 - p["alpha"], p["alpha"] / _number_of_classes(p), p["temperature"], note=note)


def _keras(p: Parameters) -> Terms | str:
    weight, t = p["student_loss_weight"], p["temperature"]
    if weight > 1:
        return _above_1("student_loss_weight")
    if p["loss"] == "mean_squared_error":  # of logits / T, without T²
        return Terms(weight, (1 - weight) / t**2, loss="mse")
    if p["loss"] != "kl_divergence":
        return f"LogitsDistillation gives {p['loss']} the logits, not the probabilities"
    note = "Keras clips probabilities below 1e-7, kdtune does not."
    return Terms(weight, 1 - weight, t, note=note)


def _textbrewer(p: Parameters) -> Terms:
    # neither loss has T²; the cross-entropy with the teacher is KL plus a constant
    loss, t = "kl" if p["kd_loss_type"] == "ce" else "mse", p["temperature"]
    note = "TextBrewer leaves out T²."
    distill = p["kd_loss_weight"] / t**2
    return Terms(p["hard_label_weight"], distill, t if loss == "kl" else None, loss, note=note)


def _kd_lib(p: Parameters) -> str:
    return {
        "MSELoss": "VanillaKD compares probabilities by their squared difference, whose gradient "
        "is not that of KL or of the squared difference of logits at any temperature",
        "KLDivLoss": "VanillaKD gives KLDivLoss probabilities, where it takes their logarithms",
    }[p["loss_fn"]]


def _share_of_class(p: Parameters) -> float:
    """Return 1 / K where KL is a mean over the classes, too; else 1."""
    return 1 / _number_of_classes(p) if p["reduction"] == "mean" else 1.0


def _number_of_classes(p: Parameters) -> float:
    if p.get("num_classes", 0) < 2:
        raise InputError(
            "num_classes must be given, 2 or more: the tool divides KL by it (num_classes=100)"
        )
    return float(p["num_classes"])


def _smoothed(p: Parameters) -> str:
    if p["smoothing"] == 0:
        return ""
    return "Its cross-entropy has label smoothing, 0.1 unless --smoothing is given."


def _above_1(name: str) -> str:
    return f"the weight 1 - {name} is negative for a {name} greater than 1"


def _weight(name: str, default: float | None = None) -> Parameter:
    return Parameter(name, default)


def _maybe(name: str) -> Parameter:
    return Parameter(name, optional=True)


def _divisor(name: str, default: float | None = None) -> Parameter:
    return Parameter(name, default, positive=True)


def _word(name: str, default: str, *others: str) -> Parameter:
    return Parameter(name, default, (default, *others), number=False)


_REDUCTION = (_word("reduction", "batchmean", "mean", "sum"), _maybe("num_classes"))
_KERAS_LOSSES = ("kl_divergence", "mean_squared_error", "categorical_crossentropy")

CONVENTIONS = {
    "repdistiller": Convention(
        "RepDistiller, train_student.py --distill kd",
        "gamma · CE + alpha · kd_T² · KL",
        (_weight("gamma", 1), _weight("alpha"), _divisor("kd_T", 4), _weight("beta", 0)),
        _repdistiller,
    ),
    "mdistiller": Convention(
        "mdistiller, distiller KD",
        "CE_WEIGHT · CE + KD_WEIGHT · TEMPERATURE² · KL",
        (
            *(_weight("KD.LOSS.CE_WEIGHT", 0.1), _weight("KD.LOSS.KD_WEIGHT", 0.9)),
            _divisor("KD.TEMPERATURE", 4),
        ),
        _mdistiller,
    ),
    "mdistiller-dkd": Convention(
        "mdistiller, distiller DKD",
        "CE_WEIGHT · CE + min(epoch / WARMUP, 1) · T² · (ALPHA · TCKD + BETA · NCKD)",
        (
            *(_weight("DKD.CE_WEIGHT", 1), _weight("DKD.ALPHA", 1), _weight("DKD.BETA", 8)),
            *(_divisor("DKD.T", 4), _divisor("DKD.WARMUP", 20)),
        ),
        _mdistiller_dkd,
    ),
    "logit-standardization": Convention(
        "logit-standardization-KD, train.py --logit-stand, distiller KD",
        "CE_WEIGHT · CE + kd_weight · base_temp² · KL of standardised logits",
        (_weight("KD.LOSS.CE_WEIGHT", 0.1), _weight("kd_weight", 9), _divisor("base_temp", 2)),
        _logit_standardization,
    ),
    "torchdistill": Convention(
        "torchdistill, KDLoss",
        "alpha · CE + beta · temperature² · KL; KL alone at alpha = 0 or None",
        (
            Parameter("alpha", words=("None",)),
            *(_divisor("temperature"), _maybe("beta"), *_REDUCTION),
        ),
        _torchdistill,
    ),
    "timm": Convention(
        "timm, train.py --kd-model-name",
        "task_loss_weight · CE + distill_loss_weight · kd_temperature² · KL",
        (
            *(_maybe("task_loss_weight"), _maybe("distill_loss_weight")),
            *(_divisor("kd_temperature", 4), _word("kd_distill_type", "logit", "feature", "token")),
            _weight("smoothing", 0.1),
        ),
        _timm,
    ),
    "hinton": Convention(
        "Hinton et al. (2015), or a loss of your own",
        "hard_weight · CE + soft_weight · temperature² · KL; t_squared=no: without temperature²",
        (
            *(_weight("hard_weight"), _weight("soft_weight"), _divisor("temperature")),
            *(_word("t_squared", "yes", "no"), *_REDUCTION),
        ),
        _hinton,
    ),
    "huggingface": Convention(
        "Transformers, guide on image classification",
        "(1 - lambda_param) · CE + lambda_param · temperature² · KL",
        (_weight("lambda_param"), _divisor("temperature")),
        _huggingface,
    ),
    "pytorch": Convention(
        "PyTorch, tutorial on knowledge distillation",
        "ce_loss_weight · CE + soft_target_loss_weight · T² · KL",
        (
            *(_weight("ce_loss_weight", 0.75), _weight("soft_target_loss_weight", 0.25)),
            _divisor("T", 2),
        ),
        _pytorch,
    ),
    "deit": Convention(
        "DeiT, main.py",
        "(1 - distillation_alpha) · CE + distillation_alpha · distillation_tau² · KL / num_classes",
        (
            _word("distillation_type", "none", "soft", "hard"),
            *(_weight("distillation_alpha", 0.5), _divisor("distillation_tau", 1)),
            *(_weight("smoothing", 0.1), _maybe("num_classes")),
        ),
        _deit,
    ),
    "haitongli": Convention(
        "haitongli/knowledge-distillation-pytorch, loss_fn_kd",
        "(1 - alpha) · CE + alpha · temperature² · KL / num_classes",
        (_weight("alpha"), _divisor("temperature"), _weight("num_classes", 10)),
        _haitongli,
    ),
    "keras": Convention(
        "Keras, Distiller with LogitsDistillation",
        "student_loss_weight · CE + (1 - student_loss_weight) · temperature² · KL",
        (
            *(_weight("student_loss_weight", 0.5), _divisor("temperature", 3)),
            _word("loss", *_KERAS_LOSSES),
        ),
        _keras,
    ),
    "textbrewer": Convention(
        "TextBrewer, DistillationConfig",
        "hard_label_weight · CE + kd_loss_weight · KL; kd_loss_type=mse: MSE of logits / T for KL",
        (
            *(_weight("hard_label_weight", 0), _weight("kd_loss_weight", 1)),
            *(_divisor("temperature", 4), _word("kd_loss_type", "ce", "mse")),
        ),
        _textbrewer,
    ),
    "kd_lib": Convention(
        "KD_Lib, VanillaKD",
        "(1 - distil_weight) · CE + distil_weight · temp² · loss_fn of probabilities",
        (
            *(_weight("distil_weight", 0.5), _divisor("temp", 20)),
            _word("loss_fn", "MSELoss", "KLDivLoss"),
        ),
        _kd_lib,
    ),
}
"""The tools by the name that `--from` takes."""


# Conversion of another tool's weights: kdtune's hyperparameters with the same gradients.
#
# Most tools minimise ce * CE + distill * D with free weights. kdtune's loss is alpha * CE +
# (1 - alpha) * D. So alpha = ce / (ce + distill), and the tool's loss is kdtune's, multiplied by
# ce + distill.


LEAST, MOST = 1e-9, 1e9
"""Bounds on weights other than 0, so that their quotients are finite."""


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
    terms = CONVENTIONS[tool].terms(_values(tool, CONVENTIONS[tool], given))
    if isinstance(terms, str):
        raise InputError(f"no alpha and temperature make kdtune's loss equal to {tool}'s: {terms}")
    if terms.ce + terms.distill == 0:
        raise InputError(f"a weight must be greater than 0, but both of {tool} are 0")
    return _conversion(terms)


def converted_training(
    scale: float, optimizer: str, training: Mapping[str, float]
) -> dict[str, float]:
    """Return lr, weight_decay and clip_norm for a loss that is 1 / scale of the tool's.

    SGD's step is lr * (gradient + weight_decay * weights), also within its momentum: it is the same
    with lr times the scale and weight_decay divided by it. AdamW's step divides the gradient by its
    own size, and decays the weights by lr * weight_decay: neither changes.

    Args:
        scale: The tool's loss divided by kdtune's.
        optimizer: "sgd", "nesterov" or "adamw".
        training: The tool's values, by the names of `Run`'s fields.
    """
    factors = {"clip_norm": 1 / scale}
    if optimizer != "adamw":
        factors |= {"lr": scale, "weight_decay": 1 / scale}
    return {name: value * factors.get(name, 1.0) for name, value in training.items()}


def _conversion(terms: Terms) -> Conversion:
    """Return the hyperparameters of terms; those without an effect are left out."""
    scale = terms.ce + terms.distill
    found: dict[str, float | str] = {"alpha": terms.ce / scale}
    if terms.distill > 0:
        found = {"loss": terms.loss, **found}
        if terms.temperature is not None:
            found["temperature"] = terms.temperature
        found |= terms.others
    if terms.ce > 0 and terms.label_smoothing > 0:
        found["label_smoothing"] = terms.label_smoothing
    for name, value in found.items():
        declarations(Run)[name].check(value)
    return Conversion(found, scale, terms.note)


def _values(tool: str, convention: Convention, given: Mapping[str, str]) -> Parameters:
    """Return the values of a tool's parameters; raise InputError for what does not fit them."""
    names = [parameter.name for parameter in convention.parameters]
    if unknown := [name for name in given if name not in names]:
        raise InputError(
            f"NAME=VALUE must be a parameter of {tool} ({convention.signature}), but got "
            f"{unknown[0]}{_nearest(unknown[0], names)}"
        )
    values: dict[str, float | str] = {}
    for parameter in convention.parameters:
        if parameter.name in given:
            values[parameter.name] = _value(parameter, given[parameter.name])
        elif parameter.default is not None:
            values[parameter.name] = parameter.default
        elif not parameter.optional:
            raise InputError(
                f"{parameter.name} must be given, since {tool} has no default for it; its "
                f"parameters are {convention.signature}"
            )
    return values


def _value(parameter: Parameter, text: str) -> float | str:
    """Return the value of a parameter; raise InputError if it is not allowed."""
    if text in parameter.words:
        return text
    try:
        value = float(text) if parameter.number else -1.0
    except ValueError:
        value = -1.0
    if LEAST <= value <= MOST or (value == 0 and not parameter.positive):
        return value
    if value > 0 and parameter.number:
        raise InputError(
            f"{parameter.name} must lie between {LEAST:g} and {MOST:g}, but got "
            f"{parameter.name}={text}"
        )
    number = ["a number greater than 0" if parameter.positive else "a number of 0 or more"]
    allowed = " or ".join([*parameter.words, *(number if parameter.number else [])])
    raise InputError(f"{parameter.name} must be {allowed}, but got {parameter.name}={text}")


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""

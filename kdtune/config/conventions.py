"""Table of other tools' distillation losses, in their own names and in kdtune's terms.

Each was read in the tool's code, at the commit that docs/conventions.md names. A new tool is one
entry of `CONVENTIONS` and a formula in tests/training/test_conventions.py.
"""

from kdtune.config.convention import Convention, Parameter, Parameters, Terms
from kdtune.config.errors import InputError

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

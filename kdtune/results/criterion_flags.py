"""The criterion that flags of analysis and report ask for, and its baseline."""

from collections.abc import Collection

from kdtune.config.cost import Limits
from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.config.flags import AnalysisFlags, ReportFlags
from kdtune.config.hyperparameters import Range
from kdtune.config.study import Study
from kdtune.results.comparison import Criterion
from kdtune.results.study_data import StudyData


def criterion_of(flags: AnalysisFlags | ReportFlags, results: StudyData) -> Criterion:
    """Return the criterion that flags ask for in a study.

    Raises:
        InputError: The study has no such metric or baseline.
    """
    baseline = baseline_of_study(flags.baseline, results.study)
    limits = Limits(flags.max_ms, flags.max_params)
    if limits and not results.task.is_distillation:
        raise InputError(
            "--max-ms and --max-params are limits on students, but the study is of a training "
            "function; leave them out"
        )
    criterion = results.criterion(flags.metric or "", flags.scope, baseline, limits)
    check_baseline(criterion, results.study)
    return criterion


def criterion_for_several(flags: AnalysisFlags | ReportFlags) -> Criterion:
    """Return the criterion that flags ask for in several studies of distillation."""
    baseline = baseline_of_study(flags.baseline, Study())
    limits = Limits(flags.max_ms, flags.max_params)
    return Criterion(flags.metric or "", flags.scope, baseline, limits)


def check_baseline(criterion: Criterion, study: Study) -> None:
    """Raise InputError if no configuration of the study can be the baseline.

    The default, training without distillation, is not checked: a study may do without it.
    """
    task = study.task
    for name, value in {} if criterion.has_plain_baseline else criterion.fixed.items():
        values = study.values(name)
        if isinstance(values, Range):
            known = not isinstance(value, str) and values.low <= value <= values.high
        else:
            known = value in values
        # samplers add alpha = 1 even if the list or range of alphas does not hold it
        known = known or (study.has_plain and task.baseline.get(name) == value)
        if not known:
            shown = values if isinstance(values, Range) else ", ".join(map(str, values))
            raise InputError(
                f"--baseline must be a configuration of the study ({name}: {shown}), but got "
                f"{name}={value}"
            )


def baseline_of_study(text: str | None, study: Study) -> dict[str, Value] | None:
    """Return the baseline that --baseline names in a study; None for the study's own."""
    if text is None:
        return None
    hint = "For training without distillation use alpha=1."
    if not study.task.is_distillation:
        hint = f"They are {', '.join(study.task.names)}."
    return parse_baseline(text, study.task.names, hint)


def parse_baseline(text: str, names: Collection[str], hint: str = "") -> dict[str, Value]:
    """Return {"alpha": 1.0} for "alpha=1"; raise InputError for other text.

    Args:
        text: value of the flag.
        names: known hyperparameters.
        hint: what the names are; by default the columns of --by.
    """
    hint = hint or f"They are the columns of --by ({', '.join(names)})."
    values: dict[str, Value] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in names or not value:
            raise InputError(
                f"--baseline must be NAME=VALUE[,NAME=VALUE...] with names of hyperparameters, but "
                f"got {text}. {hint}"
            )
        if name in values:
            raise InputError(
                f"--baseline must give each hyperparameter one value, but got {name} twice in "
                f"{text}. The baseline is one configuration"
            )
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = value
    return values

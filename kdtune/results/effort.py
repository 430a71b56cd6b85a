"""Tuning effort of each arm of a study: its configurations, runs and steps, with a warning."""

import pandas as pd

from kdtune.config.study import Study
from kdtune.config.task import Task
from kdtune.results.comparison import Criterion

HALF = 0.5
"""Share of configurations without distillation with which both arms are tuned alike."""
MAX_RATIO = 4
"""Configurations of one arm per configuration of the other above which the report warns: the best
of four equal configurations looks 1.03 standard deviations better than it is, the best of one not
at all."""
MAX_STEPS = 1.2
"""Steps of the longest training with images of --extra, as a multiple of the longest without, above
which the report warns."""


def tuning_effort(trials: pd.DataFrame, criterion: Criterion) -> pd.DataFrame:
    """Return configurations and runs of each arm, by group.

    Args:
        trials: all trials of a study.
        criterion: names the baseline, and which configurations have one of their own.

    Returns:
        One row per group: group (a student, or ""), configs and runs (of all but the baseline),
        baseline_configs and baseline_runs. Empty without a baseline and without trials.
    """
    if not criterion.fixed or not len(trials):
        return pd.DataFrame()
    is_baseline = criterion.is_baseline(trials)
    rows = []
    for name, own in trials.groupby(criterion.groups(trials), sort=False):
        inside = is_baseline[own.index]
        rows.append(
            {
                "group": str(name),
                "configs": own[~inside].config_id.nunique(),
                "runs": int((~inside).sum()),
                "baseline_configs": own[inside].config_id.nunique(),
                "baseline_runs": int(inside.sum()),
            }
        )
    return pd.DataFrame(rows)


def effort_text(effort: pd.DataFrame, task: Task) -> str:
    """Return how many configurations and runs each arm had, as one sentence; "" without arms.

    Args:
        effort: of `tuning_effort`.
        task: whose words name the arms.
    """
    both = effort[(effort.configs > 0) & (effort.baseline_configs > 0)] if len(effort) else effort
    if not len(both):
        return ""
    parts = []
    for _, row in both.iterrows():
        own = f"{_count(row.configs, 'configuration')} ({_count(row.runs, 'run')})"
        other = f"{row.baseline_configs} ({_count(row.baseline_runs, 'run')})"
        of_group = f"{row.group}: " * (len(both) > 1)
        if task.is_distillation:
            parts.append(f"{of_group}{own} with distillation, {other} without")
        else:
            parts.append(f"{of_group}{own}, and {other} of the baseline")
    return f"Tuning: {'; '.join(parts)}."


def effort_warning(effort: pd.DataFrame, study: Study) -> str:
    """Return a sentence if one arm had many more configurations than the other, else "".

    Args:
        effort: of `tuning_effort`.
        study: whose search and words the sentence follows.
    """
    task = study.task
    for _, row in effort.iterrows():
        few, many = sorted((row.configs, row.baseline_configs))
        if not few or many <= MAX_RATIO * few:
            continue
        words = task.baseline_words or "the baseline"
        if few != row.baseline_configs:
            words = task.subject.lower() or "the other arm"
        of_group = f" of {row.group}" * bool(row.group and len(effort) > 1)
        return (
            f"{words}{of_group} was tuned over {_count(few, 'configuration')}, the other side over "
            f"{many}: the comparison favours the side with more; {_remedy(study)}"
        )
    return ""


def steps_warning(trials: pd.DataFrame, task: Task) -> str:
    """Return a sentence if images without labels give a configuration more steps, else "".

    An epoch is a pass over the labelled images, of which a batch with images of --extra has fewer.

    Args:
        trials: completed trials of a study.
        task: of the study.
    """
    if not task.is_distillation or "config/extra_share" not in trials or not len(trials):
        return ""
    share = trials["config/extra_share"].fillna(0).astype(float)
    steps = trials["config/epochs"] / trials["config/batch_size"] / (1 - share)
    with_extra, others = steps[share > 0], steps[share == 0]
    if not len(with_extra) or not len(others) or with_extra.max() <= MAX_STEPS * others.max():
        return ""
    times = with_extra.max() / others.max()
    return (
        f"configurations with images of --extra take up to {times:.2g} times as many steps as "
        f"those without, since an epoch is a pass over the labelled images: part of a difference "
        f"may be longer training; search --epochs, too, so that the others can train as long"
    )


def _remedy(study: Study) -> str:
    """Return what would give both arms the same number of configurations."""
    if study.search != "grid" and study.plain_share < HALF:
        return f"--plain-share {HALF:g} gives both the same number"
    common = "what both sides have"
    if study.task.is_distillation:
        common = "what both sides have (--lr 0.001..0.1:log, --label-smoothing 0..0.2)"
    if study.search == "grid":
        return f"a random search over ranges of {common} gives both the same number"
    return f"one side has no more configurations in this space: search ranges of {common}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"

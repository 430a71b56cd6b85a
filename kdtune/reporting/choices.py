"""Comparisons by other metrics and with other baselines, among which a reader can choose."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kdtune.config.fields import Value
from kdtune.reporting.answer import comparisons
from kdtune.reporting.page import NotedTable
from kdtune.results.comparison import Criterion, completed, completed_configs
from kdtune.results.labels import config_label
from kdtune.results.study_results import Results

OFFERED_METRICS = ("acc", "nll", "ece", "macro_f1", "agreement", "kl")
"""Metrics that are offered besides the criterion's, if they were recorded."""
OFFERED_BASELINES = ("student", "teacher", "loss", "lr")
"""Hyperparameters whose values are offered as baselines."""
MAX_VALUES, MAX_BASELINES = 4, 5
"""Values of such a hyperparameter, if it is offered, and baselines altogether."""
MAX_TABLE_ROWS = 300
"""Rows of all tables; with more configurations fewer baselines and metrics are offered."""


@dataclass(frozen=True)
class Choice:
    """A comparison that a reader can choose."""

    metric: str
    """In words."""
    baseline: str
    """In words."""
    content: NotedTable


def choices(results: Results, criterion: Criterion) -> list[Choice]:
    """Return the comparison by the criterion, then those by other metrics and baselines."""
    main = Choice(criterion.label, "", comparisons(results, criterion))
    if main.content.table is None:
        return [main]
    room = MAX_TABLE_ROWS // max(1, len(main.content.table.rows)) - 1
    found = [Choice(main.metric, _words(criterion), main.content)]
    for baseline in _baselines(results, criterion):
        for metric in _metrics(results, criterion):
            other = results.criterion(metric, criterion.scope, baseline)
            same = metric == criterion.metric and baseline == criterion.baseline
            if same or len(found) > room:
                continue
            content = comparisons(results, other)
            if content.table is not None:
                found.append(Choice(other.label, _words(other), content))
    return found


def _words(criterion: Criterion) -> str:
    """Return a baseline in words."""
    if criterion.has_plain_baseline:
        return criterion.task.baseline_words
    values = {f"config/{name}": value for name, value in criterion.fixed.items()}
    return config_label(values, list(criterion.fixed))


def _metrics(results: Results, criterion: Criterion) -> list[str]:
    done = completed(results.trials)
    task = results.task
    offered = OFFERED_METRICS if task.is_distillation else task.comparable
    recorded = [
        name
        for name in offered
        if name in task.comparable and done[f"val/{name}@last"].notna().any()
    ]
    return list(dict.fromkeys([criterion.metric, *recorded]))


def _baselines(results: Results, criterion: Criterion) -> list[Mapping[str, Value]]:
    """Return the criterion's baseline, training without distillation, and single values of it."""
    found: list[Mapping[str, Value]] = [criterion.fixed]
    for baseline in _plain_and_values(results):
        if baseline not in found:
            found.append(baseline)
    return found[:MAX_BASELINES]


def _plain_and_values(results: Results) -> Iterator[Mapping[str, Value]]:
    configs, task = completed_configs(results.search_trials), results.task
    plain = configs[results.default_criterion.is_baseline(configs)]
    if len(plain):
        yield task.baseline
    for name in OFFERED_BASELINES if task.is_distillation else ():
        if name not in results.by:
            continue
        values = list(dict.fromkeys(configs[f"config/{name}"].dropna()))
        if 1 < len(values) <= MAX_VALUES:
            # of the student and of lr the plain configuration with this value
            own = plain[f"config/{name}"].nunique() > 1
            yield from ({**task.baseline, name: v} if own else {name: v} for v in values)

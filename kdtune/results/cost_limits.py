"""The best student within limits on its cost, in words."""

from collections.abc import Iterator, Sequence

import pandas as pd

from kdtune.config.cost import Limits
from kdtune.results.comparison import Criterion, best_config, by_repeat, completed, students_of
from kdtune.results.costs import describe_machine
from kdtune.results.labels import config_label
from kdtune.results.tables import decimals
from kdtune.statistics.intervals import mean_interval
from kdtune.storage.rounds import Round

NOT_MEASURED = (
    "The cost of the students was not measured in this study, so no student can be named within "
    "--max-ms or --max-params; kdtune.search measures it before it runs further trials."
)


def best_within(
    phases: Sequence[pd.DataFrame],
    costs: pd.DataFrame,
    criterion: Criterion,
    limits: Limits,
    by: Sequence[str],
    round_: Round | None = None,
) -> str:
    """Return the best configuration of the students within the limits, and who is excluded.

    Args:
        phases: trials that the criterion is judged by, and those of the search; the first with a
            completed trial of a student within the limits count.
        costs: of `costs.cost_frame`.
        criterion: selects the best configuration.
        limits: on the cost of a student.
        by: hyperparameters of the configuration's name.
        round_: whose ranking selects instead of the final trials that the criterion is judged by.
    """
    own = costs[costs.role == "student"].set_index("model")
    if not len(own):
        return NOT_MEASURED
    names = pd.concat(phases)["config/student"].unique()
    excess = {name: list(_excess(row, limits)) for name, row in own.iterrows()}
    excluded = [f"{name} ({', '.join(found)})" for name, found in excess.items() if found]
    excluded += [f"{name} (not measured)" for name in names if name not in own.index]
    asked = " and ".join(_requirements(limits, own.iloc[0]))
    allowed = [name for name, found in excess.items() if not found]
    if not allowed:
        return f"No student has {asked}: {', '.join(excluded)}."
    inside = (completed(t)[completed(t)["config/student"].isin(allowed)] for t in phases)
    trials = next((found for found in inside if len(found)), None)
    if trials is None:
        text = f"No run of a student with {asked} has completed yet."
    else:
        values = by_repeat(trials, criterion.metric, criterion.scope)
        best = round_.best(set(values)) if round_ is not None else None
        best = best or best_config(values, criterion.sign, students_of(trials))
        described = _describe(trials, best, own, criterion, limits, by, round_ is not None)
        text = f"Best student with {asked}: {described}."
    return f"{text} Excluded by cost: {', '.join(excluded)}." if excluded else text


def _requirements(limits: Limits, cost: pd.Series) -> Iterator[str]:
    if limits.max_ms is not None:
        where = describe_machine(cost)
        yield f"a latency of at most {limits.max_ms:g} ms at batch size 1 ({where})"
    if limits.max_params is not None:
        yield f"at most {limits.max_params:,} parameters"


def _excess(cost: pd.Series, limits: Limits) -> Iterator[str]:
    """Yield each cost of a student that exceeds its limit, in words."""
    if limits.max_ms is not None and cost.latency_ms > limits.max_ms:
        yield _ms(cost, limits)
    if limits.max_params is not None and cost.params > limits.max_params:
        yield _params(cost)


def _ms(cost: pd.Series, limits: Limits) -> str:
    """Return the latency, with its spread if the limit lies within it."""
    near = limits.max_ms is not None and abs(cost.latency_ms - limits.max_ms) < cost.latency_ms_iqr
    spread = f" with an interquartile range of {cost.latency_ms_iqr:.2g}, which spans the limit"
    return f"{cost.latency_ms:.3g} ms{spread * bool(near)}"


def _params(cost: pd.Series) -> str:
    return f"{cost.params:,.0f} parameters"


def _describe(
    trials: pd.DataFrame,
    best: str,
    costs: pd.DataFrame,
    criterion: Criterion,
    limits: Limits,
    by: Sequence[str],
    is_recorded: bool,
) -> str:
    """Return the student, its cost, its configuration and its means with their intervals."""
    own = completed(trials)
    own = own[own.config_id == best]
    name = own["config/student"].iloc[0]
    cost = costs.loc[name]
    label = config_label(own.iloc[0], [n for n in by if n != "student"])
    held_out = is_recorded and (own.phase == "final").all()
    note = "held-out repeats" if held_out else "optimistic: used for the selection"
    scope = (criterion.metric, criterion.scope)
    val = by_repeat(own, *scope)[best].dropna()
    test = by_repeat(own, criterion.metric, "last", split="test")[best].dropna()
    parts = [f"{criterion.label} {_estimate(val, criterion, note)}"]
    if len(test):
        on_test = criterion.label.replace("validation", "test")
        parts.append(f"{on_test} {_estimate(test, criterion)}")
    return f"{name} ({_ms(cost, limits)}, {_params(cost)}) with {label}; {', '.join(parts)}"


def _estimate(sample: pd.Series, criterion: Criterion, note: str = "") -> str:
    """Return mean, 95 % t interval and number of repeats."""
    interval = mean_interval(criterion.scale * sample)
    half, unit = (interval.high - interval.low) / 2, "%" * criterion.in_points
    notes = [f"n = {interval.n}", note] if note else [f"n = {interval.n}"]
    if half != half or half == float("inf"):
        form = ".1f" if criterion.in_points else ".4g"
    else:
        form = f".{decimals(half, interval.mean) if half > 0 else 1}f"
        notes.insert(0, f"95% CI {interval.low:{form}} to {interval.high:{form}}")
    return f"{interval.mean:{form}}{unit} ({', '.join(notes)})"

"""Optuna's distributions of lists and ranges, and the conversion of values to its parameters.

Optuna has no log-odds scale. The sampler therefore searches the log-odds of such a hyperparameter,
log(x / (1 - x)), and the values of configurations are converted both ways.
"""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from scipy.special import expit, logit

from kdtune.config.fields import Value
from kdtune.config.hyperparameters import Range, Values
from kdtune.config.numbers import short

DIGITS = 3
"""Significant digits of a suggestion: precise enough, and short enough for a user to type."""


def suggest(trial: optuna.Trial, name: str, values: Values) -> Any:
    """Return a value of a list or range that a trial suggests, with three significant digits.

    On the log-odds scale they are those of the smaller of x and 1 - x: 0.00123 or 0.99877.
    """
    if not isinstance(values, Range):
        return trial.suggest_categorical(name, values)
    if values.is_whole:
        return trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
    if not values.logit:
        value = trial.suggest_float(name, values.low, values.high, log=values.log)
        return _within(values, float(f"{value:.{DIGITS}g}"))
    odds = trial.suggest_float(name, _log_odds(values.low), _log_odds(values.high))
    return _within(values, float(short(float(expit(odds)), DIGITS)))


def parameter(values: Values, value: Value) -> Value:
    """Return the parameter of a trial that stands for a value: the value itself, or its log-odds.

    Args:
        values: List or range of the hyperparameter.
        value: One of them.
    """
    if not isinstance(values, Range) or not values.logit or isinstance(value, str):
        return value
    return _log_odds(value)


def searched_distribution(values: Values) -> BaseDistribution:
    """Return the distribution of the parameters that `parameter` returns."""
    if isinstance(values, Range) and values.logit:
        return FloatDistribution(_log_odds(values.low), _log_odds(values.high))
    return distribution(values)


def distribution(values: Values) -> BaseDistribution:
    """Return the distribution of the values themselves; of ints if both ends of a range are.

    That of a range on the log-odds scale has the right ends, but is uniform.
    """
    if not isinstance(values, Range):
        return optuna.distributions.CategoricalDistribution(values)
    if values.is_whole:
        return optuna.distributions.IntDistribution(
            int(values.low), int(values.high), log=values.log
        )
    return FloatDistribution(values.low, values.high, log=values.log)


def _log_odds(value: float) -> float:
    return float(logit(value))


def _within(values: Range, value: float) -> float:
    """Return a rounded value, or the end of the range that rounding has passed."""
    return min(max(value, values.low), values.high)

"""Which configuration next: Optuna, asked and told, in memory.

Plain training and distilling are searched apart, each by a study of its own: they have other
hyperparameters (none for the teacher's term at alpha = 1), and each side is to find its own best.
A proposal is a function of its number and of what has been told, so a search made anew from its
records goes on as the one that was cut off.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from kdtune.config.fields import Value
from kdtune.config.hyperparameters import DECIDING, HYPERPARAMETERS, Range, Values, canonical
from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study

optuna.logging.set_verbosity(optuna.logging.ERROR)

TRIES = 8
"""Proposals that may repeat a known configuration before the first unknown one is taken."""


class ConfigSampler:
    """Proposes configurations of a study whose search is "random" or "tpe".

    Args:
        study: the study.
        first: configurations to propose before any other, the best of another study first; of each
            side, plain and distilled, at most a quarter of the samples.
    """

    def __init__(self, study: Study, first: Iterable[Run] = ()):
        self.study = study
        most = max(1, study.samples // 4)
        both = list(first)
        self.first = {
            p: [run for run in both if (run.alpha == 1) == p][:most] for p in (True, False)
        }
        self.sides = {plain: optuna.create_study(direction="maximize") for plain in (True, False)}
        self.known: dict[str, tuple[bool, int]] = {}
        alpha = study.values("alpha")
        self.alphas: dict[bool, Values] = {True: (1.0,), False: alpha}
        if not isinstance(alpha, Range):
            self.alphas[False] = tuple(value for value in alpha if value != 1)
            if study.plain_share == 0 and 1 not in alpha:
                self.alphas[True] = ()

    def propose(self, number: int) -> Run | None:
        """The configuration of this number, not proposed before; None where there is no other."""
        plain = self._is_plain(number)
        return self._draw(plain, number) or self._draw(not plain, number)

    def add(self, run: Run) -> None:
        """A configuration that has been proposed, and is being tried."""
        if run.config_id in self.known:
            return
        if self.study.search == "random":  # which learns nothing
            self.known[run.config_id] = (run.alpha == 1, 0)
            return
        plain = run.alpha == 1
        free = self._free(run)
        params = {name: getattr(run, name) for name in free}
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: distribution(self._values(name, plain)) for name in free},
        )
        self.known[run.config_id] = (plain, len(self.sides[plain].get_trials(deepcopy=False)))
        self.sides[plain].add_trial(trial)

    def tell(self, run: Run, value: float | None, pruned: bool = False) -> None:
        """What came of a configuration: its mean score, or that it was pruned, or that it failed.

        A value that is no finite number is a failure: Optuna would leave the trial running.
        """
        plain, number = self.known[run.config_id]
        if self.study.search == "random":
            return
        if pruned:
            self.sides[plain].tell(number, state=TrialState.PRUNED)
        elif value is None or not math.isfinite(value):
            self.sides[plain].tell(number, state=TrialState.FAIL)
        else:
            self.sides[plain].tell(number, value)

    def _is_plain(self, number: int) -> bool:
        """The first proposal, and as many of the rest as the share says, evenly spread."""
        share = self.study.plain_share
        return math.ceil((number + 1) * share) > math.ceil(number * share)

    def _draw(self, plain: bool, number: int) -> Run | None:
        if not self.alphas[plain]:
            return None
        seeds = (derive_seed("propose", self.study.run.seed, number, i) for i in range(TRIES))
        asked = (self._ask(plain, seed) for seed in seeds)
        drawn = itertools.chain(self.first[plain], asked, self._all(plain))
        run = next((run for run in drawn if run.config_id not in self.known), None)
        if run is not None:
            self.add(run)
        return run

    def _all(self, plain: bool) -> Iterator[Run]:
        """Every configuration of one side; none where there is no end of them."""
        every = {name: _listed(self._values(name, plain)) for name in HYPERPARAMETERS}
        if all(values is not None for values in every.values()):
            for values in itertools.product(*every.values()):  # type: ignore[arg-type]
                config: Any = dict(zip(every, values, strict=True))
                yield replace(self.study.run, repeat=0, **config)

    def _ask(self, plain: bool, seed: int) -> Run:
        """A configuration of one side, known or not."""
        side = self.sides[plain]
        if self.study.search == "random":
            side = optuna.create_study(sampler=RandomSampler(seed=seed % 2**32))
        else:  # group: hyperparameters that only some configurations have are modelled apart
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                side.sampler = TPESampler(seed=seed % 2**32, multivariate=True, group=True)
        trial = side.ask()
        config: dict[str, Any] = {n: getattr(self.study.run, n) for n in HYPERPARAMETERS}
        for name in (*DECIDING, *(n for n in HYPERPARAMETERS if n not in DECIDING)):
            values = self._values(name, plain)
            if not isinstance(values, Range) and len(values) == 1:
                config[name] = values[0]
            elif canonical(config)[name] is not None:
                config[name] = _suggest(trial, name, values)
        side.tell(trial, state=TrialState.FAIL)  # the sampler leaves failures out
        return replace(self.study.run, repeat=0, **config)

    def _values(self, name: str, plain: bool) -> Values:
        return self.alphas[plain] if name == "alpha" else self.study.values(name)

    def _free(self, run: Run) -> list[str]:
        """The hyperparameters that are searched and have an effect in this configuration."""
        plain = run.alpha == 1
        several = [
            name
            for name in HYPERPARAMETERS
            if isinstance(values := self._values(name, plain), Range) or len(values) > 1
        ]
        return [name for name in several if run.config[name] is not None]


def _listed(values: Values) -> Sequence[Value] | None:
    """All of a list or of a range of whole numbers; None where there is no end of them."""
    if not isinstance(values, Range):
        return values
    if isinstance(values.low, int) and isinstance(values.high, int):
        return range(values.low, values.high + 1)
    return None


def _suggest(trial: optuna.Trial, name: str, values: Values) -> Any:
    if not isinstance(values, Range):
        return trial.suggest_categorical(name, values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(name, values.low, values.high, log=values.log)
    value = trial.suggest_float(name, values.low, values.high, log=values.log)
    # three digits are as many as a study can tell apart, and a user can type
    return min(max(float(f"{value:.3g}"), values.low), values.high)


def distribution(values: Values) -> optuna.distributions.BaseDistribution:
    """A list or range as Optuna has it; a range of whole ends and of a whole field is of ints."""
    if not isinstance(values, Range):
        return optuna.distributions.CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return optuna.distributions.IntDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)

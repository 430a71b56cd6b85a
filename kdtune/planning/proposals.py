"""Sampler of configurations: Optuna's random and TPE samplers, used by ask and tell, in memory.

Each arm (baselines, distilled) has an Optuna study of its own: a baseline has fewer active
hyperparameters, and each arm is to find its own best configuration. A suggestion is a function of
its number and of the configurations added and reported so far, so that a sampler rebuilt from the
records makes the same suggestions as the one that was interrupted.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from kdtune.config.base_run import BaseRun
from kdtune.config.fields import Value
from kdtune.config.hyperparameters import Range, Values
from kdtune.config.run import derive_seed
from kdtune.config.space import as_declared
from kdtune.config.study import Study
from kdtune.planning.distributions import parameter, searched_distribution, suggest
from kdtune.planning.ledger import Arm

optuna.logging.set_verbosity(optuna.logging.ERROR)

MAX_DRAWS = 8
"""Draws per suggestion that may repeat a known configuration; then the first unknown one of the
space, if it is finite, is taken."""


class ConfigSampler:
    """Sampler of the configurations of a study whose search is "random" or "tpe".

    Args:
        study: the study.
        first: configurations to suggest before any other but the recipe's default, the best of
            another study first; of each arm at most a quarter of the samples.
    """

    def __init__(self, study: Study, first: Iterable[BaseRun] = ()):
        self.study = study
        most = max(1, study.samples // 4)
        given = list(first)
        self._task = study.task
        group = self._task.group
        self._groups: tuple[str, ...] = ("",) if group is None else study.values(group)  # type: ignore[assignment]
        every = [Arm(own, plain) for own in self._groups for plain in (True, False)]
        self._first = {arm: [run for run in given if Arm.of(run) == arm][:most] for arm in every}
        # as Optuna's users do with enqueue_trial, so that the chosen one is compared with it
        if (default := study.default) is not None:
            self._first[Arm.of(default)].insert(0, default)
        self.arms = {arm: optuna.create_study(direction="maximize") for arm in every}
        self._trials: dict[str, tuple[Arm, int]] = {}
        """By config_id: its arm and the number of its Optuna trial."""
        self._values_of_arm = {arm: self._allowed(arm) for arm in every}

    def suggest(self, number: int) -> BaseRun | None:
        """Return a configuration not suggested before; None where there is no other.

        Args:
            number: of the suggestion, from 0; decides its arm and its seed.
        """
        round_, turn = divmod(number, len(self._groups))
        plain = self._is_for_baseline(round_)
        # the students take turns, so that each has as many configurations of each arm
        order = (*self._groups[turn:], *self._groups[:turn])
        arms = (Arm(group, arm) for group in order for arm in (plain, not plain))
        return next((run for arm in arms if (run := self._draw(arm, number)) is not None), None)

    def add(self, run: BaseRun) -> None:
        """Add a configuration as running, whether it was suggested or is read from records.

        Its Optuna trial is RUNNING with its parameters, which TPE takes into account (see `_ask`).
        """
        if run.config_id in self._trials:
            return
        arm = Arm.of(run)
        if self.study.search == "random":  # it does not use results
            self._trials[run.config_id] = (arm, 0)
            return
        allowed = {name: self._values_of_arm[arm][name] for name in self._searched(run)}
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params={n: parameter(own, run.resolved_value(n)) for n, own in allowed.items()},
            distributions={name: searched_distribution(own) for name, own in allowed.items()},
        )
        self._trials[run.config_id] = (arm, len(self.arms[arm].get_trials(deepcopy=False)))
        self.arms[arm].add_trial(trial)

    def report(self, run: BaseRun, value: float | None, pruned: bool = False) -> None:
        """Report the result of a configuration that was added.

        Args:
            run: a run of the configuration.
            value: its mean score. None or a number that is not finite is a failure: Optuna would
                leave such a trial running.
            pruned: whether it was pruned.
        """
        arm, number = self._trials[run.config_id]
        if self.study.search == "random":
            return
        if pruned:
            self.arms[arm].tell(number, state=TrialState.PRUNED)
        elif value is None or not math.isfinite(value):
            self.arms[arm].tell(number, state=TrialState.FAIL)
        else:
            self.arms[arm].tell(number, value)

    def _is_for_baseline(self, number: int) -> bool:
        """Return True for the first suggestion and an evenly spread share of the others."""
        share = self.study.plain_share
        return math.ceil((number + 1) * share) > math.ceil(number * share)

    def _draw(self, arm: Arm, number: int) -> BaseRun | None:
        if not all(self._values_of_arm[arm].values()):
            return None
        seeds = (derive_seed("propose", self.study.run.seed, number, i) for i in range(MAX_DRAWS))
        asked = (self._ask(arm, seed) for seed in seeds)
        drawn = itertools.chain(self._first[arm], asked, self._all(arm))
        new = (run for run in drawn if run.config_id not in self._trials and Arm.of(run) == arm)
        run = next(new, None)
        if run is not None:
            self.add(run)
        return run

    def _all(self, arm: Arm) -> Iterator[BaseRun]:
        """Yield every configuration of an arm if their number is finite, else none."""
        every = {name: _listed(values) for name, values in self._values_of_arm[arm].items()}
        if all(values is not None for values in every.values()):
            for values in itertools.product(*every.values()):  # type: ignore[arg-type]
                config: Any = dict(zip(every, values, strict=True))
                yield self.study.base_run.sample(repeat=0, **config)

    def _ask(self, arm: Arm, seed: int) -> BaseRun:
        """Return a configuration of an arm, which may be known already."""
        study = self.arms[arm]
        if self.study.search == "random":
            study = optuna.create_study(sampler=RandomSampler(seed=seed % 2**32))
        else:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                study.sampler = TPESampler(
                    seed=seed % 2**32,
                    multivariate=True,
                    group=True,  # models conditional hyperparameters apart
                    # counts running configurations among the bad ones, so that suggestions in
                    # flight at the same time keep away from each other
                    constant_liar=True,
                )
        trial = study.ask()
        base, allowed = self.study.base_run, self._values_of_arm[arm]
        config: dict[str, Any] = {name: base.value(name) for name in self._task.names}
        for name in self._task.order:
            values = allowed[name]
            if not isinstance(values, Range) and len(values) == 1:
                config[name] = values[0]
            elif self._task.resolved(self._task.canonical(config))[name] is not None:
                config[name] = suggest(trial, name, values)
        study.tell(trial, state=TrialState.FAIL)  # samplers leave failed trials out
        return base.sample(repeat=0, **config)

    def _allowed(self, arm: Arm) -> dict[str, Values]:
        """Return the values of each hyperparameter in an arm; () for an arm without any."""
        task, baseline = self._task, self._task.baseline
        allowed = {name: self.study.values(name) for name in task.names}
        if task.group is not None:
            allowed[task.group] = (arm.group,)
        if arm.is_baseline and not baseline:
            return dict.fromkeys(allowed, ())
        for name, value in baseline.items():
            own = allowed[name]
            if arm.is_baseline:
                is_there = isinstance(own, Range) or self.study.plain_share > 0 or value in own
                allowed[name] = (as_declared(self.study, name, value),) if is_there else ()
            elif len(baseline) == 1 and not isinstance(own, Range):
                allowed[name] = tuple(v for v in own if v != value)
        return allowed

    def _searched(self, run: BaseRun) -> list[str]:
        """Return the hyperparameters that are searched and active in this configuration."""
        allowed = self._values_of_arm[Arm.of(run)]
        several = [n for n, own in allowed.items() if isinstance(own, Range) or len(own) > 1]
        config = self._task.resolved(run.config)
        return [name for name in several if config[name] is not None]


def _listed(values: Values) -> Sequence[Value] | None:
    """Return all values of a list or a range of integers; None for a range of floats."""
    if not isinstance(values, Range):
        return values
    return range(int(values.low), int(values.high) + 1) if values.is_whole else None

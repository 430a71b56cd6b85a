"""Proposals of configurations: Optuna's samplers, and the export for its tools."""

import inspect
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.special import expit, logit

from kdtune.config.fields import Value
from kdtune.config.files import OPTUNA, atomic_write
from kdtune.config.run import derive_seed
from kdtune.config.study import SEARCHES, Study, as_declared
from kdtune.config.task import BaseRun, Range, Values, ends_of, group_text, including
from kdtune.config.text import InputError, import_named, short, shown, user_code
from kdtune.planning.ledger import Arm, ConfigState, Ledger, phase_of
from kdtune.statistics.intervals import mean_interval
from kdtune.storage.records import Line

# Optuna's distributions of lists and ranges, and the conversion of values to its parameters.
#
# Optuna has no log-odds scale. The sampler therefore searches the log-odds of such a
# hyperparameter, log(x / (1 - x)), and the values of configurations are converted both ways.


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


# Sampler of configurations: Optuna's random and TPE samplers, or another one of Optuna's that the
# user's factory returns, used by ask and tell, in memory.
#
# Each arm (baselines, distilled) has an Optuna study of its own: a baseline has fewer active
# hyperparameters, and each arm is to find its own best configuration. A suggestion is a function
# of its number and of the configurations added and reported so far, so that a sampler rebuilt from
# the records makes the same suggestions as the one that was interrupted. A user's sampler may have
# a state (a generator of random numbers, attributes of trials): it is asked again for each
# configuration of the records, in their order.


optuna.logging.set_verbosity(optuna.logging.ERROR)

MAX_DRAWS = 8
"""Draws per suggestion that may repeat a known configuration; then the first unknown one of the
space, if it is finite, is taken."""


def make_sampler(study: Study, arm: Arm) -> BaseSampler:
    """Return what the user's factory, `Study.search`, returns for an arm.

    The factory gets a seed that follows from the study's and the arm, if it takes `seed`.

    Raises:
        InputError: It cannot be imported or called, or returns no sampler.
    """
    factory = import_named("the sampler", study.search)
    with user_code(f"the sampler {study.search} cannot be made"):
        takes_seed = "seed" in inspect.signature(factory).parameters
        seed = derive_seed("sampler", study.run.seed, *arm) % 2**32
        sampler = factory(seed=seed) if takes_seed else factory()
    if not isinstance(sampler, BaseSampler):
        raise InputError(
            f"--search {study.search} must return a sampler of Optuna (a BaseSampler), but "
            f"returned {shown(sampler)}"
        )
    return sampler


class ConfigSampler:
    """Sampler of the configurations of a study whose search is no grid.

    Args:
        study: the study.
        first: configurations to suggest before any other but the recipe's default, the best of
            another study first; of each arm at most a quarter of the samples.
    """

    def __init__(self, study: Study, first: Iterable[BaseRun] = ()):
        self.study = study
        most = max(1, study.samples // 4)
        first = list(first)
        self._task = study.task
        names = self._task.groups
        lists = [ends_of(study.values(name)) for name in names]
        values = [dict(zip(names, each, strict=True)) for each in itertools.product(*lists)]
        self._of_group = {group_text(each.values()): each for each in values}
        self._groups = tuple(self._of_group)
        arms = [Arm(name, baseline) for name in self._groups for baseline in (True, False)]
        self._first = {arm: [run for run in first if Arm.of(run) == arm][:most] for arm in arms}
        # as Optuna's users do with enqueue_trial, so that the chosen one is compared with it
        if (default := study.default) is not None:
            self._first[Arm.of(default)].insert(0, default)
        self._is_users = study.search not in SEARCHES
        self._trials: dict[str, tuple[Arm, int]] = {}
        """By config_id: its arm and the number of its Optuna trial."""
        self._attributes: dict[str, dict[str, Any]] = {}
        """By config_id: what the user's sampler has noted in the trial that it was asked for."""
        self._values_of_arm = {arm: self._allowed(arm) for arm in arms}
        samplers = {arm: make_sampler(study, arm) if self._is_users else None for arm in arms}
        self.arms = {
            arm: optuna.create_study(direction="maximize", sampler=sampler)
            for arm, sampler in samplers.items()
        }

    def suggest(self, number: int) -> BaseRun | None:
        """Return a configuration not suggested before; None where there is no other.

        One that has the id of another, which is rare, counts as suggested.

        Args:
            number: of the suggestion, from 0; decides its arm and its seed.
        """
        run = self._proposed(number)
        if run is not None:
            self._add(run)
        return run

    def _proposed(self, number: int) -> BaseRun | None:
        """Return the suggestion of a number, without adding it."""
        round_, turn = divmod(number, len(self._groups))
        # the first suggestion and an evenly spread share of the others are baselines
        share = self.study.plain_share
        is_baseline = math.ceil((round_ + 1) * share) > math.ceil(round_ * share)
        # the students take turns, so that each has as many configurations of each arm
        order = (*self._groups[turn:], *self._groups[:turn])
        arms = (Arm(name, kind) for name in order for kind in (is_baseline, not is_baseline))
        return next((run for arm in arms if (run := self._draw(arm, number)) is not None), None)

    def add(self, run: BaseRun) -> None:
        """Add a configuration as running, whether it was suggested or is read from records.

        Its Optuna trial is RUNNING with its parameters, which TPE takes into account (see `_ask`).
        """
        if run.config_id not in self._trials:
            if self._is_users:
                self._proposed(len(self._trials))  # so that it comes into the same state
            self._add(run)

    def _add(self, run: BaseRun) -> None:
        arm = Arm.of(run)
        config = self._task.resolved(run.config)
        searched = {
            name: values
            for name, values in self._values_of_arm[arm].items()
            if (isinstance(values, Range) or len(values) > 1) and config[name] is not None
        }
        trial = create_trial(
            state=TrialState.RUNNING,
            params={n: parameter(v, run.resolved_value(n)) for n, v in searched.items()},
            distributions={n: searched_distribution(v) for n, v in searched.items()},
            **self._attributes.get(run.config_id, {}),
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
        if pruned:
            self.arms[arm].tell(number, state=TrialState.PRUNED)
        elif value is None or not math.isfinite(value):
            self.arms[arm].tell(number, state=TrialState.FAIL)
        else:
            self.arms[arm].tell(number, value)

    def _draw(self, arm: Arm, number: int) -> BaseRun | None:
        if not all(self._values_of_arm[arm].values()):
            return None
        seeds = (derive_seed("propose", self.study.run.seed, number, i) for i in range(MAX_DRAWS))
        asked = (self._ask(arm, seed) for seed in seeds)
        drawn = itertools.chain(self._first[arm], asked, self._all(arm))
        new = (run for run in drawn if run.config_id not in self._trials and Arm.of(run) == arm)
        return next(new, None)

    def _all(self, arm: Arm) -> Iterator[BaseRun]:
        """Yield every configuration of an arm if their number is finite, else none."""
        lists = {name: _listed(values) for name, values in self._values_of_arm[arm].items()}
        if all(values is not None for values in lists.values()):
            for values in itertools.product(*lists.values()):  # type: ignore[arg-type]
                config: Any = dict(zip(lists, values, strict=True))
                yield self.study.base_run.sample(repeat=0, **config)

    def _ask(self, arm: Arm, seed: int) -> BaseRun:
        """Return a configuration of an arm, which may have been suggested before."""
        study = self.arms[arm]
        if self._is_users:
            with user_code(f"the sampler {self.study.search} cannot propose a configuration"):
                return self._configured(arm, study)
        if self.study.search == "random":
            study.sampler = RandomSampler(seed=seed % 2**32)
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
        return self._configured(arm, study)

    def _configured(self, arm: Arm, study: optuna.Study) -> BaseRun:
        """Return the configuration of an arm that Optuna's study proposes."""
        trial = study.ask()
        base, allowed = self.study.base_run, self._values_of_arm[arm]
        config: dict[str, Any] = {name: base.value(name) for name in self._task.names}
        for name in self._task.order:
            values = allowed[name]
            if not isinstance(values, Range) and len(values) == 1:
                config[name] = values[0]
            elif self._task.resolved(self._task.canonical(config))[name] is not None:
                config[name] = suggest(trial, name, values)
        asked = study.tell(trial, state=TrialState.FAIL)  # samplers leave failed trials out
        run = base.sample(repeat=0, **config)
        if self._is_users:  # such as the generation of CMA-ES; TPE takes those of running trials
            notes = {"user_attrs": asked.user_attrs, "system_attrs": asked.system_attrs}
            self._attributes[run.config_id] = notes
        return run

    def _allowed(self, arm: Arm) -> dict[str, Values]:
        """Return the values of each hyperparameter in an arm; () for an arm without any."""
        task, baseline = self._task, self._task.baseline
        allowed = {name: self.study.values(name) for name in task.names}
        allowed |= {name: (value,) for name, value in self._of_group[arm.group].items()}
        if arm.is_baseline and not baseline:
            return dict.fromkeys(allowed, ())
        for name, value in baseline.items():
            values = allowed[name]
            if arm.is_baseline:
                is_there = (
                    isinstance(values, Range) or self.study.plain_share > 0 or value in values
                )
                allowed[name] = (as_declared(self.study, name, value),) if is_there else ()
            elif len(baseline) == 1 and not isinstance(values, Range):
                allowed[name] = tuple(v for v in values if v != value)
        return allowed


def _listed(values: Values) -> Sequence[Value] | None:
    """Return all values of a list or a range of integers; None for a range of floats."""
    if not isinstance(values, Range):
        return values
    return range(int(values.low), int(values.high) + 1) if values.is_whole else None


# Export of a study for Optuna's tools: runs/<name>/optuna.db, one trial per configuration.
#
# optuna-dashboard sqlite:///runs/fashion/optuna.db
# optuna.load_study(study_name="fashion", storage="sqlite:///runs/fashion/optuna.db")


def export_for_optuna(study: Study, lines: list[Line]) -> Path:
    """Write optuna.db into the study's folder, replacing an earlier one.

    The value of a trial is the mean score, for distillation the validation accuracy, over its
    completed repeats of the search. Its user attributes are config_id, n, sd and repeat/<number>
    (all phases). Inactive hyperparameters of a configuration are no parameters of its trial.
    Configurations with a pruned run are PRUNED, others without a completed run FAIL.

    Args:
        study: the study.
        lines: its records, in the order written.

    Returns:
        The file.
    """
    ledger = Ledger(study)
    times: dict[str, list[float]] = {}
    for line in lines:
        ledger.add_record(line)
        if "config_id" in line:
            times.setdefault(line["config_id"], []).append(line["time"])
    file = study.folder / OPTUNA
    with atomic_write(file) as part:
        storage = optuna.storages.RDBStorage(f"sqlite:///{part}")
        direction = StudyDirection.MAXIMIZE if study.task.sign > 0 else StudyDirection.MINIMIZE
        target = optuna.create_study(study_name=study.name, storage=storage, direction=direction)
        for state in ledger.by_row:
            if state.status:
                target.add_trial(_trial(study, state, times[state.run.config_id]))
        storage.engine.dispose()
    return file


def _trial(study: Study, config: ConfigState, times: list[float]) -> FrozenTrial:
    values = {repeat: study.task.sign * score for repeat, score in config.scores.items()}
    scores = [value for repeat, value in values.items() if phase_of(repeat) == "search"]
    interval = mean_interval(scores)
    sd = interval.sd if interval.n > 1 else None
    attributes: dict[str, Any] = {"config_id": config.run.config_id, "n": interval.n, "sd": sd}
    attributes |= {f"repeat/{repeat}": score for repeat, score in sorted(values.items())}
    pruned = "pruned" in config.status.values()
    state = TrialState.PRUNED if pruned else TrialState.COMPLETE if scores else TrialState.FAIL
    distributions = _distributions(study, config)
    trial = create_trial(
        state=state,
        value=interval.mean if state == TrialState.COMPLETE else None,
        params={name: config.run.resolved_value(name) for name in distributions},
        distributions=distributions,
        user_attrs=attributes,
    )
    trial.datetime_start = datetime.fromtimestamp(min(times))
    trial.datetime_complete = datetime.fromtimestamp(max(times))
    return trial


def _distributions(study: Study, config: ConfigState) -> dict[str, BaseDistribution]:
    """Return the distributions of the active hyperparameters.

    They always contain the values of the baseline (alpha = 1).
    """
    distributions = {}
    baseline, active = study.task.baseline, study.task.resolved(config.run.config)
    for name in study.task.names:
        values: Values = study.values(name)
        if name in baseline and isinstance(values, Range):
            values = including(values, baseline[name])
        elif name in baseline:
            values = tuple(dict.fromkeys([*values, baseline[name]]))  # type: ignore[misc]
        several = isinstance(values, Range) or len(values) > 1
        if several and active[name] is not None:
            # of true values, which Optuna's tools show; on the log-odds scale it is uniform, since
            # Optuna has no such distribution and nothing is sampled from this one
            distributions[name] = distribution(values)
    return distributions

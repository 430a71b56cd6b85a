"""Configuration of a study: a run, the space searched around it and what it runs on."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from kdtune.config import fields
from kdtune.config.files import STUDY, cache_folder, check_exists, join_uri
from kdtune.config.objects import KINDS, missing_error
from kdtune.config.records import Limits
from kdtune.config.run import (
    OF_STUDY,
    SCHEMA,
    Run,
    check_warmup,
    migrate,
    paired,
    sample_values,
    use_names,
)
from kdtune.config.task import (
    BaseRun,
    FunctionRun,
    Mode,
    Range,
    Task,
    Values,
    check_names,
    check_value,
    covers,
    ends_of,
    find_metric,
    models_of,
    name_of,
    own_metric,
    parse_metric,
    to_space,
)
from kdtune.config.text import InputError, did_you_mean, shown

Scope = Literal["last", "best", "last-5-avg"]
Format = Literal["md", "csv", "json", "latex"]
SEARCHES = ("grid", "random", "tpe")
"""Ways to propose configurations that are kdtune's own."""
Policy = Literal["all", "race"]
Device = Literal["auto", "cpu", "cuda", "mps"]
TrackerName = Literal["mlflow", "wandb"]
"""Trackers that a study can be sent to; the package and the extra of each have its name."""

ACCURACY = "val/acc"
"""Default of `Study.metric`."""
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
BUDGET = r"([0-9]{1,13}(?:\.[0-9]+)?)(runs|epochs|h)"
"""Form of a budget, such as 400runs."""
MAX_RUNS = 1_000_000
"""Runs of a study: configurations times repeats."""
OF_FUNCTION = ("metric", "mode", "baseline", "unless", "epochs")
"""Fields of a study that are for a training function of its own."""
NOT_SAVED = ("flags", "tracker", "notify", "dump", "check", "verbose")
"""Fields that are no part of a study: how it was asked for and who hears of it. A command for
notify may hold a password."""

AGAINST_TEACHER = "teacher"
"""Value of `Study.against`."""
MAX_CONFIGURATIONS = 100_000
"""Configurations of a study. Making each of a grid takes about a millisecond at each start."""
Cores = Annotated[int, fields.Bounds("[1, 100000]")]
"""Cores, GPUs and processes of a cluster."""
CoresOrZero = Annotated[int, fields.Bounds("[0, 100000]")]

_SEARCH = fields.Setting(commands=fields.ONLY_SEARCH)
_SEARCHES = fields.one_of([*SEARCHES, "module:factory"])
_NO_FLAG = fields.Setting(commands=())


@dataclass(frozen=True)
class Study:
    """Configuration of a study: which configuration of the space is best, over the same repeats.

    >>> run = kdtune.Run(data="photos", student="resnet18")
    >>> space = {"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}
    >>> study = kdtune.Study(run=run, space=space, repeats=8)
    >>> len(study.runs())  # alpha = 1 has no temperature
    5
    """

    name: str = ""
    """Name of the study and of its folder in --out. By default that of the data."""
    out: Annotated[str, fields.Setting(path=True)] = "runs"
    """Folder of all studies; on a cluster one that all machines share, or s3://BUCKET/PREFIX
    (AWS_ENDPOINT_URL selects a service other than Amazon's)."""
    run: Annotated[Run, _NO_FLAG] = field(default_factory=Run)
    """Settings of every run, such as data, models and epochs; those that `space` names vary."""
    space: Annotated[Mapping[str, Sequence[Any] | Range], _NO_FLAG] = field(
        default_factory=dict  # of values; models may also be objects
    )
    """Hyperparameters that are searched, by name, each with a list of values or a `Range`."""
    train: Annotated[str | Callable[..., Any] | None, _NO_FLAG] = None
    """Training function of a study of its own trials, or module:function. It is called as
    train(config, repeat), or train(config, repeat, folder) if it has a parameter of that name, and
    yields a dict of metrics per epoch, such as {"val/acc": 0.9}; see docs/extending.md. None: the
    trials are distillation runs, see `run`."""
    metric: Annotated[str, _SEARCH] = ACCURACY
    """Metric on val that decides: it chooses configurations and students, and the conclusion is
    about it. For distillation: acc, balanced_acc, macro_f1, auc (macro, one against the rest),
    top5_acc, ce, nll, ece, ..., recall:CLASS, precision:CLASS, or module:function of your own,
    called with the probabilities [N, K] and the labels [N] of a split, NumPy arrays. With `train`:
    one that it yields."""
    mode: Annotated[Mode | None, _SEARCH] = None
    """Whether a metric of your own is to be as large as possible ("max") or as small ("min"). None:
    as for kdtune's metric of the same name; that of a module:function as large as possible."""
    baseline: Annotated[Mapping[str, fields.Value], _NO_FLAG] = field(default_factory=dict)
    """Hyperparameters of `train` with the values that they have in the baseline, such as
    {"alpha": 1.0}. Empty: there is no baseline, and so no verdict."""
    unless: Annotated[Mapping[str, Mapping[str, fields.Value]], _NO_FLAG] = field(
        default_factory=dict
    )
    """Hyperparameters of `train` with the values of others with which they have no effect, such as
    {"temperature": {"alpha": 1.0}}. Configurations that differ in nothing else are run once."""
    epochs: Annotated[fields.Epochs | None, _NO_FLAG] = None
    """Number of epochs that `train` yields, unless a hyperparameter named epochs says it. A trial
    with fewer counts as truncated. None: it is not known."""
    search: Annotated[str, replace(_SEARCH, metavar=_SEARCHES)] = "grid"
    """How configurations are proposed: "grid" (every combination of the lists), "random", "tpe"
    (Optuna's Tree-structured Parzen Estimator, which learns from the results), or module:factory, a
    function or class that returns any other sampler of Optuna, such as
    optuna.samplers:CmaEsSampler. Ranges need one of the last three."""
    samples: Annotated[int, fields.Bounds(f"[1, {MAX_CONFIGURATIONS}]"), _SEARCH] = 60
    """Number of configurations that a sampler proposes, which is every --search but "grid"."""
    plain_share: Annotated[fields.BelowOne, _SEARCH] = 0.5
    """Share of a sampler's proposals without distillation (alpha = 1), so that the baseline is
    tuned as hard; a grid has every setting of the other hyperparameters also at alpha = 1. 0: only
    what the space holds."""
    policy: Annotated[Policy, _SEARCH] = "all"
    """How repeats are allocated: "all" (each configuration gets all repeats), or "race" (racing:
    one repeat each, more for configurations not yet eliminated, then new repeats to confirm the
    best, and others for the final numbers of the finalists and of the recipe's default)."""
    race_level: Annotated[fields.Fraction, _SEARCH] = 0.1
    """Error rate of racing: probability, over all interim analyses, of dropping a configuration in
    favour of an equally good one; per pair, not family-wise."""
    confirm: Annotated[int, fields.Bounds(f"[0, {MAX_CONFIGURATIONS}]"), _SEARCH] = 3
    """Number of configurations with, and of those without distillation that "race" confirms on new
    repeats."""
    stop_early: Annotated[bool, _SEARCH] = False
    """Prune trials of the first repeat that are behind the others at the same epoch."""
    repeats: Annotated[fields.Repeats, _SEARCH] = 8
    """Number of repeats (random seeds) of every configuration; with "race" the maximum. Use 8 or
    more: 4 rarely reach significance. "auto": add final repeats until the difference in validation
    accuracy is decided for new repeats and new images, --budget is spent, or more repeats cannot
    decide it with these val images."""
    until_decided: Annotated[bool, _NO_FLAG] = False
    """Set by --repeats auto: add final repeats of the two finalists until they are decided, or
    cannot be."""
    level: Annotated[fields.Fraction, _SEARCH] = 0.05
    """Error rate of --repeats auto: probability, over all interim analyses, of a decision where
    there is no difference. Half of it is for repeats, half for val images."""
    budget: Annotated[str | None, _SEARCH] = None
    """Limit of --repeats auto for the whole study: 400runs, 20000epochs or 3h (hours, summed over
    trials). A study ends before it where it is decided, or where only more images could decide."""
    hours: Annotated[fields.Positive | None, _SEARCH] = None
    """Limit of the study's time in hours, over all its commands: no run begins that is not expected
    to end by then, judged by the runs before it. A repeat begins only if all configurations can
    run it; what "race" confirms and its final repeats have up to half of the time. The same command
    with more hours goes on. None: no limit."""
    warm_start: Annotated[str | None, fields.Setting(commands=fields.ONLY_SEARCH, path=True)] = None
    """Folder of another study, whose best configurations a sampler proposes first."""
    keep: Annotated[Literal["best", "all", "none"], _SEARCH] = "best"
    """Students whose weights stay on disk once the study is complete: "best" (those of the best
    configuration, in students/), "all" (those of all runs in trials/, too) or "none". Predictions
    always stay."""
    rerun_dropped: Annotated[bool, _SEARCH] = False
    """Run the dropped runs again, see `python -m kdtune.analysis STUDY --drop TRIAL`."""
    max_ms: Annotated[fields.Positive | None, _SEARCH] = None
    """Limit on the student's latency at batch size 1, in milliseconds: the conclusion names the
    best student within it. All students are trained. None: no limit."""
    max_params: Annotated[fields.Params | None, _SEARCH] = None
    """Limit on the student's number of parameters, as --max-ms. None: no limit."""
    against: Annotated[str | None, fields.Setting(commands=fields.ONLY_SEARCH, path=True)] = None
    """What the best student may replace: teacher, a file of a model's outputs (docs/teachers.md) or
    the folder of another study. None: with --margin the teacher."""
    margin: Annotated[fields.Positive | None, _SEARCH] = None
    """Largest loss with which a student may replace --against, in percentage points for shares,
    else in the metric's unit. Recorded before the first run, so that the results cannot choose it;
    python -m kdtune.analysis takes others. None: no verdict on that."""
    device: Device = "auto"
    """Device of the models: "cuda", "mps" (the GPU of an Apple computer), "cpu", or "auto" (cuda if
    there is such a GPU, else cpu)."""
    gpus: CoresOrZero | None = None
    """Number of GPUs for the study. 0: run on CPUs. None: all GPUs there are."""
    gpus_per_trial: Annotated[float, fields.Bounds("[0.0001, 100000]"), _SEARCH] = 1.0
    """GPUs per trial, a fraction of 1 or a whole number; 0.5 puts two trials on one GPU."""
    cpus_per_trial: Cores | None = None
    """CPU cores per trial. None: 1 without a GPU; with GPUs, the machine's cores divided by the
    number of its concurrent trials. Without a GPU it is also the number of threads."""
    loader_workers: CoresOrZero | None = None
    """Processes per trial that decode and augment images. 0: the trial does it itself. None: 0
    without a GPU; with one, a process for each core of the trial but one if images are files."""
    address: Annotated[str | None, _SEARCH] = None
    """Address of a running Ray cluster ("auto" on one of its machines). None: this machine only."""
    cache: Annotated[str | None, fields.Setting(path=True)] = None
    """Folder of the cache of images, logits and features. None: kdtune in the user's cache
    folder."""
    cache_gb: fields.NotNegative = 20.0
    """Maximum size of the cache in GB; least recently used entries are deleted first. 0: no
    cache."""
    tracker: Annotated[tuple[TrackerName, ...], _SEARCH] = field(default=(), compare=False)
    """Trackers that the study is sent to while it runs: mlflow, wandb (Weights & Biases), one run
    per trial. They are configured by their own variables, MLFLOW_TRACKING_URI, WANDB_MODE, .... Not
    part of study.json."""
    notify: Annotated[str | None, fields.Setting(commands=fields.ONLY_SEARCH, any_text=True)] = (
        field(default=None, compare=False, repr=False)
    )
    """Shell command that is run when the study ends, with the conclusion on its standard input and
    in KDTUNE_STUDY, KDTUNE_FOLDER, KDTUNE_STATUS (completed, failed or interrupted) and
    KDTUNE_VERDICT. Not part of study.json."""
    dump: Annotated[str | None, fields.Setting(commands=("teacher",), path=True)] = field(
        default=None, compare=False, repr=False
    )
    """File, .parquet or .npz, for the teacher's logits on train, val and test without augmentation.
    Another study uses it with --teacher FILE --augment none, without the network. None: no file.
    Not part of study.json."""
    check: Annotated[bool, _SEARCH] = field(default=False, compare=False, repr=False)
    """Run no trial, but print what would be wrong with the study: fine-tune the teacher, and train
    each student for one epoch, with distillation and without. Exit code 1: something is. Not part
    of study.json."""
    verbose: Annotated[bool, _SEARCH] = field(default=False, compare=False, repr=False)
    """Print every setting before the trials, and means, costs and methods after them. Not part of
    study.json."""
    flags: Annotated[tuple[str, ...], _NO_FLAG] = field(default=(), compare=False, repr=False)
    """Set by the command line: the fields that flags have given. Not part of study.json."""

    def __post_init__(self) -> None:
        fields.check(self, "run", isinstance(self.run, Run), "be a Run")
        fields.check(self, "space", isinstance(self.space, Mapping), "be a dict of lists or Ranges")
        fields.check(self, "baseline", isinstance(self.baseline, Mapping), "be a dict of values")
        fields.check(self, "unless", isinstance(self.unless, Mapping), "be a dict of dicts")
        names = (self.tracker,) if isinstance(self.tracker, str) else self.tracker
        fields.check(self, "tracker", isinstance(names, list | tuple), "be a list of names")
        object.__setattr__(self, "tracker", tuple(names))
        if self.train is None:
            run, values = use_names(self.run, self.space)
            name, run = fields.name_of_data(run.data), _with_study_values(run, values)
            metric = f"val/{str(self.metric).removeprefix('val/')}"
            object.__setattr__(self, "metric", metric)
        else:
            name, run = name_of(self.train).rpartition(":")[2], self.run
            values = to_space(self.space)
        for field_name, value in {"name": self.name or name, "run": run, "space": values}.items():
            object.__setattr__(self, field_name, value)
        fields.check_fields(self)
        fits = re.fullmatch(NAME, self.name) is not None
        fields.check(self, "name", fits, f"match {NAME} (letters, digits, . _ -; --name)")
        _check_study(self)

    @cached_property
    def base_run(self) -> BaseRun:
        """The run that samples of the space are laid over, of repeat 0 of a training function.

        That of a training function has the first value of each list and the low end of each range.
        """
        if self.train is None:
            return self.run
        values = tuple((name, ends_of(listed)[0]) for name, listed in self.space.items())
        return FunctionRun(_task_of_function(self), values, self.epochs)

    @cached_property
    def task(self) -> Task:
        """What the trials train, and the metric by which the study decides."""
        task = self.base_run.task
        if self.train is not None:
            return task
        return task.deciding_by(find_metric(self.metric.removeprefix("val/"), mode=self.mode))

    def has_effect(self, name: str) -> bool:
        """Return True if a hyperparameter has an effect in some configuration of the space."""
        task = self.task
        like = task.hyperparameters[name].like
        if like is not None and name not in self.space and self.base_run.value(name) is None:
            return False  # it is what the other one is
        base = {other: self.base_run.value(other) for other in task.names}
        lists = (ends_of(self.values(other)) for other in task.deciding)
        for values in itertools.product(*lists):
            config = base | dict(zip(task.deciding, values, strict=True))
            if task.resolved(task.canonical(config))[name] is not None:
                return True
        return False

    def values(self, name: str) -> Values:
        """Return the values of a hyperparameter: its list or range, or the one value of the run."""
        return self.space.get(name) or (self.base_run.value(name),)  # type: ignore[return-value]

    def all_values(self, name: str) -> Values:
        """Return the values of a hyperparameter, that of the baseline included."""
        values, baseline = self.values(name), self.task.baseline
        if name not in baseline or isinstance(values, Range) or self.plain_share == 0:
            return values
        return tuple(dict.fromkeys((*values, baseline[name])))

    @property
    def has_plain(self) -> bool:
        """Whether the study has the baseline, for distillation alpha = 1."""
        baseline = self.task.baseline.items()
        if not baseline:
            return False
        return self.plain_share > 0 or all(v in ends_of(self.values(n)) for n, v in baseline)

    def runs(self) -> list[Any]:
        """Return a grid's configurations without duplicates, in the order of the space; repeat 0.

        Each setting of the other hyperparameters is also there with the values of the baseline
        (alpha = 1), unless plain_share is 0. Empty for a sampler, which proposes
        configurations during the search. They are of `Run`, or `FunctionRun` with `train`.
        """
        if self.search != "grid":
            return []
        lists: dict[str, Any] = dict(self.space)
        baseline = self.task.baseline if self.plain_share > 0 else {}
        spaces = [lists]
        if len(baseline) == 1:
            ((name, value),) = baseline.items()
            values = self.values(name)
            if value not in values:  # type: ignore[operator]
                lists[name] = (*values, as_declared(self, name, value))  # type: ignore[misc]
        elif baseline:
            spaces.append(lists | {name: (value,) for name, value in baseline.items()})
        runs: dict[str, BaseRun] = {}
        for space in spaces:
            for sample in itertools.product(*space.values()):
                run = self.base_run.sample(repeat=0, **dict(zip(space, sample, strict=True)))
                runs.setdefault(run.identity, run)
        return list(runs.values())

    @property
    def default(self) -> BaseRun | None:
        """The recipe's default configuration, as a run of repeat 0; None for a training function.

        Each hyperparameter has the value of `run` where its list or range allows that, else the
        first value of the list or the nearest end of the range. About one search in ten chooses a
        configuration that is worse on new data than its default (overtuning, arXiv:2506.19540), so
        each search begins with this one, and compares the chosen one with it if `has_default`.
        """
        if not self.task.is_distillation:
            return None
        base = self.base_run
        values = {n: _nearest(base.resolved_value(n), self.values(n)) for n in self.space}
        return base.sample(repeat=0, **values)

    @property
    def has_default(self) -> bool:
        """Whether `default` is the recipe's, since each list or range allows its value."""
        base = self.base_run
        return self.task.is_distillation and all(
            covers(self.values(name), (base.resolved_value(name),)) for name in self.space
        )

    @property
    def searched(self) -> list[str]:
        """The hyperparameters that have more than one value in this study, the models first."""
        several = [name for name, values in self.space.items() if len(set(ends_of(values))) > 1]
        models: tuple[str, ...] = ("student", "train_images", "teacher", "teacher_epochs")
        models = models if self.task.is_distillation else ()
        first = [name for name in models if name in several]
        # those that only the baseline gives a second value
        added = [
            name
            for name, value in (self.task.baseline.items() if self.has_plain else ())
            if name not in several and set(ends_of(self.values(name))) != {value}
        ]
        return [*first, *added, *(name for name in several if name not in models)]

    @property
    def learns(self) -> bool:
        """Whether proposals depend on the results of earlier ones."""
        return self.search not in ("grid", "random")

    @property
    def is_fixed(self) -> bool:
        """Whether all trials are known from the start: each configuration in each repeat."""
        adapts = self.stop_early or self.until_decided
        return self.search == "grid" and self.policy == "all" and not adapts

    def covers(self, other: Study) -> bool:
        """Return True if every configuration of the other study is possible in this one."""
        if self.search == other.search == "grid":
            return {r.identity for r in other.runs()} <= {r.identity for r in self.runs()}
        return all(covers(self.values(n), other.values(n)) for n in self.task.names)

    @property
    def may_use_gpus(self) -> bool:
        """Whether the study uses GPUs where there are some."""
        return self.gpus != 0 and self.device != "cpu"

    @property
    def limits(self) -> Limits:
        """The limits on the cost of a student."""
        return Limits(self.max_ms, self.max_params)

    @property
    def uri(self) -> str | None:
        """URI of the study on an object store, out/name; None if out is a folder."""
        return join_uri(self.out, self.name) if "://" in self.out else None

    @property
    def folder(self) -> Path:
        """Folder of the study, out/name; with an object store, its local working folder."""
        if self.uri is None:
            return Path(self.out).expanduser() / self.name
        digest = hashlib.sha256(self.uri.encode()).hexdigest()[:8]
        return cache_folder() / "studies" / digest / self.name

    def absolute(self) -> Study:
        """Return the same study with absolute paths, since a trial runs in another folder."""
        paths: dict[str, Any] = {}
        for name in ("cache", "warm_start", "out", "against"):
            path = getattr(self, name)
            is_teacher = name == "against" and path == AGAINST_TEACHER
            if path is not None and "://" not in path and not is_teacher:
                paths[name] = str(Path(path).expanduser().absolute())
        if self.train is None:
            paths["run"] = self.run.absolute()
        return replace(self, **paths)

    def to_json(self, fingerprints: Mapping[str, str] | None = None) -> str:
        """Return the text of study.json: schema, fingerprints and all fields of the study.

        Args:
            fingerprints: Of the data, the teacher and the student, as far as they are known.
        """
        content: dict[str, Any] = {"schema": SCHEMA, "fingerprints": dict(fingerprints or {})}
        left_out = {*NOT_SAVED, *(("train", *OF_FUNCTION) if self.train is None else ("run",))}
        if self.metric != ACCURACY:  # as studies of earlier versions have it
            left_out -= {"metric", "mode"}
        values = dataclasses.asdict(self)
        content |= {name: value for name, value in values.items() if name not in left_out}
        if self.train is None:
            del content["run"]["objects"]
        else:
            content["train"] = name_of(self.train)
        return json.dumps(content, indent=2)

    @staticmethod
    def from_json(text: str) -> Study:
        """Return the study of `to_json`, also of an older schema.

        Raises:
            InputError: The text is of a newer schema.
            TypeError, KeyError, ValueError: It is no study.
        """
        return Study.from_values(migrate(json.loads(text)))

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> Study:
        """Return the study of JSON that `migrate` has returned; raise as `from_json` does."""
        arguments = {k: v for k, v in values.items() if k not in ("schema", "fingerprints")}
        space = values["space"].items()
        arguments["space"] = {k: Range(**v) if isinstance(v, dict) else v for k, v in space}
        if not values.get("train"):
            arguments["run"] = Run(**values["run"])
        return Study(**arguments)


def _task_of_function(study: Study) -> Task:
    """Return the task of a study's training function.

    Raises:
        InputError: A field names what is not there, or mode is missing.
    """
    baseline, space = study.baseline, study.space
    check_names("a hyperparameter of baseline", baseline, space)
    check_names("a hyperparameter of unless", study.unless, space)
    for name, others in study.unless.items():
        check_names(f"a hyperparameter of unless of {name}", others, space)
        if name in baseline and any(baseline.get(n) == value for n, value in others.items()):
            raise InputError(
                f"baseline must not name {name}, which has no effect with the other values of the "
                f"baseline, but got {dict(baseline)}; leave it out"
            )
    score = parse_metric(study.metric)
    better = None if study.mode is None else "higher" if study.mode == "max" else "lower"
    declared = own_metric(score, better)
    if declared.better is None:
        raise InputError(
            f'mode must be "max" or "min" for metric={study.metric!r}, which kdtune does not know'
        )
    return Task(
        hyperparameters={
            n: fields.Hyperparameter(unless=dict(study.unless.get(n, {}))) for n in space
        },
        metrics={score: declared},
        score=score,
        baseline=dict(baseline),
        table_metrics=(score,),
        baseline_words=", ".join(f"{name} = {value}" for name, value in baseline.items()),
        examples="examples",
    )


# The space of a study.


def _with_study_values(run: Run, space: Mapping[str, Values]) -> Run:
    """Return the base run of a study with the models that it began with, `Run.study_values`.

    These are the recorded ones as far as the study still has them, else those of the run, else the
    first of the space. Of several numbers of training images the run has the largest, and none is
    that of the beginning.
    """
    begun = dict(run.study_values)
    sizes = [n for n in ends_of(space.get("train_images", ())) if isinstance(n, int)]
    for name in OF_STUDY:
        candidates = (begun.get(name), getattr(run, name))
        allowed = space.get(name, candidates[1:])
        if isinstance(allowed, Range):
            begun[name] = next((c for c in candidates if c is not None), allowed.low)
        else:
            begun[name] = next((c for c in candidates if c in allowed), allowed[0])
    values: dict[str, Any] = dict(begun)
    largest = None
    if len(set(sizes)) > 1:
        begun["train_images"], values["train_images"] = None, (largest := max(sizes))
    for role in ("teacher", "student"):
        weights, models = getattr(run, f"{role}_weights"), models_of(space.get(role, ()))
        values[f"{role}_weights"] = paired(weights, models)
    study_values = tuple(begun.items())
    return replace(run, **values, largest_train_images=largest, study_values=study_values)


def as_declared(study: Study, name: str, value: fields.Value) -> fields.Value:
    """Return the value of a baseline as a float where the hyperparameter is one."""
    return float(value) if isinstance(study.base_run.value(name), float) else value


def recorded_run(study: Study, config: Mapping[str, Any]) -> BaseRun:
    """Return the run of a configuration that a record of the study has, of repeat 0.

    Raises:
        TypeError, KeyError, ValueError: It is no configuration of the study's task.
    """
    base = study.base_run
    if isinstance(base, Run):
        return base.sample(**sample_values(config, base))
    if set(config) != set(study.task.names):
        raise KeyError(f"config must have {', '.join(study.task.names)}")
    return base.sample(**{name: v for name, v in config.items() if v is not None})


def _nearest(value: fields.Value, values: Values) -> fields.Value:
    """Return a value if the list or range allows it, else the first one or the nearest end."""
    if covers(values, (value,)):
        return value
    if not isinstance(values, Range):
        return values[0]
    return values.low if isinstance(value, str) or value < values.low else values.high


def flags_without_effect(study: Study) -> list[str]:
    """Return a sentence for each flag that was given and changes nothing in any configuration."""
    return [
        f"--{name.replace('_', '-')} was given, but has no effect in any configuration"
        for name in study.flags
        if name in study.task.names and not study.has_effect(name)
    ]


# Checks of a study that go beyond the bounds of its fields.


def _check_study(study: Study) -> None:
    """Raise InputError if fields of a study contradict each other."""
    is_place = not re.match(r"\w+:/(?!/)", study.out)
    uri = "be a folder, or a URI of an object store such as s3://BUCKET/runs"
    fields.check(study, "out", is_place, uri)
    for name in ("cache", "warm_start"):
        fields.check(study, name, "://" not in (getattr(study, name) or ""), "be a folder")
    is_share = study.gpus_per_trial <= 1 or float(study.gpus_per_trial).is_integer()
    fields.check(study, "gpus_per_trial", is_share, "be a fraction of 1 or a whole number")
    trackers, named = get_args(TrackerName), study.tracker
    are_trackers = set(named) <= set(trackers) and len(set(named)) == len(named)
    fields.check(study, "tracker", are_trackers, f"be among {', '.join(trackers)}, each once")
    device, gpus = study.device, study.gpus
    fields.check(study, "gpus", device != "cpu" or not gpus, "be 0 with --device cpu")
    fields.check(study, "gpus", device != "cuda" or gpus != 0, "be 1 or more with --device cuda")
    fields.check(study, "gpus", device != "mps" or gpus in (None, 1), "be 1 with --device mps")
    is_local = device != "mps" or study.address is None
    fields.check(study, "address", is_local, "be left out with --device mps, which is no cluster's")
    is_fixed = study.run.precision != "auto" or study.address is None
    other = "be fp32, bf16 or fp16 with --address: machines may differ (T4 and V100 have no bf16)"
    fields.check(study.run, "precision", is_fixed, other)
    match = re.fullmatch(BUDGET, "1h" if study.budget is None else study.budget)
    forms = "be a number above 0 with runs, epochs or h, such as 400runs"
    fields.check(study, "budget", match and float(match[1]) > 0, forms)
    is_limited = (study.budget is not None) == study.until_decided
    limit = "be given with --repeats auto and only then, such as --budget 400runs"
    fields.check(study, "budget", is_limited, limit)
    has_margin = study.against is None or study.margin is not None
    fields.check(study, "margin", has_margin, "be given with --against, such as --margin 1.0")
    is_search = study.search in SEARCHES or fields.is_function_name(study.search)
    searches = f"be one of {', '.join(SEARCHES)} or module:factory, which returns Optuna's sampler"
    fields.check(study, "search", is_search, searches)
    begins = study.warm_start is None or study.search != "grid"
    fields.check(study, "warm_start", begins, "be left out with --search grid")
    _check_size(study)  # before anything looks at each value
    if study.train is None:
        _check_distillation(study)
    else:
        _check_function(study)
    _check_space(study)


def _check_distillation(study: Study) -> None:
    """Raise InputError if the study and its run contradict each other."""
    run = study.run
    for name in [name for name in OF_FUNCTION if name not in ("metric", "mode")]:
        without = "be left out without train=..., a training function of your own"
        fields.check(study, name, getattr(study, name) == getattr(Study, name, {}), without)
    is_own = bool(study.task.metrics[study.task.score].home)
    without = "be left out but with a metric of your own, module:function"
    fields.check(study, "mode", study.mode is None or is_own, without)
    counts_images = study.task.score == "acc" or not study.until_decided
    accuracy = "be acc with --repeats auto, whose test counts the images that are right"
    fields.check(study, "metric", counts_images, accuracy)
    has_all = study.policy == "all" and not study.until_decided
    without = "be left out with --policy race and --repeats auto, since all teachers come first"
    name = "folds" if run.folds is not None else "teacher_train_images"
    is_shared = run.folds is None and run.teacher_train_images != "same"
    fields.check(run, name, is_shared or has_all, without)
    if run.extra is not None and max(ends_of(study.values("extra_share"))) == 0:
        raise InputError("--extra has no effect with --extra-share 0; give --extra-share 0.5")
    fields.check(study, "margin", (study.margin or 0) < 100, "be below 100 percentage points")
    _check_named_weights(study)
    _check_configurations(study)


def _check_function(study: Study) -> None:
    """Raise InputError if a study of a training function has what it cannot have."""
    without = "be left out with train=..., whose own settings are in its module or in the space"
    fields.check(study, "run", study.run == Run(), without)
    fields.check(study, "space", study.space, "have at least one hyperparameter of train")
    is_known = not study.stop_early or study.base_run.planned_epochs is not None
    epochs = "know how many epochs train yields (epochs=N, or a hyperparameter named epochs)"
    fields.check(study, "stop_early", is_known, epochs)
    for name in ("max_ms", "max_params", "against", "margin"):
        without = "be left out with train=..., since it is for students"
        fields.check(study, name, getattr(study, name) is None, without)
    for name, value in study.baseline.items():
        check_value(f"baseline: {name}", value)
        is_added = study.plain_share > 0 and len(study.baseline) == 1
        if not is_added and not covers(study.values(name), (value,)):
            raise InputError(
                f"baseline must lie in the space, but got {name}={value!r} of "
                f"{study.values(name)}; add it to the list"
            )


def _check_configurations(study: Study) -> None:
    """Raise InputError if values of the space are impossible together."""
    names = ("schedule", "warmup_epochs", "epochs")
    for schedule, warmup_epochs, epochs in itertools.product(
        *(ends_of(study.values(name)) for name in names)
    ):
        check_warmup(schedule, float(warmup_epochs), float(epochs))  # type: ignore[arg-type]
    share: Any = max(ends_of(study.values("extra_share")))
    batch_size: Any = min(ends_of(study.values("batch_size")))
    if share > 0:  # which the run checks
        replace(study.run, extra_share=share, batch_size=batch_size)
    modes = ends_of(study.space.get("batch_norm", (study.run.batch_norm,)))
    drifts = "train" in modes and "head" in ends_of(study.values("trainable"))
    has_passes = study.run.largest_train_images is not None and study.run.budget_per == "steps"
    needed = "be epochs with several --train-images, --trainable head and --batch-norm train"
    fields.check(study.run, "budget_per", not (drifts and has_passes), needed)
    files = [name for name in ends_of(study.values("teacher")) if fields.is_output_file(str(name))]
    is_network = study.dump is None or not files
    fields.check(study, "dump", is_network, "be left out with a teacher that is a file of outputs")


def _check_named_weights(study: Study) -> None:
    """Raise InputError if MODEL=WEIGHTS names a model that the study does not have.

    An experiment may name the weights of several students; a command that trains one of them is
    given them all.
    """
    for role in ("student", "teacher"):
        weights, values = getattr(study.run, f"{role}_weights"), study.values(role)
        if isinstance(weights, str) or isinstance(values, Range):
            continue
        models = models_of(values)
        named = [model for model, _ in fields.pairs(weights)]
        unknown = [model for model in named if model not in models]
        if unknown and (role in study.space or len(unknown) == len(named)):
            hint = did_you_mean(unknown[0], models) or f" ({', '.join(models)})"
            raise InputError(
                f"--{role}-weights MODEL=WEIGHTS must name a {role} of the study, but got "
                f"{unknown[0]}{hint}"
            )


def _check_size(study: Study) -> None:
    """Raise InputError if the study has too many configurations, or runs, to be planned.

    They are counted without being made, so equal ones (temperature at alpha = 1) count apart.
    """
    lists = [len(values) for values in study.space.values() if not isinstance(values, Range)]
    count = math.prod(lists) if study.search == "grid" else study.samples
    # a race decides itself how many repeats a configuration gets
    runs = count * study.repeats if study.policy == "all" else 0
    if max(count, *lists, 0) > MAX_CONFIGURATIONS or runs > MAX_RUNS:
        raise InputError(
            f"a study must have at most {MAX_CONFIGURATIONS} configurations and {MAX_RUNS} runs, "
            f"but has {shown(count)} configurations in {study.repeats} repeats; give fewer"
        )


def _check_space(study: Study) -> None:
    """Raise InputError unless each value is allowed, and has an effect somewhere."""
    for name, values in study.space.items():
        if isinstance(values, Range) and (name in OF_STUDY or study.search == "grid"):
            raise InputError(
                f"{name} must be a list, but got {values}; ranges need --search random or tpe, and "
                f"models and train_images cannot have them"
            )
        for value in ends_of(values):
            if study.train is None:
                replace(study.run, **{name: value})  # type: ignore[arg-type]
            else:
                check_value(name, value)
    for name, values in study.space.items():
        if len(set(ends_of(values))) > 1 and not study.has_effect(name):
            raise InputError(
                f"{name} is searched, but has no effect in any configuration; give it one "
                f"value (--{name.replace('_', '-')} {ends_of(values)[0]})"
            )


# A study that has not begun.


def check_new_study(study: Study) -> None:
    """Raise InputError if a new study names a path that does not exist.

    Commands call it before they load torch and Ray. A study that has begun is left to the driver:
    its data may have moved.
    """
    if study.uri is not None or (study.folder / STUDY).exists():
        return
    for requirement, name in _paths(study) if study.train is None else ():
        check_exists(requirement, name)


def _paths(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the paths that a study of distillation names, each with what it must be."""
    run = study.run
    if not fields.is_named_data(run.data):
        yield fields.FORMS_OF_DATA, run.data
    if run.extra is not None and not fields.is_named_extra(run.extra):
        yield "--extra must be rest, module:factory or a folder", run.extra
    if study.warm_start is not None:
        yield "--warm-start must be the folder of a study", study.warm_start
    if study.against not in (None, AGAINST_TEACHER):
        yield "--against must be teacher, a file or the folder of a study", str(study.against)
    for role in get_args(fields.Role):
        for model in models_of(study.values(role)):
            weights = replace(run, **{role: model}).weights_of(role)  # type: ignore[arg-type]
            if fields.is_output_file(model):
                yield "a teacher without a network must be a file of its outputs", weights
            elif weights not in ("default", "none"):
                yield f'--{role}-weights must be "default", "none" or a file', weights


# Objects and files of outputs: those that the space lists, those that the study lacks.


def check_objects(study: Study) -> None:
    """Raise InputError if the study names objects that have not been passed."""
    missing = {n: k for n, k in object_names(study).items() if n not in study.run.objects.passed}
    if missing:
        raise missing_error(missing, str(study.uri or study.folder))


def object_names(study: Study) -> dict[str, str]:
    """Return the name of each object of a study, with the field of a run that it is for."""
    names: dict[str, str] = {}
    for kind in KINDS:
        models = [study.run.data] if kind == "data" else models_of(study.values(kind))
        for name in filter(fields.is_object, models):
            names.setdefault(name, kind)
    return names


def describe_fixed_students(study: Study) -> list[str]:
    """Return a sentence for students that begin with the same weights in every repeat."""
    passed, students = study.run.objects.passed, study.values("student")
    return [
        f"the student {name} is a module, so all repeats begin with its weights and differ only in "
        f"order, augmentation and dropout; pass a function that makes the module if the initial "
        f"weights should vary, too"
        for name in map(str, ends_of(students))
        if name in passed and passed[name].is_module
    ]


# The default study.


def fashion() -> Study:
    """Return the default study: does distillation help with 300 labelled images of Fashion-MNIST?

    It has eight repeats, since four rarely reach significance after Holm's correction. A trial
    takes about two seconds on one core.
    """
    run = Run(
        train_images=300,
        teacher="kdtune.models:fashion_teacher",
        teacher_weights="none",
        teacher_epochs=20,
        teacher_lr=2e-2,
        teacher_optimizer="adamw",
        teacher_weight_decay=1e-2,
        teacher_schedule="onecycle",
        teacher_batch_size=64,
        student="kdtune.models:fashion_student",
        student_weights="none",
        optimizer="adamw",
        lr=2e-2,
        weight_decay=1e-2,
        schedule="onecycle",
        epochs=60,
        batch_size=64,
    )
    return Study(run=run, space={"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}, repeats=8)

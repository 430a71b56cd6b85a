"""Configuration of a study: a run, the space searched around it and what it runs on.

A `Run` is flat, so a sample of the space is laid over it with `replace(run, **sample)`, and a
misspelt name is an error. The string under a field is the help of its flag.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from kdtune.config.base_run import BaseRun
from kdtune.config.bounds import (
    MAX_CONFIGURATIONS,
    MAX_CORES,
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_PARAMS,
    MAX_REPEATS,
    MIN_GPU,
)
from kdtune.config.cost import Limits
from kdtune.config.fields import ONLY_SEARCH, Setting, Value, check, check_fields
from kdtune.config.files import cache_folder, join_uri
from kdtune.config.function_run import Mode, name_of
from kdtune.config.hyperparameters import (
    Range,
    Values,
    covers,
    ends_of,
)
from kdtune.config.migrations import migrate
from kdtune.config.names import name_of_data
from kdtune.config.run import Run
from kdtune.config.space import (
    begun_with,
    default_run,
    function_run,
    grid,
    has_effect,
    searched,
    to_space,
)
from kdtune.config.study_checks import check_study
from kdtune.config.study_json import arguments_of, to_json
from kdtune.config.study_objects import take_objects, take_output_files
from kdtune.config.task import Task
from kdtune.config.trackers import TrackerName, check_names

Scope = Literal["last", "best", "last-5-avg"]
Format = Literal["md", "csv", "json", "latex"]
Search = Literal["grid", "random", "tpe"]
Policy = Literal["all", "race"]
KeptStudents = Literal["best", "all", "none"]
Device = Literal["auto", "cpu", "cuda", "mps"]
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


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
    out: Annotated[str, Setting(place=True)] = "runs"
    """Folder of all studies; on a cluster one that all machines share, or s3://BUCKET/PREFIX
    (AWS_ENDPOINT_URL selects a service other than Amazon's)."""
    run: Annotated[Run, Setting(commands=())] = field(default_factory=Run)
    space: Annotated[Mapping[str, Sequence[Any] | Range], Setting(commands=())] = field(
        default_factory=dict  # of values; models may also be objects
    )
    train: Annotated[str | Callable[..., Any] | None, Setting(commands=())] = None
    """Training function of a study of its own trials, or module:function. It is called as
    train(config, repeat), or train(config, repeat, folder) if it has a parameter of that name, and
    yields a dict of metrics per epoch, such as {"val/acc": 0.9}; see docs/extending.md. None: the
    trials are distillation runs, see `run`."""
    metric: Annotated[str, Setting(commands=())] = "val/acc"
    """Metric of `train` that decides, on val."""
    mode: Annotated[Mode | None, Setting(commands=())] = None
    """Whether the metric of `train` is to be as large as possible ("max") or as small ("min").
    None: as for kdtune's metric of the same name."""
    baseline: Annotated[Mapping[str, Value], Setting(commands=())] = field(default_factory=dict)
    """Hyperparameters of `train` with the values that they have in the baseline, such as
    {"alpha": 1.0}. Empty: there is no baseline, and so no verdict."""
    unless: Annotated[Mapping[str, Mapping[str, Value]], Setting(commands=())] = field(
        default_factory=dict
    )
    """Hyperparameters of `train` with the values of others with which they have no effect, such as
    {"temperature": {"alpha": 1.0}}. Configurations that differ in nothing else are run once."""
    epochs: Annotated[int | None, Setting(low=1, high=MAX_EPOCHS, commands=())] = None
    """Number of epochs that `train` yields, unless a hyperparameter named epochs says it. A trial
    with fewer counts as truncated. None: it is not known."""
    search: Annotated[Search, Setting(commands=ONLY_SEARCH)] = "grid"
    """How configurations are proposed: "grid" (every combination of the lists), "random", or "tpe"
    (Optuna's Tree-structured Parzen Estimator, which learns from the results). Ranges need "random"
    or "tpe"."""
    samples: Annotated[int, Setting(low=1, high=MAX_CONFIGURATIONS, commands=ONLY_SEARCH)] = 60
    """Number of configurations that "random" and "tpe" propose."""
    plain_share: Annotated[float, Setting(low=0, below=1, commands=ONLY_SEARCH)] = 0.5
    """Share of the proposals of "random" and "tpe" without distillation (alpha = 1), so that the
    baseline is tuned as hard; a grid has every setting of the other hyperparameters also at alpha =
    1. 0: only what the space holds."""
    policy: Annotated[Policy, Setting(commands=ONLY_SEARCH)] = "all"
    """How repeats are allocated: "all" (each configuration gets all repeats), or "race" (racing:
    one repeat each, more for configurations not yet eliminated, then new repeats to confirm the
    best, and others for the final numbers of the finalists and of the recipe's default)."""
    race_level: Annotated[float, Setting(above=0, below=1, commands=ONLY_SEARCH)] = 0.1
    """Error rate of racing: probability, over all interim analyses, of dropping a configuration in
    favour of an equally good one; per pair, not family-wise."""
    confirm: Annotated[int, Setting(low=0, high=MAX_CONFIGURATIONS, commands=ONLY_SEARCH)] = 3
    """Number of configurations with, and of those without distillation that "race" confirms on new
    repeats."""
    stop_early: Annotated[bool, Setting(commands=ONLY_SEARCH)] = False
    """Prune trials of the first repeat that are behind the others at the same epoch."""
    repeats: Annotated[int, Setting(low=1, high=MAX_REPEATS, commands=ONLY_SEARCH)] = 8
    """Number of repeats (random seeds) of every configuration; with "race" the maximum. Use 8 or
    more: 4 rarely reach significance. "auto": add final repeats until the difference in validation
    accuracy is decided for new repeats and new images, --budget is spent, or more repeats cannot
    decide it with these val images."""
    until_decided: Annotated[bool, Setting(commands=())] = False
    """Set by --repeats auto: add final repeats of the two finalists until they are decided, or
    cannot be."""
    level: Annotated[float, Setting(above=0, below=1, commands=ONLY_SEARCH)] = 0.05
    """Error rate of --repeats auto: probability, over all interim analyses, of a decision where
    there is no difference. Half of it is for repeats, half for val images."""
    budget: Annotated[str | None, Setting(commands=ONLY_SEARCH)] = None
    """Limit of --repeats auto for the whole study: 400runs, 20000epochs or 3h (hours, summed over
    trials). A study ends before it where it is decided, or where only more images could decide."""
    warm_start: Annotated[str | None, Setting(commands=ONLY_SEARCH, place=True)] = None
    """Folder of another study, whose best configurations "random" and "tpe" propose first."""
    keep: Annotated[KeptStudents, Setting(commands=ONLY_SEARCH)] = "best"
    """Students whose weights stay on disk once the study is complete: "best" (those of the best
    configuration, in students/), "all" (those of all runs in trials/, too) or "none". Predictions
    always stay."""
    rerun_dropped: Annotated[bool, Setting(commands=ONLY_SEARCH)] = False
    """Run the dropped runs again, see `python -m kdtune.analysis STUDY --drop TRIAL`."""
    max_ms: Annotated[float | None, Setting(above=0, high=MAX_COUNT, commands=ONLY_SEARCH)] = None
    """Limit on the student's latency at batch size 1, in milliseconds: the conclusion names the
    best student within it. All students are trained. None: no limit."""
    max_params: Annotated[int | None, Setting(low=1, high=MAX_PARAMS, commands=ONLY_SEARCH)] = None
    """Limit on the student's number of parameters, as --max-ms. None: no limit."""
    device: Device = "auto"
    """Device of the models: "cuda", "mps" (the GPU of an Apple computer), "cpu", or "auto" (cuda if
    there is such a GPU, else cpu)."""
    gpus: Annotated[int | None, Setting(low=0, high=MAX_CORES)] = None
    """Number of GPUs for the study. 0: run on CPUs. None: all GPUs there are."""
    gpus_per_trial: Annotated[float, Setting(low=MIN_GPU, high=MAX_CORES, commands=ONLY_SEARCH)] = (
        1.0
    )
    """GPUs per trial, a fraction of 1 or a whole number; 0.5 puts two trials on one GPU."""
    cpus_per_trial: Annotated[int | None, Setting(low=1, high=MAX_CORES)] = None
    """CPU cores per trial. None: 1 without a GPU; with GPUs, the machine's cores divided by the
    number of its concurrent trials. Without a GPU it is also the number of threads."""
    loader_workers: Annotated[int | None, Setting(low=0, high=MAX_CORES)] = None
    """Processes per trial that decode and augment images. 0: the trial does it itself. None: 0
    without a GPU; with one, a process for each core of the trial but one if images are files."""
    address: Annotated[str | None, Setting(commands=ONLY_SEARCH)] = None
    """Address of a running Ray cluster ("auto" on one of its machines). None: this machine only."""
    cache: Annotated[str | None, Setting(place=True)] = None
    """Folder of the cache of images, logits and features. None: kdtune in the user's cache
    folder."""
    cache_gb: Annotated[float, Setting(low=0, high=MAX_COUNT)] = 20.0
    """Maximum size of the cache in GB; least recently used entries are deleted first. 0: no
    cache."""
    tracker: Annotated[tuple[TrackerName, ...], Setting(commands=ONLY_SEARCH)] = field(
        default=(), compare=False
    )
    """Trackers that the study is sent to while it runs: mlflow, wandb (Weights & Biases), one run
    per trial. They are configured by their own variables, MLFLOW_TRACKING_URI, WANDB_MODE, .... Not
    part of study.json."""
    notify: Annotated[str | None, Setting(commands=ONLY_SEARCH, any_text=True)] = field(
        default=None, compare=False, repr=False
    )
    """Shell command that is run when the study ends, with the conclusion on its standard input and
    in KDTUNE_STUDY, KDTUNE_FOLDER, KDTUNE_STATUS (completed, failed or interrupted) and
    KDTUNE_VERDICT. Not part of study.json."""
    dump: Annotated[str | None, Setting(commands=("teacher",), place=True)] = field(
        default=None, compare=False, repr=False
    )
    """File, .parquet or .npz, for the teacher's logits on train, val and test without augmentation.
    Another study uses it with --teacher FILE --augment none, without the network. None: no file.
    Not part of study.json."""
    flags: Annotated[tuple[str, ...], Setting(commands=())] = field(
        default=(), compare=False, repr=False
    )
    """Set by the command line: the fields that flags have given. Not part of study.json."""

    def __post_init__(self) -> None:
        check(self, "run", isinstance(self.run, Run), "be a Run")
        check(self, "space", isinstance(self.space, Mapping), "be a dict of lists or Ranges")
        tracker = (self.tracker,) if isinstance(self.tracker, str) else tuple(self.tracker)
        object.__setattr__(self, "tracker", tracker)
        if self.train is None:
            take_output_files(self)
            take_objects(self)
        own = self.train if self.train is None else name_of(self.train)
        name = name_of_data(self.run.data) if own is None else own.rpartition(":")[2]
        object.__setattr__(self, "name", self.name or name)
        check_fields(self)
        object.__setattr__(self, "space", to_space(self))
        if self.train is None:
            object.__setattr__(self, "run", begun_with(self))
        fits = re.fullmatch(NAME, self.name) is not None
        check(self, "name", fits, f"match {NAME} (letters, digits, . _ -; --name)")
        check_names(self.tracker)
        check_study(self)

    @cached_property
    def base_run(self) -> BaseRun:
        """The run that samples of the space are laid over, of repeat 0 of a training function."""
        return self.run if self.train is None else function_run(self)

    @property
    def task(self) -> Task:
        """What the trials train."""
        return self.base_run.task

    def has_effect(self, name: str) -> bool:
        """Return True if a hyperparameter has an effect in some configuration of the space."""
        return has_effect(self, name)

    def values(self, name: str) -> Values:
        """Return the values of a hyperparameter: its list or range, or the one value of the run."""
        return self.space.get(name) or (self.base_run.value(name),)  # type: ignore[return-value]

    @property
    def has_plain(self) -> bool:
        """Whether the study has the baseline, for distillation alpha = 1."""
        given = self.task.baseline.items()
        if not given:
            return False
        return self.plain_share > 0 or all(v in ends_of(self.values(n)) for n, v in given)

    def runs(self) -> list[Any]:
        """Return a grid's configurations without duplicates, in the order of the space; repeat 0.

        Each setting of the other hyperparameters is also there with the values of the baseline
        (alpha = 1), unless plain_share is 0. Empty for "random" and "tpe", which propose
        configurations during the search. They are of `Run`, or `FunctionRun` with `train`.
        """
        return grid(self)

    @property
    def default(self) -> BaseRun | None:
        """The recipe's default configuration, as a run of repeat 0; None for a training function.

        Each hyperparameter has the value of `run` where its list or range allows that, else the
        first value of the list or the nearest end of the range. About one search in ten chooses a
        configuration that is worse on new data than its default (overtuning, arXiv:2506.19540), so
        every study has the default among its configurations and compares the chosen one with it.
        """
        return default_run(self) if self.task.is_distillation else None

    @property
    def searched(self) -> list[str]:
        """The hyperparameters that have more than one value in this study, the models first."""
        return searched(self)

    @property
    def is_fixed(self) -> bool:
        """Whether all trials are known from the start: each configuration in each repeat."""
        adapts = self.stop_early or self.until_decided
        return self.search == "grid" and self.policy == "all" and not adapts

    def covers(self, other: "Study") -> bool:
        """Return True if every configuration of the other study is possible in this one."""
        if self.search == other.search == "grid":
            return {r.config_id for r in other.runs()} <= {r.config_id for r in self.runs()}
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

    def absolute(self) -> "Study":
        """Return the same study with absolute paths, since a trial runs in another folder."""
        paths: dict[str, Any] = (
            {} if self.uri else {"out": str(Path(self.out).expanduser().absolute())}
        )
        for name in ("cache", "warm_start"):
            if (path := getattr(self, name)) is not None:
                paths[name] = str(Path(path).expanduser().absolute())
        if self.train is None:
            paths["run"] = self.run.absolute()
        return replace(self, **paths)

    def to_json(self, fingerprints: Mapping[str, str] | None = None) -> str:
        """Return the text of study.json: schema, fingerprints and all fields of the study.

        Args:
            fingerprints: Of the data, the teacher and the student, as far as they are known.
        """
        return to_json(self, fingerprints or {})

    @staticmethod
    def from_json(text: str) -> "Study":
        """Return the study of `to_json`, also of an older schema.

        Raises:
            InputError: The text is of a newer schema.
            TypeError, KeyError, ValueError: It is no study.
        """
        return Study.from_values(migrate(json.loads(text)))

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> "Study":
        """Return the study of JSON that `migrate` has returned; raise as `from_json` does."""
        return Study(**arguments_of(values))

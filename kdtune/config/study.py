"""What a study is made of: frozen dataclasses, their checks, their JSON. Neither torch nor Ray.

`Run` is one distillation run, flat, so that a sample of the search space is laid over it with
`replace(run, **sample)` and a misspelt name is an error. `Study` is a run, the space searched
around it and what it runs on. A field's docstring is the `--help` of its flag.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from kdtune.config.errors import InputError as InputError
from kdtune.config.files import cache_folder, join_uri
from kdtune.config.hyperparameters import DECIDING, Range, Values, covers
from kdtune.config.hyperparameters import HYPERPARAMETERS as HYPERPARAMETERS
from kdtune.config.hyperparameters import Config as Config
from kdtune.config.hyperparameters import Value as Value
from kdtune.config.hyperparameters import canonical as canonical
from kdtune.config.run import TEACHER_REPEAT as TEACHER_REPEAT
from kdtune.config.run import Augment as Augment
from kdtune.config.run import BatchNorm as BatchNorm
from kdtune.config.run import Loss as Loss
from kdtune.config.run import Optimizer as Optimizer
from kdtune.config.run import Precision as Precision
from kdtune.config.run import Run as Run
from kdtune.config.run import Schedule as Schedule
from kdtune.config.run import Trainable as Trainable
from kdtune.config.run import check, check_types
from kdtune.config.run import derive_seed as derive_seed

Scope = Literal["last", "best", "last-5-avg"]
Format = Literal["md", "csv", "json", "latex"]
Search = Literal["grid", "random", "tpe"]
Policy = Literal["all", "race"]
BUDGET = r"(\d+(?:\.\d+)?)(runs|epochs|h)"


@dataclass(frozen=True)
class Study:
    """A question: which configuration of the space is best, over the same repeats."""

    name: str = ""
    """Name of the study, its folder in --out. By default that of the data's folder."""
    out: str = "runs"
    """Folder of all studies; on a cluster one that all machines share, or s3://BUCKET/PREFIX
    (AWS_ENDPOINT_URL names another service than Amazon's)."""
    run: Run = field(default_factory=Run)
    space: Mapping[str, Sequence[Value] | Range] = field(default_factory=dict)
    search: Search = "grid"
    """Proposals: "grid" (every combination of the lists), "random", or "tpe" (Optuna's
    Tree-structured Parzen Estimator, learns from the results). Ranges need one of the latter."""
    samples: int = 60
    """Configurations that "random" and "tpe" propose, >= 1."""
    plain_share: float = 0.25
    """Share of the proposals of "random" and "tpe" that are plain training (alpha = 1), in [0, 1);
    a grid has every setting of what remains also at alpha = 1. 0: only what the space holds."""
    policy: Policy = "all"
    """Repeats: "all" (of every configuration), or "race" (one for all, more for those still in
    question, fresh ones to confirm the best, and further fresh ones for the final numbers)."""
    race_level: float = 0.1
    """Chance, over all looks, that "race" drops a configuration because of one as good, (0, 1)."""
    confirm: int = 3
    """Configurations of each side that "race" confirms on fresh repeats, >= 0."""
    stop_early: bool = False
    """Stop a run, in the first repeat, that falls behind the others at the same epoch."""
    repeats: int = 4
    """Repeats of every configuration (seeds), >= 1; with "race" at most. Eight carry a verdict,
    four seldom do. "auto": final repeats until the verdict is decided or --budget is spent."""
    until_decided: bool = False
    """What --repeats auto sets: final repeats of the two finalists until they are decided."""
    level: float = 0.05
    """Chance of a false verdict of --repeats auto, over all looks, in (0, 1)."""
    budget: str | None = None
    """What --repeats auto may spend in all: 400runs, 20000epochs or 3h (hours of runs, summed)."""
    warm_start: str | None = None
    """Folder of another study, whose best configurations "random" and "tpe" propose first."""
    gpus: int | None = None
    """GPUs that the study takes. 0: none, it runs on CPUs. None: all there are."""
    gpus_per_trial: float = 1.0
    """GPUs of one trial; 0.5 puts two trials on one GPU."""
    cpus_per_trial: int = 1
    """CPU cores, and threads, of one trial."""
    loader_workers: int = 0
    """Processes of one trial that make views. 0: the trial itself."""
    address: str | None = None
    """A running Ray cluster ("auto" on one of its machines). None: this machine alone."""
    cache: str | None = None
    """Folder of the shared streams. None: kdtune in the user's cache folder."""
    cache_gb: float = 20.0
    """Size that the folder of streams may have; the least recently used go first. 0: no cache."""

    def __post_init__(self) -> None:
        check(self, "run", isinstance(self.run, Run), "be a Run")
        check(self, "space", isinstance(self.space, Mapping), "be a dict of lists or Ranges")
        object.__setattr__(self, "name", self.name or Path(self.run.data).name)
        check_types(self)
        object.__setattr__(self, "space", {k: _values(k, v) for k, v in self.space.items()})
        pattern = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
        fits = re.fullmatch(pattern, self.name) is not None
        check(self, "name", fits, f"match {pattern} (letters, digits, . _ -; --name)")
        fits = re.match(r"\w+:/(?!/)", self.out) is None
        check(self, "out", fits, "be a folder, or a place on a store such as s3://BUCKET/runs")
        check(self, "cache", "://" not in (self.cache or ""), "be a folder")
        check(self, "repeats", 1 <= self.repeats < 1000, "be 1 or more, and below 1000")
        check(self, "gpus", self.gpus is None or self.gpus >= 0, "be 0 or more")
        whole = self.gpus_per_trial == int(self.gpus_per_trial)
        fits = 0 < self.gpus_per_trial < 1 or (whole and self.gpus_per_trial >= 1)
        check(self, "gpus_per_trial", fits, "be a fraction of 1 or a whole number")
        check(self, "cpus_per_trial", self.cpus_per_trial >= 1, "be 1 or more")
        check(self, "loader_workers", self.loader_workers >= 0, "be 0 or more")
        check(self, "cache_gb", 0 <= self.cache_gb < math.inf, "be 0 or more")
        check(self, "samples", self.samples >= 1, "be 1 or more")
        check(self, "plain_share", 0 <= self.plain_share < 1, "lie in [0, 1)")
        check(self, "confirm", self.confirm >= 0, "be 0 or more")
        for name in ("race_level", "level"):
            check(self, name, 0 < getattr(self, name) < 1, "lie in (0, 1)")
        match = re.fullmatch(BUDGET, self.budget or "1h")
        fits = match is not None and float(match[1]) > 0
        check(self, "budget", fits, "be a number above 0 with runs, epochs or h, such as 400runs")
        if self.until_decided and self.budget is None:
            raise InputError("repeats auto must have a limit; give one, such as --budget 400runs")
        if self.budget is not None and not self.until_decided:
            raise InputError(f"budget is of --repeats auto alone, but got budget={self.budget}")
        if self.warm_start is not None and self.search == "grid":
            raise InputError("warm_start needs --search random or tpe; a grid runs all it has")
        self._check_space()

    def _check_space(self) -> None:
        """Every value searched can be, and has an effect in some configuration."""
        for name, values in self.space.items():
            if isinstance(values, Range) and self.search == "grid":
                raise InputError(
                    f"{name} must be a list for a grid, but got {values}; --search random or tpe"
                )
            for value in _ends(values):
                replace(self.run, **{name: value})  # type: ignore[arg-type]
        every = itertools.product(*(_ends(self.values(name)) for name in DECIDING))
        base = {name: getattr(self.run, name) for name in HYPERPARAMETERS}
        effects = [canonical(base | dict(zip(DECIDING, values, strict=True))) for values in every]
        for name, values in self.space.items():
            if len(set(_ends(values))) > 1 and all(config[name] is None for config in effects):
                raise InputError(
                    f"{name} is searched, but has no effect in any configuration; give it one "
                    f"value (--{name.replace('_', '-')} {_ends(values)[0]})"
                )

    def values(self, name: str) -> Values:
        """What a hyperparameter may be: its list or range, or the one value of the run."""
        return self.space.get(name) or (getattr(self.run, name),)  # type: ignore[return-value]

    @property
    def has_plain(self) -> bool:
        """Whether plain training (alpha = 1) is in the study."""
        return self.plain_share > 0 or 1 in _ends(self.values("alpha"))

    def runs(self) -> list[Run]:
        """A grid's configurations in the order of the space, twins left out; repeat 0.

        With every setting also at alpha = 1. Empty for "random" and "tpe", which propose as the
        search goes on.
        """
        if self.search != "grid":
            return []
        lists: dict[str, Any] = dict(self.space)
        if self.plain_share > 0 and 1 not in self.values("alpha"):  # type: ignore[operator]
            lists["alpha"] = (*self.values("alpha"), 1.0)  # type: ignore[misc]
        runs: dict[str, Run] = {}
        for values in itertools.product(*lists.values()):
            run = replace(self.run, repeat=0, **dict(zip(lists, values, strict=True)))
            runs.setdefault(run.config_id, run)
        return list(runs.values())

    @property
    def searched(self) -> list[str]:
        """The hyperparameters that have more than one value in this study."""
        names = [name for name, values in self.space.items() if len(set(_ends(values))) > 1]
        both = self.has_plain and set(_ends(self.values("alpha"))) != {1}
        return names if "alpha" in names or not both else ["alpha", *names]

    @property
    def is_fixed(self) -> bool:
        """Whether its runs are known before it starts: every configuration in every repeat."""
        adapts = self.stop_early or self.until_decided
        return self.search == "grid" and self.policy == "all" and not adapts

    def covers(self, other: "Study") -> bool:
        """Whether every configuration of the other study could be one of this."""
        if self.search == other.search == "grid":
            return {r.config_id for r in other.runs()} <= {r.config_id for r in self.runs()}
        return all(covers(self.values(n), other.values(n)) for n in HYPERPARAMETERS)

    @property
    def uri(self) -> str | None:
        """Where the study lives on an object store, out/name; None where out is a folder."""
        return join_uri(self.out, self.name) if "://" in self.out else None

    @property
    def folder(self) -> Path:
        """Where the study lives, out/name, or this machine's working folder of one on a store."""
        if self.uri is None:
            return Path(self.out).expanduser() / self.name
        digest = hashlib.sha256(self.uri.encode()).hexdigest()[:8]
        return cache_folder() / "studies" / digest / self.name

    def absolute(self) -> "Study":
        """The same study with absolute paths, since a trial runs in another folder."""
        paths = {} if self.uri else {"out": str(Path(self.out).expanduser().absolute())}
        for name in ("cache", "warm_start"):
            if (path := getattr(self, name)) is not None:
                paths[name] = str(Path(path).expanduser().absolute())
        return replace(self, run=self.run.absolute(), **paths)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """The study as JSON text, enough to run it again."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> "Study":
        """The study of `to_json`. Raises TypeError or ValueError where the text is another's."""
        values = json.loads(text)
        space = {k: Range(**v) if isinstance(v, dict) else v for k, v in values["space"].items()}
        return Study(**{**values, "run": Run(**values["run"]), "space": space})


def _values(name: str, values: object) -> Values:
    """The values of a space, checked to be a range or a list of some."""
    if name not in HYPERPARAMETERS:
        raise InputError(f"{name} cannot be searched; {', '.join(HYPERPARAMETERS)} can")
    if isinstance(values, Range):
        real = next(f for f in fields(Run) if f.name == name).type is float
        return replace(values, low=float(values.low), high=float(values.high)) if real else values
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"{name} must be given a list of values or a Range, but got {values!r}")
    if not values:
        raise InputError(f"{name} must have at least one value to search, but has none")
    return tuple(values)


def _ends(values: Sequence[Value] | Range) -> tuple[Value, ...]:
    """All of a list, both ends of a range."""
    return (values.low, values.high) if isinstance(values, Range) else tuple(values)

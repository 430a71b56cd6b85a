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
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

Loss = Literal["mse", "kl"]
Trainable = Literal["all", "head"]
BatchNorm = Literal["train", "eval"]
Augment = Literal["none", "crop", "resized-crop"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "step", "cosine", "onecycle"]
Precision = Literal["fp32", "bf16"]
Scope = Literal["last", "best", "last-5-avg"]
Format = Literal["md", "csv", "json", "latex"]
Value = float | int | str
Config = dict[str, Value | None]

TEACHER_REPEAT = -1
"""The repeat a teacher is trained in: no student ever sees the same views."""

HYPERPARAMETERS = (
    *("loss", "alpha", "temperature", "optimizer", "lr", "momentum", "weight_decay"),
    *("schedule", "lr_step_size", "lr_gamma", "epochs", "batch_size", "trainable", "batch_norm"),
)
"""The fields of a run that a configuration may set. The others make the study what it is."""


class InputError(ValueError):
    """What the user gave cannot work. The message is one sentence: the value, and what would do."""


@dataclass(frozen=True)
class Run:
    """One distillation run: one student learns from one teacher."""

    data: str = "fashion"
    """Images: "fashion" (the embedded Fashion-MNIST subset), or a folder with train/, val/ and
    perhaps test/, in each of them one subfolder of images a class."""
    train_images: int | None = None
    """Labelled images that the student learns from, drawn evenly over the classes. None: all of
    train. The teacher is always fine-tuned on all of train."""
    image_size: int | None = None
    """Side of a view in pixels. None: the larger input size of the two models."""
    augment: Augment | None = None
    """Training views: "crop" (pad by an eighth, crop, flip), "resized-crop" (RandomResizedCrop,
    flip) or "none". None: "crop" for fashion, "resized-crop" for a folder."""
    teacher: str = "resnet50"
    """Teacher: a torchvision name, timm/NAME, or module:factory, a function of the class count."""
    teacher_weights: str = "default"
    """Teacher's weights: "default" (the library's, downloaded), "none" (random) or a file
    (.safetensors, or a .pt state dict)."""
    teacher_epochs: int = 25
    """Epochs of fine-tuning the teacher before the study. 0: take its weights as they are."""
    teacher_lr: float = 1e-3
    """Learning rate of the teacher's fine-tuning. All else about it is as for the student."""
    student: str = "resnet18"
    """Student: a torchvision name, timm/NAME, or module:factory."""
    student_weights: str = "default"
    """Student's initial weights: "default", "none" or a file."""
    trainable: Trainable = "all"
    """Layers of the student that learn: all, or only the head (its last layer)."""
    batch_norm: BatchNorm = "train"
    """Mode of the student's batch norm layers while it learns: "train" (batch statistics, running
    statistics drift, even under a frozen backbone) or "eval" (frozen statistics)."""
    loss: Loss = "kl"
    """Distillation term: "kl" (softened probabilities, times T squared) or "mse" (logits)."""
    alpha: float = 0.5
    """Weight of the labels' cross-entropy, in [0, 1]; the teacher's term has 1 - alpha.
    1 is plain training, 0 is the teacher only."""
    temperature: float = 4.0
    """Temperature T > 0 that softens the probabilities of "kl"."""
    optimizer: Optimizer = "sgd"
    """Optimiser."""
    lr: float = 1e-3
    """Learning rate, > 0. With "onecycle" its peak."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    weight_decay: float = 0.0
    """Weight decay, >= 0 (decoupled with adamw)."""
    schedule: Schedule = "step"
    """Learning rate over time: constant, step (StepLR), cosine (to 0, an epoch a step) or onecycle
    (a step a batch)."""
    lr_step_size: int = 7
    """Epochs between two decays of "step"."""
    lr_gamma: float = 0.1
    """Factor of each decay of "step", in (0, 1]."""
    epochs: int = 25
    """Passes over the training images, >= 1."""
    batch_size: int = 32
    """Images a step, >= 1. The last batch of an epoch may be smaller."""
    precision: Precision = "fp32"
    """"fp32", or "bf16": both models under autocast; losses stay in float32."""
    seed: int = 0
    """Seed of the study: with the repeat it fixes everything random."""
    repeat: int = 0
    """Number of the repeat, >= 0. The same repeats meet every configuration."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check(self, "alpha", 0 <= self.alpha <= 1, "lie in [0, 1]")
        _check(self, "temperature", 0 < self.temperature <= 1000, "lie in (0, 1000]")
        for name in ("lr", "teacher_lr"):
            _check(self, name, 0 < getattr(self, name) < math.inf, "be greater than 0")
        _check(self, "momentum", 0 <= self.momentum < 1, "lie in [0, 1)")
        _check(self, "weight_decay", 0 <= self.weight_decay < math.inf, "be 0 or more")
        _check(self, "lr_gamma", 0 < self.lr_gamma <= 1, "lie in (0, 1]")
        for name in ("epochs", "batch_size", "lr_step_size"):
            _check(self, name, getattr(self, name) >= 1, "be 1 or more")
        _check(self, "teacher_epochs", self.teacher_epochs >= 0, "be 0 or more")
        _check(self, "repeat", self.repeat >= TEACHER_REPEAT, "be 0 or more")
        for name in ("train_images", "image_size"):
            value = getattr(self, name)
            _check(self, name, value is None or value >= 1, "be 1 or more")

    @property
    def config(self) -> Config:
        """The hyperparameters, without those that have no effect (see `canonical`)."""
        return canonical({name: getattr(self, name) for name in HYPERPARAMETERS})

    @property
    def config_id(self) -> str:
        """Eight hex digits that name the configuration, whatever the repeat."""
        text = json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def trial_id(self) -> str:
        """Name of the one run of this configuration in this repeat."""
        return f"{self.config_id}-r{self.repeat:02d}"

    def absolute(self) -> "Run":
        """The same run with absolute paths of data and weights."""

        def path(value: str, *words: str) -> str:
            return value if value in words else str(Path(value).expanduser().absolute())

        return replace(
            self,
            data=path(self.data, "fashion"),
            teacher_weights=path(self.teacher_weights, "default", "none"),
            student_weights=path(self.student_weights, "default", "none"),
        )

    @property
    def augmentation(self) -> Augment:
        """The training views' augmentation, resolved."""
        return self.augment or ("crop" if self.data == "fashion" else "resized-crop")


@dataclass(frozen=True)
class Study:
    """A question: which configuration of the space is best, over the same repeats."""

    name: str = ""
    """Name of the study, its folder in --out. By default that of the data's folder."""
    out: str = "runs"
    """Folder of all studies; on a cluster one that all machines share, or s3://BUCKET/PREFIX
    (AWS_ENDPOINT_URL names another service than Amazon's)."""
    run: Run = field(default_factory=Run)
    space: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    repeats: int = 4
    """Repeats of every configuration (seeds), >= 1. Eight carry a verdict, four seldom do."""
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
        object.__setattr__(self, "name", self.name or Path(self.run.data).name)
        _check_types(self)
        for name, values in self.space.items():
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise InputError(f"{name} must be given a list of values, but got {values!r}")
        object.__setattr__(self, "space", {k: tuple(v) for k, v in self.space.items()})
        pattern = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
        fits = re.fullmatch(pattern, self.name) is not None
        _check(self, "name", fits, f"match {pattern} (letters, digits, . _ -)")
        _check(self, "repeats", self.repeats >= 1, "be 1 or more")
        _check(self, "gpus", self.gpus is None or self.gpus >= 0, "be 0 or more")
        whole = self.gpus_per_trial == int(self.gpus_per_trial)
        fits = 0 < self.gpus_per_trial < 1 or (whole and self.gpus_per_trial >= 1)
        _check(self, "gpus_per_trial", fits, "be a fraction of 1 or a whole number")
        _check(self, "cpus_per_trial", self.cpus_per_trial >= 1, "be 1 or more")
        _check(self, "loader_workers", self.loader_workers >= 0, "be 0 or more")
        _check(self, "cache_gb", 0 <= self.cache_gb < math.inf, "be 0 or more")
        for name, values in self.space.items():
            if name not in HYPERPARAMETERS:
                raise InputError(f"{name} cannot be searched; {', '.join(HYPERPARAMETERS)} can")
            if not values:
                raise InputError(f"{name} must have at least one value to search, but has none")
        effects = [run.config for run in self.runs()]
        for name, values in self.space.items():
            if len(values) > 1 and all(config[name] is None for config in effects):
                raise InputError(
                    f"{name} is searched, but has no effect in any configuration; give it one "
                    f"value (--{name.replace('_', '-')} {values[0]})"
                )

    def runs(self) -> list[Run]:
        """One run a configuration, in the order of the space, twins left out; repeat 0."""
        runs: dict[str, Run] = {}
        for values in itertools.product(*self.space.values()):
            run = replace(self.run, repeat=0, **dict(zip(self.space, values, strict=True)))  # type: ignore[arg-type]
            runs.setdefault(run.config_id, run)
        return list(runs.values())

    @property
    def searched(self) -> list[str]:
        """The hyperparameters that have more than one value in this study."""
        return [name for name, values in self.space.items() if len(set(values)) > 1]

    @property
    def uri(self) -> str | None:
        """Where the study lives on an object store, out/name; None where out is a folder."""
        return f"{self.out.rstrip('/')}/{self.name}" if "://" in self.out else None

    @property
    def folder(self) -> Path:
        """Where the study lives, out/name, or this machine's working folder of one on a store."""
        if self.uri is None:
            return Path(self.out) / self.name
        digest = hashlib.sha256(self.uri.encode()).hexdigest()[:8]
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        return caches / "kdtune" / "studies" / digest / self.name

    def absolute(self) -> "Study":
        """The same study with absolute paths, since a trial runs in another folder."""
        paths = {} if self.uri else {"out": str(Path(self.out).expanduser().absolute())}
        if self.cache is not None:
            paths["cache"] = str(Path(self.cache).expanduser().absolute())
        return replace(self, run=self.run.absolute(), **paths)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """The study as JSON text, enough to run it again."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> "Study":
        """The study of `to_json`. Raises TypeError or ValueError where the text is another's."""
        values = json.loads(text)
        return Study(**{**values, "run": Run(**values["run"])})


def canonical(config: Mapping[str, Any]) -> Config:
    """The configuration with None for all that has no effect, so that twins are equal.

    Temperature has none under "mse"; loss and temperature have none at alpha = 1; momentum has
    none with adamw; lr_step_size and lr_gamma have none without the schedule "step".
    """
    dead: set[str] = set()
    if config["alpha"] == 1:
        dead |= {"loss", "temperature"}
    if config["loss"] == "mse":
        dead |= {"temperature"}
    if config["optimizer"] != "sgd":
        dead |= {"momentum"}
    if config["schedule"] != "step":
        dead |= {"lr_step_size", "lr_gamma"}
    return {name: None if name in dead else _plain(value) for name, value in config.items()}


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on every part: the same in any process, on any machine."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _plain(value: Value) -> Value:
    # 1 and 1.0 are one value and must give one config_id
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def _check(config: Run | Study, name: str, holds: object, must: str) -> None:
    if not holds:
        raise InputError(f"{name} must {must}, but got {name}={getattr(config, name)!r}")


def _check_types(config: Run | Study) -> None:
    """Every field has its type; words are among the choices. For experiments, which are Python."""
    for f in fields(config):
        value = getattr(config, f.name)
        kinds = get_args(f.type) if get_origin(f.type) in (Union, UnionType) else (f.type,)
        if value is None and NoneType in kinds:
            continue
        choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
        if choices:
            _check(config, f.name, value in choices, f"be one of {', '.join(choices)}")
        elif float in kinds:
            holds = isinstance(value, float | int) and not isinstance(value, bool)
            _check(config, f.name, holds and math.isfinite(value), "be a number")
        elif int in kinds:
            holds = isinstance(value, int) and not isinstance(value, bool)
            _check(config, f.name, holds, "be a whole number")
        elif str in kinds:
            _check(config, f.name, isinstance(value, str), "be text")

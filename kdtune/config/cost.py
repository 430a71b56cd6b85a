"""Cost of a model: its numbers, their file, and limits on them."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from kdtune.config.bounds import MAX_COUNT, MAX_PARAMS
from kdtune.config.errors import DAMAGED
from kdtune.config.fields import Setting, check_fields
from kdtune.config.files import COSTS, atomic_write
from kdtune.config.names import Role

MEASURED = Setting(low=0, high=1e30)
"""Bounds of a number of a model: none is greater."""


@dataclass(frozen=True)
class Cost:
    """Size, work and speed of a student or a teacher, measured once for a study."""

    role: Role
    model: str
    """Name, as the user gives it."""
    params: Annotated[int, MEASURED]
    """Number of parameters."""
    bytes: Annotated[int, MEASURED]
    """Size of its weights as a safetensors file."""
    flops: Annotated[int | None, MEASURED]
    """Floating-point operations of one example; a multiply-add counts as two, element-wise
    operations are not counted. None: not known, since the model has operations without a count."""
    latency_ms: Annotated[float, MEASURED]
    """Median time of one example, from view to logits, in milliseconds."""
    latency_ms_iqr: Annotated[float | None, MEASURED]
    """Interquartile range of that time. None: too few measurements."""
    latency32_ms: Annotated[float, MEASURED]
    """Median time of a batch of 32 examples, in milliseconds."""
    latency32_ms_iqr: Annotated[float | None, MEASURED]
    """Interquartile range of that time. None: too few measurements."""
    threads: Annotated[int, MEASURED]
    """Threads of the CPU that the measurement may use."""
    device: str
    """"cpu" or "cuda"."""
    hardware: str
    """Name of the CPU or GPU."""
    precision: str
    """"fp32" or "bf16"."""
    torch: str
    """Version of PyTorch."""


def write_costs(folder: Path, costs: Sequence[Cost]) -> None:
    """Write costs.json of a study."""
    with atomic_write(folder / COSTS) as part:
        text = json.dumps({"schema": 1, "models": [asdict(cost) for cost in costs]}, indent=2)
        part.write_text(text, encoding="utf-8")


def read_costs(folder: Path) -> list[Cost]:
    """Return the costs in a study's folder; [] if the file is missing or damaged.

    The driver measures what is missing when it next runs trials.
    """
    names = {field.name for field in fields(Cost)}
    with suppress(OSError, *DAMAGED):
        models: list[dict[str, Any]] = json.loads((folder / COSTS).read_text("utf-8"))["models"]
        # a later version may have added fields
        costs = [Cost(**{k: v for k, v in model.items() if k in names}) for model in models]
        for cost in costs:
            check_fields(cost)
        return costs
    return []


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of a student; raises InputError for impossible ones."""

    max_ms: Annotated[float | None, Setting(above=0, high=MAX_COUNT)] = None
    """Greatest median latency at batch size 1 in milliseconds."""
    max_params: Annotated[int | None, Setting(low=1, high=MAX_PARAMS)] = None
    """Greatest number of parameters."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __bool__(self) -> bool:
        """Return True if there is a limit."""
        return self.max_ms is not None or self.max_params is not None

    def or_else(self, other: "Limits") -> "Limits":
        """Return these limits, with those of `other` where there is none."""
        ms = other.max_ms if self.max_ms is None else self.max_ms
        params = other.max_params if self.max_params is None else self.max_params
        return Limits(ms, params)


NO_LIMITS = Limits()

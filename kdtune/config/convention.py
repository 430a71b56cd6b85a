"""Form of an entry of `conventions.CONVENTIONS`: parameters and loss of another tool."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Parameters = Mapping[str, Any]
"""Values of a tool's parameters by its own names, numbers or words."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of another tool, under the tool's own name."""

    name: str
    default: float | str | None = None
    """The tool's default. None: it has none."""
    words: tuple[str, ...] = ()
    """Words that it may be."""
    number: bool = True
    """Whether it may be a number of 0 or more."""
    positive: bool = False
    """Whether the number must be greater than 0."""
    optional: bool = False
    """Whether it may be left out although it has no default."""

    def __str__(self) -> str:
        if self.default is not None:
            shown = self.default if isinstance(self.default, str) else f"{self.default:g}"
            return f"{self.name}={shown}"
        return f"[{self.name}]" if self.optional else self.name


@dataclass(frozen=True)
class Terms:
    """A tool's loss as ce * CE + distill * D, with D an objective of kdtune."""

    ce: float
    distill: float
    temperature: float | None = None
    loss: str = "kl"
    label_smoothing: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)
    """Further hyperparameters of D."""
    note: str = ""
    """What else differs, in a sentence."""


@dataclass(frozen=True)
class Convention:
    """Parameters and loss of another tool."""

    title: str
    """Its name, and where the loss is."""
    formula: str
    """Its loss in its own names; CE, KL and MSE are means over the images of a batch."""
    parameters: tuple[Parameter, ...]
    terms: Callable[[Parameters], Terms | str]
    """Pure function of the parameters: the loss in kdtune's terms, or why there is no equal."""

    @property
    def signature(self) -> str:
        """The parameters with their defaults: "gamma=1, alpha, kd_T=4"; optional ones in []."""
        return ", ".join(map(str, self.parameters))

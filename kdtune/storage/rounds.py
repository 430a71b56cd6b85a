"""Round of final repeats: the record that fixes its finalists before the first of them starts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

FINALISTS = "finalists"
"""Kind of the record."""


class FinalPair(NamedTuple):
    """The finalists of one student, by config_id; None for an arm without any score."""

    student: str
    baseline: str | None
    distilled: str | None


@dataclass(frozen=True)
class Round:
    """A round of final repeats and the configurations that run it."""

    number: int
    """From 0. A study that is extended begins another round."""
    first_repeat: int
    """Number of the first of its repeats."""
    pairs: tuple[FinalPair, ...]
    """The finalists of each student."""
    ranking: tuple[str, ...]
    """The finalists by search and confirmation, the best first, by config_id."""
    default: str | None = None
    """config_id of the recipe's default, which runs the round, too, and takes no part in any
    decision; None if it is not among the study's configurations."""
    is_recorded: bool = True
    """Whether the finalists were recorded before their first final repeat; versions before schema 4
    did not do that, and `pairs` and `ranking` of their studies are empty."""

    @property
    def finalists(self) -> frozenset[str]:
        """The config_id of each finalist."""
        return frozenset(self.ranking)

    def best(self, among: Collection[str]) -> str | None:
        """Return the best finalist, by search and confirmation, of those that are `among`."""
        return next((config for config in self.ranking if config in among), None)

    def to_line(self) -> dict[str, Any]:
        """Return the content of the record, without its time."""
        return {
            "kind": FINALISTS,
            "round": self.number,
            "first_repeat": self.first_repeat,
            "finalists": [pair._asdict() for pair in self.pairs],
            "best": self.ranking[0],
            "ranking": list(self.ranking),
            "default": self.default,
        }

    @staticmethod
    def from_line(line: Mapping[str, Any]) -> "Round":
        """Return the round of a record; raise KeyError or TypeError if it is damaged."""
        pairs = tuple(FinalPair(**pair) for pair in line["finalists"])
        ranking = tuple(line["ranking"])
        return Round(line["round"], line["first_repeat"], pairs, ranking, line["default"])

    @staticmethod
    def unrecorded(first_repeat: int) -> "Round":
        """Return the round of final repeats that an older version ran without a record."""
        return Round(0, first_repeat, (), (), None, is_recorded=False)

"""What a comparison is of, and how that is said: which repeats, what its p and interval hold for.

Text, page and figures take their words from here, so that none claims what another denies.
"""

import math
from dataclasses import dataclass

from kdtune.results.comparison import SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class ComparisonContext:
    """What a comparison with the baseline is of."""

    baseline: str
    """The baseline in words, e.g. "plain training (lr = 0.01)"."""
    planned: float
    """Repeats that each configuration was to have; NaN where that was not fixed."""
    held_out: bool = False
    """Whether they are repeats that have not chosen what is compared."""
    anytime_level: float | None = None
    """Level of a study that added repeats until it was decided; None: their number was fixed."""

    @property
    def is_fixed(self) -> bool:
        """Whether the number of repeats was fixed before they were run."""
        return not math.isnan(self.planned)

    @property
    def level(self) -> float:
        """Chance of finding a difference where there is none."""
        return SIGNIFICANCE_LEVEL if self.anytime_level is None else self.anytime_level

    @property
    def repeats_phrase(self) -> str:
        """Which repeats, after a comma; nothing where they are those of every configuration."""
        if not self.held_out:
            return ""
        if self.anytime_level is None:
            return ", finalists on fresh repeats that no decision has seen"
        return ", finalists on fresh repeats, added while they were undecided"

    @property
    def method(self) -> str:
        """What stands below the comparison's table."""
        if self.anytime_level is not None:
            return f"paired by repeat; {self._interval} and p, which hold whenever it had stopped"
        text = "paired by repeat; 95 % t interval; p: Holm's and max-T's for all rows together"
        return text if self.is_fixed else f"{text}; {self._unpaid}"

    def method_in_full(self, m: int) -> str:
        """The same at length, for m comparisons."""
        if self.anytime_level is not None:
            return (
                f"mean difference, its {self._interval} and p value, which hold whenever the study "
                f"had stopped (Gönen et al., 2005; Ville, 1939)"
            )
        text = (
            f"mean difference and its 95 % t interval; p values for all {m} comparisons together, "
            f"Holm's of the t tests and max-T's of flipped signs (from 6 repeats on)"
        )
        return text if self.is_fixed else f"{text}; {self._unpaid}"

    @property
    def interval_legend(self) -> str:
        """What the lines of the figure of differences are."""
        if self.anytime_level is not None:
            return f"the line is the {self._interval}, which holds whenever it had stopped"
        return "thick, the 95 % t interval; thin, that for all rows together"

    @property
    def baseline_note(self) -> str:
        """Who chose the two sides, and who pays for it."""
        if self.held_out:
            return (
                f"The baseline is {self.baseline}: like the winner chosen by other repeats, so that "
                f"the p values owe nothing for it."
            )
        return (
            f"The baseline is {self.baseline}: the best there, chosen by the same criterion as the winner. "
            f"Its choice is not paid for in the p values."
        )

    def significance_rule(self, metric: str) -> str:
        """When a difference is called found."""
        if self.anytime_level is not None:
            return (
                f"A difference in {metric} is called found where p is at most {self.level:g}. The "
                f"number of repeats hung on what they said, so p and the interval are such as hold "
                f"at any time: p is the inverse Bayes factor of all of them."
            )
        return (
            f"A difference is called found where Holm's p is below {SIGNIFICANCE_LEVEL:g} over all comparisons "
            f"with the baseline in {metric}; other metrics are there to explore. The interval in "
            f"the verdict has the level 1 - {SIGNIFICANCE_LEVEL:g}/m for m comparisons."
        )

    @property
    def _interval(self) -> str:
        return f"{100 * (1 - self.level):g} % interval"

    @property
    def _unpaid(self) -> str:
        return "how many repeats a row has hung on what they said, which p does not pay for"

"""Wording of what a comparison is based on, shared by the text, the report and the figures."""

import math
from dataclasses import dataclass

from kdtune.results.comparison import SIGNIFICANCE_LEVEL
from kdtune.results.design import ONE_TEACHER, Design

NOT_ADJUSTED = "p values are not adjusted for the adaptive number of repeats."

NOT_RECORDED = (
    "An earlier version of kdtune ran this study and did not record the finalists before their "
    "final repeats, and the best configuration is the better finalist on these repeats. The p "
    "values are not adjusted for that."
)


@dataclass(frozen=True)
class ComparisonContext:
    """Baseline and repeats of a comparison, and the sentences that follow from them."""

    baseline: str
    """In words, e.g. "training without distillation (lr = 0.01)"."""
    planned: float
    """Planned repeats of each configuration; NaN if their number was not fixed in advance."""
    held_out: bool = False
    """Whether the comparison uses the final repeats, which did not select the finalists."""
    anytime_level: float | None = None
    """Level of a study that added repeats until it was decided. None: their number was fixed."""
    images: int | None = None
    """Val images that the comparison generalises from. None: it holds for these images only."""
    why_these_images: str = ""
    """Why it holds for these images only."""
    design: Design = ONE_TEACHER
    """What the repeats vary."""
    is_recorded: bool = True
    """Whether the finalists were recorded before the first of their final repeats."""
    names_recorded_best: bool = True
    """Whether the best configuration is the finalist that was recorded as the best; else it is the
    better one on the final repeats."""

    @property
    def examples(self) -> str:
        """What the splits consist of, in words: "images"."""
        return self.design.examples

    @property
    def is_fixed(self) -> bool:
        """Whether the number of repeats was fixed in advance."""
        return not math.isnan(self.planned)

    @property
    def level(self) -> float:
        """Family-wise error rate of the comparison."""
        return SIGNIFICANCE_LEVEL if self.anytime_level is None else self.anytime_level

    @property
    def interval(self) -> str:
        """Kind of the interval, e.g. "simultaneous 95% CI"."""
        kind = "simultaneous" if self.anytime_level is None else "always-valid"
        return f"{kind} {100 * (1 - self.level):g}% CI"

    @property
    def repeats_phrase(self) -> str:
        """Which repeats are used, after a comma; "" if they are those of the search."""
        if not self.held_out:
            return ""
        added = ", added until the comparison is decided" * (self.anytime_level is not None)
        return f", finalists on {self.kind_of_repeats} repeats{added}"

    @property
    def kind_of_repeats(self) -> str:
        """Kind of the repeats: "held-out" if nothing has been selected on them, else "final"."""
        return "held-out" if self.is_recorded else "final"

    @property
    def bias_of_best(self) -> str:
        """What biases the best configuration's metric on val, as a note in parentheses."""
        if not self.held_out:
            return "optimistic: used for the selection"
        if self.is_recorded and self.names_recorded_best:
            return f"held-out repeats, but the {self.examples} that selected it"
        return f"{self.kind_of_repeats} repeats; optimistic: they chose between the finalists"

    @property
    def holds_for(self) -> str:
        """What conclusions are about."""
        text = self.design.holds_for("val", new_images=self.images is not None)
        needs_reason = self.images is None and self.design.folds is None and self.why_these_images
        return f"{text} ({self.why_these_images})" if needs_reason else text

    @property
    def paired_by(self) -> str:
        """What the comparison is paired by."""
        return "repeat" if self.images is None else f"repeat and {self.examples[:-1]}"

    @property
    def sizes(self) -> str:
        """Over what t intervals and t tests are computed."""
        units = self.design.units_phrase
        return units if self.images is None else f"{units} and {self.images:,} val {self.examples}"

    @property
    def method(self) -> str:
        """Note below the comparison's table."""
        if self.anytime_level is not None:
            text = f"Paired by {self.paired_by}. Interval and p value are always-valid: they hold "
            text += "whenever the study stops."
        else:
            text = (
                f"Paired by {self.paired_by}. CI: t intervals over {self.sizes}, "
                f"Bonferroni-adjusted for all rows"
            )
            beside = f"; for these {self.examples}: the same over repeats alone"
            text += beside * (self.images is not None)
            text += ". p (Holm): t tests, adjusted for all rows."
            text += f" {NOT_ADJUSTED}" * (not self.is_fixed)
        return f"{text} Conclusions are about {self.holds_for}."

    def method_in_full(self, m: int) -> str:
        """Return the method of m comparisons, for a report."""
        if self.anytime_level is not None:
            return (
                f"mean difference, {self.interval} and always-valid p value, which hold whenever "
                f"the study stops (Gönen et al., 2005; Ville, 1939)"
            )
        text = (
            f"mean difference and {self.interval} (t interval over {self.sizes}, "
            f"Bonferroni-adjusted); p values adjusted for {count_comparisons(m)}: t tests by "
            f"Holm's method"
        )
        if self.design.folds is None:
            text += ", and sign-flip tests over repeats by max-T (from 6 repeats on)"
        return text if self.is_fixed else f"{text}. {NOT_ADJUSTED[:-1]}"

    @property
    def interval_legend(self) -> str:
        """What the lines in the figure of differences show."""
        if self.anytime_level is not None:
            return f"lines show the {self.interval}, which holds whenever the study stops"
        if self.design.folds is not None:
            return f"lines show the {self.interval} for new train/val splits"
        if self.images is None:
            return f"lines show the {self.interval} for these {self.examples}"
        return (
            f"lines show the {self.interval} for new repeats and new {self.examples}, thick lines "
            f"the one for these {self.examples}"
        )

    @property
    def baseline_note(self) -> str:
        """How the baseline was selected, and whether the p values account for that."""
        if self.held_out and not self.is_recorded:
            return f"The baseline is {self.baseline}. {NOT_RECORDED}"
        if self.held_out:
            images = "those" if self.design.folds is None else "of the pool"
            return (
                f"The baseline is {self.baseline}. The finalists were recorded before the first of "
                f"these repeats, which selected neither of them. The val {self.examples} are "
                f"{images} that selected them, and the p values are not adjusted for that."
            )
        return (
            f"The baseline is {self.baseline}, the best one by the criterion that also selects the "
            f"best configuration. The p values are not adjusted for the selection of the baseline."
        )

    def significance_rule(self, metric: str) -> str:
        """Return the sentences that define a significant difference in a metric."""
        if self.anytime_level is not None:
            return (
                f"A difference in {metric} is significant if p is at most {self.level:g}. The "
                f"number of repeats depended on the results, so p and interval are always-valid: p "
                f"is the inverse Bayes factor of all repeats."
            )
        return (
            f"A difference is significant if the Holm-adjusted p value is below {self.level:g} "
            f"over all comparisons with the baseline in {metric}, and the {self.interval} (level "
            f"1 - {self.level:g}/m for m comparisons) excludes 0. Other metrics are exploratory."
        )


def count_comparisons(m: int) -> str:
    """Return e.g. "1 comparison" or "4 comparisons"."""
    return f"{m} comparison{'s' * (m != 1)}"

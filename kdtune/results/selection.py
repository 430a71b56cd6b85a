"""Performance of the selected configuration on val, which selected it, and on test."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kdtune.results.comparison import (
    Criterion,
    by_repeat,
    completed,
    students_of,
    with_enough_repeats,
)
from kdtune.results.design import ONE_TEACHER, Design, Values
from kdtune.results.pairs import (
    ExampleReader,
    difference_table,
    no_examples,
    stack_examples,
)
from kdtune.results.predictions import read_predictions
from kdtune.statistics.selection_bias import bootstrap_corrected
from kdtune.statistics.sequential import AnytimeTest

Row = dict[str, str | float]


class Chosen(NamedTuple):
    """Configurations whose performance is reported, by config_id."""

    best: str
    """The chosen configuration."""
    baseline: str | None
    """The baseline of its student, perhaps itself; None if there is none."""
    default: str
    """The recipe's default, perhaps itself or without any completed run."""


def selection(
    folder: Path,
    trials: pd.DataFrame,
    criterion: Criterion,
    chosen: Chosen,
    anytime_level: float | None = None,
    read: Callable[[str], ExampleReader] = lambda split: no_examples,
    design: Design = ONE_TEACHER,
) -> pd.DataFrame:
    """Return the criterion's metric of the chosen configurations, on val and test.

    About one search in ten chooses a configuration that is worse on new data than the recipe's
    default (overtuning, arXiv:2506.19540), so the two are compared.

    Args:
        folder: of the study, with the predictions.
        trials: by which the criterion is judged, and those of the default on the same repeats.
        criterion: of the metric and the epoch selection.
        chosen: the configurations.
        anytime_level: level of a study that added repeats until the comparison was decided; its
            intervals are always-valid. None: 95 % t intervals.
        read: returns the reader of values per example of a split, see `pairs.ExampleReader`.
        design: what the repeats vary, which decides the standard error.

    Returns:
        Rows, differences paired by repeat: "best", "baseline", "difference" (best - baseline),
        "default" and "chosen - default" (best - default; not if they are the same). Columns: row,
        config_id, label (of a difference both labels) and means with the ends of their intervals:
        val/mean, /low, /high (optimistic where val selected the best), corrected/mean, /low, /high
        (best row, accuracy at the last epoch: BBC-CV, see `statistics.selection_bias`) and
        test/mean, /low, /high (test selects nothing); val/n, val/n_images, test/n, test/n_images:
        the repeats and images that an interval generalises from; without a number of images it
        holds for these images. NaN where there is no such number.
    """
    scopes = {"val": criterion.scope, "test": "last"}
    samples = {
        split: _Samples.of(trials, criterion, scope, split, read(split), chosen, design)
        for split, scope in scopes.items()
    }
    labels = trials.drop_duplicates("config_id").set_index("config_id").label
    rows = [
        {"row": row, "config_id": config, "label": " minus ".join(labels[c] for c in of)}
        | samples["val"].interval("val", of, anytime_level)
        | samples["test"].interval("test", of, anytime_level)
        for row, config, of in _rows(chosen, samples["val"].values)
    ]
    # other repeats have selected the finalists of the final phase: nothing to correct there
    if criterion.has_predictions and (trials.phase == "search").all():
        known = with_enough_repeats(samples["val"].values, students_of(trials))
        rows[0] |= _corrected(folder, trials, list(known))
    columns = [f"{k}/{s}" for k in ("val", "corrected", "test") for s in ("mean", "low", "high")]
    columns += [f"{k}/{s}" for k in ("val", "test") for s in ("n", "n_images")]
    return pd.DataFrame(rows, columns=["row", "config_id", "label", *columns])


def _rows(chosen: Chosen, values: pd.DataFrame) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name and config_id of each row of `selection`, and whose mean or difference it is."""
    yield "best", chosen.best, (chosen.best,)
    for row, difference, other in (
        ("baseline", "difference", chosen.baseline),
        ("default", "chosen - default", chosen.default),
    ):
        if other is not None and other in values:
            yield row, other, (other,)
            if other != chosen.best:
                yield difference, "", (chosen.best, other)


@dataclass(frozen=True)
class _Samples:
    """A metric of some configurations on one split."""

    values: pd.DataFrame
    """A row per repeat, a column per config_id."""
    examples: Mapping[tuple[str, int], Values]
    """Values per example, (N,), by configuration and repeat."""
    design: Design
    largest: float
    """The largest possible mean; the least is 0 if it is finite."""

    @staticmethod
    def of(
        trials: pd.DataFrame,
        criterion: Criterion,
        scope: str,
        split: str,
        read: ExampleReader,
        chosen: Chosen,
        design: Design,
    ) -> "_Samples":
        """Read the samples of the chosen configurations on a split."""
        done = completed(trials)
        own = done[done.config_id.isin([c for c in chosen if c is not None])]
        found = read(list(own.trial_id)) if design.folds is None else {}
        keys = zip(own.config_id, own["repeat"], own.trial_id, strict=True)
        examples = {(c, int(r)): found[trial] for c, r, trial in keys if trial in found}
        values = by_repeat(trials, criterion.metric, scope, split)
        return _Samples(values, examples, design, criterion.largest_difference)

    def interval(self, name: str, of: tuple[str, ...], anytime_level: float | None) -> Row:
        """Return the mean of a configuration, or of the difference of two, and its interval.

        It is for new repeats and new images where all values per example are known, else for new
        repeats. NaN for infinite ends.
        """
        both = self.values[list(of)].dropna()
        sample = (both[of[0]] if len(of) < 2 else both[of[0]] - both[of[1]]).to_numpy()
        repeats = [int(repeat) for repeat in both.index]
        tables = [[self.examples.get((config, repeat)) for repeat in repeats] for config in of]
        table = stack_examples(tables[0]) if len(of) < 2 else difference_table(*tables)
        mean = float(sample.mean()) if len(sample) else math.nan
        low = high = math.nan
        if anytime_level is not None:
            low, high = AnytimeTest.of(sample.tolist(), table).interval(anytime_level)
        elif len(sample):
            estimate = self.design.estimate(sample, table, repeats)
            mean, (low, high) = estimate.mean, estimate.interval()
        if not math.isfinite(high - low):
            low = high = math.nan
        least = -self.largest if len(of) > 1 else 0.0 if math.isfinite(self.largest) else -math.inf
        low, high = max(low, least), min(high, self.largest)
        images = math.nan if table is None or self.design.folds is not None else table.shape[1]
        numbers: Row = {f"{name}/mean": mean, f"{name}/low": low, f"{name}/high": high}
        return numbers | {f"{name}/n": float(len(sample)), f"{name}/n_images": float(images)}


def _corrected(folder: Path, trials: pd.DataFrame, configs: list[str]) -> Row:
    """Return the bias-corrected accuracy of the best; {} if predictions of a trial are missing."""
    done = completed(trials)
    done = done[done.config_id.isin(configs)]
    columns = ["split", "example", "correct"]
    frame = read_predictions(folder, list(done.trial_id), columns)
    if not len(frame) or not set(done.trial_id) <= set(frame.trial_id.unique()):
        return {}
    val = frame[frame.split == "val"].merge(done[["trial_id", "config_id"]], on="trial_id")
    correct = val.astype({"correct": float}).pivot_table(
        index="config_id", columns="example", values="correct"
    )
    correct = correct.dropna(axis=1)  # with folds a failed run may have had an example alone
    c = bootstrap_corrected(correct.loc[configs].to_numpy())
    return {"corrected/mean": c.corrected, "corrected/low": c.low, "corrected/high": c.high}

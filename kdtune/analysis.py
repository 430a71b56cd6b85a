"""What a study says: the mean ± sd table, the comparison with plain training, the verdict.

python -m kdtune.analysis runs/fashion [--by alpha] [--scope last] [--format md] [--pooled]
"""

if __name__ == "__main__":
    from kdtune.cli import start

    start("analysis")  # answers bad flags before pandas loads; does not return

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from kdtune.cli import SHOWN, Reading
from kdtune.config import HYPERPARAMETERS, InputError, Scope, Study
from kdtune.results import METRICS, Frames, read_frames, read_study
from kdtune.stats import (
    Difference,
    detectable_difference,
    holm,
    mean_interval,
    paired_difference,
    repeats_needed,
)
from kdtune.tables import cell, format_table, is_number, markdown, summarize

HOLM_LEVEL = 0.05


def load(folder: str | Path) -> "Results":
    """Read a study's folder, finished or not; raises InputError where it is none."""
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"a study's folder must exist, but there is no {path}")
    return Results(path, read_study(path), read_frames(path))


@dataclass(frozen=True)
class Results:
    """A study and what was recorded of it; works with neither torch nor Ray installed."""

    folder: Path
    study: Study
    frames: Frames = field(repr=False)

    @property
    def epochs(self) -> pd.DataFrame:
        """One row per trial, epoch, split (see `results.Frames`)."""
        return self.frames.epochs

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial (see `results.Frames`)."""
        return self.frames.trials

    @cached_property
    def configs(self) -> pd.DataFrame:
        """One row per configuration: config_id, config/*, val/acc/mean, val/acc/std, n, n_planned.

        The best mean first, those with at most half of the most repeats last.
        """
        keys = ["config_id", *(f"config/{name}" for name in HYPERPARAMETERS)]
        groups = self._with_status("completed").groupby(keys, dropna=False)
        frame = groups["val/acc@last"].agg(["mean", "std", "count"]).reset_index()
        frame.columns = [*keys, "val/acc/mean", "val/acc/std", "n"]
        frame["n_planned"] = self.study.repeats
        few = frame["n"] <= frame["n"].max() / 2
        order = ["few", "val/acc/mean"]
        frame = frame.assign(few=few).sort_values(order, ascending=[True, False])
        return frame.drop(columns="few").reset_index(drop=True)

    @property
    def by(self) -> list[str]:
        """What tells the configurations apart, e.g. ["alpha", "temperature"]."""
        varied = [
            n for n in HYPERPARAMETERS if self.trials[f"config/{n}"].nunique(dropna=False) > 1
        ]
        return [n for n in self.study.searched if n in varied] or varied or ["alpha"]

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before the table, in words."""
        words = [f"a torn line was skipped: {place}" for place in self.frames.torn]
        for status in ("failed", "truncated"):
            for _, trial in self._with_status(status).iterrows():
                reason = f" ({trial.error})" if isinstance(trial.error, str) else ""
                have = f"{trial.n_epochs} of {trial.n_epochs_planned} epochs"
                words.append(
                    f"{status}, left out: {trial.trial_id}, {self._name(trial)}, repeat "
                    f"{trial['repeat']}, {have}{reason}"
                )
        missing = len(self.study.runs()) * self.study.repeats - len(self.trials)
        if missing > 0 and self.study.policy == "all" and not self.study.stop_early:
            words.append(f"{missing} runs have not started")
        return words

    def summary(
        self,
        by: Sequence[str] = (),
        metrics: Sequence[str] = SHOWN,
        scope: Scope = "last",
        pooled: bool = False,
    ) -> pd.DataFrame:
        """Mean, sd and n over repeats of the completed trials, on val.

        Returns one row per group: by..., then val/<metric>/mean, /std, /n and, unless pooled,
        /low and /high of the 95 % t interval.
        """
        by = list(by) or self.by
        _check_names("by", by, HYPERPARAMETERS)
        _check_names("metric", metrics, METRICS)
        done = self._with_status("completed").rename(columns=lambda c: c.removeprefix("config/"))
        if pooled:
            val = self.epochs[self.epochs.split == "val"]
            val = val[val.trial_id.isin(done.trial_id)]
            val = val.assign(n_epochs_planned=val["config/epochs"])
            table = summarize(val, [f"config/{name}" for name in by], metrics, pooled=True)
            table.columns = [*by, *(f"val/{c}" for c in table.columns[len(by) :])]
            return table
        rows = []
        for key, group in done.groupby(by, dropna=False):
            row = dict(zip(by, key, strict=True))
            # configurations that share a row are averaged within a repeat: repeats are the sample
            repeats = group.groupby("repeat")[[f"val/{m}@{scope}" for m in metrics]].mean()
            for metric in metrics:
                interval = mean_interval(repeats[f"val/{metric}@{scope}"].dropna())
                row |= {f"val/{metric}/mean": interval.mean, f"val/{metric}/std": interval.sd}
                row |= {f"val/{metric}/n": interval.n}
                row |= {f"val/{metric}/low": interval.low, f"val/{metric}/high": interval.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def compare(self, metric: str = "acc", scope: Scope = "last") -> pd.DataFrame:
        """Every distilled configuration against plain training, paired by repeat.

        Plain training is the alpha = 1 configuration with the best mean, by the same rule and
        repeats. Returns one row per configuration with alpha < 1: config_id, config/*, baseline,
        diff (its mean minus that of plain training), low, high (95 % t interval), sd, n (common
        repeats), correlation, p, p_holm. Empty where one of the two sides is missing.
        """
        done = self._with_status("completed")
        values = done.pivot(index="repeat", columns="config_id", values=f"val/{metric}@{scope}")
        is_plain = done.drop_duplicates("config_id").set_index("config_id")["config/alpha"] == 1
        plain, others = [[c for c in values if is_plain[c] == side] for side in (True, False)]
        if not plain or not others:
            return pd.DataFrame()
        means = values[_well_run(values, plain)].mean()
        baseline = means.idxmax() if metric in ("acc", "agreement") else means.idxmin()
        differences = [_difference(values[config], values[baseline]) for config in others]
        adjusted = _holm_of([d.p for d in differences])
        rows = [
            {"config_id": config, "baseline": baseline, "diff": d.interval.mean}
            | {"low": d.interval.low, "high": d.interval.high, "sd": d.interval.sd}
            | {"n": d.interval.n, "correlation": d.correlation, "p": d.p, "p_holm": p}
            for config, d, p in zip(others, differences, adjusted, strict=True)
        ]
        keys = ["config_id", *(f"config/{name}" for name in HYPERPARAMETERS)]
        table = self.configs[keys].merge(pd.DataFrame(rows), on="config_id")
        return table.sort_values("diff", ascending=False, ignore_index=True)

    def verdict(self, scope: Scope = "last") -> str:
        """Does distilling beat plain training, in words that the numbers carry.

        Of the configurations that differ significantly, the best is named; of none, the best.
        """
        table = self.compare(scope=scope)
        if not len(table):
            return (
                "No verdict: the study needs completed runs both with alpha = 1 (plain training) "
                "and with alpha < 1."
            )
        table = table[table.n > table.n.max() / 2]  # one that has hardly run stands for nothing
        found = table[table.p_holm < HOLM_LEVEL]
        best = (found if len(found) else table).iloc[0]
        if best.n < 2:
            return f"No verdict: {best.n} common repeat; a difference needs two, a verdict eight."
        points, half = 100 * best["diff"], 100 * (best.high - best.low) / 2
        text = f"{self._name(best)} against plain training: {points:+.1f} ± {half:.1f} points"
        text += f" (95 % interval, n = {best.n}, Holm p = {best.p_holm:.2g} over {len(table)})"
        if best.p_holm < HOLM_LEVEL:
            word = "helps" if points > 0 else "hurts"
            return f"Distillation {word}: {text}."
        level = HOLM_LEVEL / len(table)
        seen = 100 * detectable_difference(best.sd, best.n, level)
        needed = repeats_needed(best["diff"], best.sd, level)
        could = f"could have seen {seen:.1f} points" if seen < 100 else "could have seen none"
        more = f"{needed} repeats would show {abs(points):.1f}" if needed else "more would not tell"
        return f"No difference found: {text}; with {best.n} repeats this study {could}; {more}."

    def text(self, by: Sequence[str], metrics: Sequence[str], scope: Scope = "last") -> str:
        """What a reader sees first: the table, the comparison with plain training, the verdict."""
        optimistic = ", optimistic: chosen by what it reports" if scope == "best" else ""
        parts = [
            format_table(self.summary(by, metrics, scope)),
            f"mean ± sd over n repeats, scope {scope}{optimistic}",
        ]
        if len(table := self.compare(scope=scope)):
            head = [*self.by, "points against plain training", "Holm p"]
            rows = [
                [cell(row[f"config/{name}"]) for name in self.by]
                + [f"{100 * row['diff']:+.1f} ± {50 * (row.high - row.low):.1f}"]
                + [f"{row.p_holm:.2g}"]
                for _, row in table.iterrows()
            ]
            parts += [markdown(head, rows), "paired by repeat, 95 % t interval"]
        return "\n\n".join([*parts, self.verdict(scope)])

    def _with_status(self, status: str) -> pd.DataFrame:
        return self.trials[self.trials.status == status]

    def _name(self, row: pd.Series) -> str:
        """E.g. "alpha = 0.5, T = 4"."""
        parts = []
        for name in self.by:
            value = row[f"config/{name}"]
            if not pd.isna(value):
                shown = f"{value:g}" if is_number(value) else value
                parts.append(f"{'T' if name == 'temperature' else name} = {shown}")
        return ", ".join(parts) or "the configuration"


def _well_run(values: pd.DataFrame, configs: list[str]) -> list[str]:
    """Those with more than half of the most repeats: one lucky repeat is no baseline."""
    counts = values[configs].count()
    return list(counts.index[counts > counts.max() / 2])


def _difference(a: pd.Series, b: pd.Series) -> Difference:
    common = pd.concat([a, b], axis=1).dropna()
    return paired_difference(common.iloc[:, 0], common.iloc[:, 1])


def _holm_of(p_values: list[float]) -> list[float]:
    """Holm over the comparisons that have a p value."""
    known = [p for p in p_values if not math.isnan(p)]
    adjusted = iter(holm(known))
    return [p if math.isnan(p) else next(adjusted) for p in p_values]


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"{what} must be one of {', '.join(known)}, but got {name}")


def main(flags: Reading) -> int:
    """Print what the command line asks for."""
    results = load(flags.run)
    metrics = [metric.removeprefix("val/") for metric in flags.metric]
    if flags.format == "md" and not flags.pooled:
        print(results.text(flags.by, metrics, flags.scope))
    else:
        table = results.summary(flags.by, metrics, flags.scope, flags.pooled)
        print(format_table(table, flags.format))
    if flags.format == "md" and flags.pooled:
        print("\npooled over epochs: the sd is that of a learning curve, not of repeats")
    for warning in results.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 3 if flags.strict and results.warnings else 0

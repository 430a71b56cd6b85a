"""The sections of the report: from a study's results to pieces of a page."""

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pandas as pd

from kdtune import page
from kdtune.analysis import Results
from kdtune.comparison import LEVEL, Rule, completed
from kdtune.faults import notes
from kdtune.page import Markup
from kdtune.plots import MOST, ZOOM, curve_epochs, shown_configs, stride
from kdtune.results import PROVENANCE, SCOPES
from kdtune.stats import detectable_difference, wilson_interval
from kdtune.tables import cell, of_planned, plus_minus
from kdtune.verdict import comparison_rows, in_units

COLUMNS = ("acc", "gap", "ce", "loss", "agreement", "kl", "logit_diff", "teacher_acc")
"""Metrics of the summary."""


def facts(results: Results, rule: Rule) -> str:
    """The study card."""
    run = results.study.run
    trials = results.trials
    values = {
        "state": results.state,
        "teacher": run.teacher,
        "student": f"{run.student} ({run.trainable} layers learn)",
        "data": _last_part(run.data) + (f", {run.train_images} images" if run.train_images else ""),
        "searched": "; ".join(
            f"{n} {', '.join(_values(trials[f'config/{n}']))}" for n in results.by
        ),
        "configurations × repeats": _counts(results),
        "epochs": ", ".join(_values(trials["config/epochs"])),
        "images": ", ".join(f"{split} {n:,}" for split, n in _examples(results).items()),
    }
    if n := _examples(results).get("val"):
        values["smallest step of accuracy"] = f"{100 / n:.2g} points (one of {n:,} images of val)"
    values["smallest difference to be seen"] = _seen(results, rule)
    seconds = completed(trials).seconds.sum()
    values["time of the runs"] = f"{seconds / 3600:.1f} h" if seconds > 7200 else f"{seconds:.0f} s"
    return page.card({k: v for k, v in values.items() if v})


def _counts(results: Results) -> str:
    """How many configurations have how many repeats, in each phase of the search."""
    parts = []
    for phase, word in (("search", ""), ("confirm", "to confirm "), ("final", "final ")):
        counts = results.trials[results.trials.phase == phase].config_id.value_counts()
        ends = [f"{n}" for n in sorted({counts.min(), counts.max()})] if len(counts) else []
        if phase == "search" and not math.isnan(results.planned):
            ends = [f"{results.planned}"]
        if ends:
            parts.append(f"{word}{len(counts)} × {' to '.join(ends)}")
    return "; ".join(parts)


def _seen(results: Results, rule: Rule) -> str:
    """What the median comparison could have seen; nothing where n was not fixed beforehand."""
    table, terms = results.compare(rule), results.terms(rule)
    if not len(table) or not terms.is_fixed or not math.isfinite(sd := table.sd.median()):
        return ""
    m, n = max(1, int(table.p_holm.notna().sum())), int(table.n.max())
    seen = detectable_difference(sd, n, LEVEL / m)
    if not math.isfinite(seen):
        return ""
    return f"{in_units(seen, rule)}, with 80 % chance, of n = {n} and {m} comparison{'s' * (m > 1)}"


def warnings(results: Results) -> list[str]:
    """What is missing or wrong, then what may mislead."""
    faults = page.bullets(results.warnings)
    alarm = f'<div class="alarm">{faults}</div>' if faults else ""
    return [alarm, page.bullets(notes(results.frames, COLUMNS))]


def summary(results: Results, rule: Rule) -> list[str]:
    """Mean ± sd per configuration, and by each hyperparameter alone."""
    table = results.summary((), COLUMNS, rule.scope)
    if not len(table):
        return [page.paragraph("No run has completed yet.")]
    order = -rule.sign * table[f"val/{rule.metric}/mean"]
    table = table.loc[order.sort_values(kind="stable").index]
    optimistic = " The epoch is chosen by the accuracy that is reported: optimistic."
    what = f"val, scope {rule.scope}: mean ± sd over n repeats; below it the 95 % t interval."
    parts = [
        page.paragraph(what + optimistic * (rule.scope == "best"), "quiet"),
        page.table(*_summary_rows(table, results.by), what="configurations"),
    ]
    if len(results.by) > 1:
        marginal = results.marginal(COLUMNS, rule.scope)
        text = "A value's number is the mean over all configurations that have it, within a repeat."
        parts += [
            "<h3>By each hyperparameter</h3>",
            page.paragraph(text, "quiet"),
            page.table(*_summary_rows(marginal, ["hyperparameter", "value"])),
        ]
    return parts


def _summary_rows(table: pd.DataFrame, keys: list[str]) -> tuple[list[str], list[list[object]]]:
    metrics = [m for m in COLUMNS if f"val/{m}/mean" in table]
    rows = []
    for _, row in table.iterrows():
        cells: list[object] = [cell(row[key]) for key in keys]
        cells.append(of_planned(row["val/acc/n"], row.n_planned))
        for metric in metrics:
            mean, sd, low, high = (row[f"val/{metric}/{s}"] for s in ("mean", "std", "low", "high"))
            text = plus_minus(mean, sd)
            digits = len(text.partition(" ")[0].partition(".")[2])  # those of the mean
            ends = f"{low:.{digits}f}", f"{high:.{digits}f}"
            vary = math.isfinite(low) and sd > 0
            cells.append(page.interval_cell(text, *ends) if vary else text)
        rows.append(cells)
    return [*keys, "n", *metrics], rows


def curves(results: Results, rule: Rule) -> str:
    """What the figures of the epochs show, where they do not show all."""
    words = []
    configs = results.trials.config_id.nunique()
    shown = shown_configs(results, rule)
    if configs > MOST:
        words.append(f"The best {MOST - 1} of {configs} configurations and the baseline are drawn.")
    whole, end = (stride(curve_epochs(results, shown, last)[0]) for last in (None, ZOOM))
    if whole > 1:
        of_end = "all" if end == 1 else f"one in {end}"
        words.append(f"One epoch in {whole} is drawn, of the last {ZOOM} {of_end}.")
    return page.paragraph(" ".join(words), "quiet")


def comparisons(results: Results, rule: Rule) -> list[str]:
    """Against the baseline."""
    table, terms = results.compare(rule), results.terms(rule)
    if not len(table):
        return [page.paragraph(results.verdict(rule))]
    text = (
        f"val {rule.metric} against {terms.other}"
        f"{terms.repeats or ', the best configuration there by the same rule'}. "
        f"Paired by repeat: {terms.explained(len(table))}; P(better) is the share of the repeats "
        f"it wins, ties counted half; correlation is that of the two over the repeats, what "
        f"pairing gains."
    )
    head, rows = comparison_rows(table, results.by, rule)
    return [page.paragraph(text, "quiet"), page.table(head, rows, what="comparisons")]


def sensitivity(results: Results, rule: Rule) -> list[str]:
    """Does the ranking hang on the epoch; where does the spread come from."""
    table = results.sensitivity(rule.metric)
    if not len(table):
        return []
    winners = {s: table.loc[table[f"{s}/rank"] == 1, "config_id"].iloc[0] for s in SCOPES}
    if len(set(winners.values())) == 1:
        text = f"By each rule the best is the same: {results.name(winners['last'])}."
    else:
        each = "; ".join(f"by {s}: {results.name(c)}" for s, c in winners.items())
        text = f"The best hangs on which epoch counts: {each}."
    rows = [
        [cell(row[f"config/{n}"]) for n in results.by]
        + [_rank(row[f"{s}/mean"], row[f"{s}/rank"], rule) for s in SCOPES]
        for _, row in table.iterrows()
    ]
    head = [*results.by, *(f"{s}{' (optimistic)' * (s == 'best')}" for s in SCOPES)]
    parts = ["<h3>Which epoch counts</h3>", page.paragraph(text)]
    parts.append(page.table(head, rows, what="configurations"))
    return parts + _spread(results, rule)


def _rank(mean: float, rank: float, rule: Rule) -> Markup:
    shown = f"{100 * mean:.2f}" if rule.in_points else f"{mean:.4g}"
    return Markup(f"{shown} <small>#{rank:.0f}</small>")


def _spread(results: Results, rule: Rule) -> list[str]:
    table = results.spread(rule)
    if not len(table):
        return []
    kinds = ("configuration", "repeat", "epoch", "residual")
    rows = [
        [f"{row.epochs} epoch{'s' * (row.epochs == 'all')}"]
        + ["-" if pd.isna(row[k]) else f"{100 * row[k]:.1f} %" for k in kinds]
        for _, row in table.iterrows()
    ]
    last = table.iloc[0]
    text = (
        f"Shares of the sum of squares of val {rule.metric} over {last.n_configs} configurations × "
        f"{last.n_repeats} repeats."
    )
    if not math.isnan(last.f):
        text += (
            f" At the last epoch the configurations differ with F = {last.f:.3g}, p = {last.p:.2g};"
            f" repeats correlate across configurations with ICC(C,1) = "
            f"{round(last.icc, 2) + 0:.2f}."
        )
    if len(table) > 1 and not math.isnan(table.iloc[1].epoch):
        text += (
            f" Over all epochs {100 * table.iloc[1].epoch:.0f} % is the learning curve itself: an "
            f"sd pooled over epochs measures that, not how repeats differ."
        )
    head = ["over the", *kinds]
    return [
        "<h3>Where the spread comes from</h3>",
        page.table(head, rows),
        page.paragraph(text, "quiet"),
    ]


def best(results: Results, rule: Rule) -> list[str]:
    """The configuration that the study would choose, and what it is worth elsewhere."""
    table = results.selection(rule)
    if not len(table):
        return []
    fresh = results.is_fresh(rule)
    kinds = {"val": "val, fresh repeats", "test": "test"}
    if not fresh:
        names = ("val (selected by it)", "val, corrected for selection", "test")
        kinds = dict(zip(("val", "corrected", "test"), names, strict=True))
    rows = []
    for _, row in table.iterrows():
        who = f"{row.row}: {results.name(row.config_id)}" if row.config_id else row.row
        signed = row.row == "difference"
        rows.append([who, *(_estimate(row, kind, rule, signed) for kind in kinds)])
    text = _chosen_by(results, rule, math.isnan(table.iloc[0]["corrected/mean"]))
    n = _examples(results).get("test")
    if n and rule.metric == "acc" and math.isfinite(mean := table.iloc[0]["test/mean"]):
        low, high = wilson_interval(round(mean * n), n)
        text += (
            f" Other {n:,} images would give another number: Wilson's 95 % interval of one run is "
            f"{100 * low:.1f} to {100 * high:.1f}."
        )
    edges = page.paragraph(results.edges(rule))
    return [page.table(["", *kinds.values()], rows), edges, page.paragraph(text, "quiet")]


def _chosen_by(results: Results, rule: Rule, uncorrected: bool) -> str:
    """What has chosen the best, and what that does to its numbers."""
    if results.is_fresh(rule):
        return (
            "Other repeats have chosen these two: the luck of a repeat does not flatter them here. "
            "They were on the same images of val, whose favour stays in. Test has chosen nothing."
        )
    text = (
        f"The best of {results.trials.config_id.nunique()} configurations looks better on val than "
        f"it is, since val chose it. Corrected: they are chosen on images drawn with replacement "
        f"and judged on those not drawn (BBC-CV, Tsamardinos et al., 2018; its interval counts the "
        f"images of val, the others the repeats). Test has chosen nothing."
    )
    if rule.has_predictions and uncorrected:
        text += " It is not corrected here, since predictions of a run are missing."
    return text


def _estimate(row: pd.Series, kind: str, rule: Rule, signed: bool) -> object:
    mean, low, high = (row[f"{kind}/{s}"] for s in ("mean", "low", "high"))
    if math.isnan(mean):
        return "-"
    sign = "+" if signed else ""
    form = f"{sign}.2f" if rule.in_points else f"{sign}.4g"
    mean, low, high = (rule.scale * value for value in (mean, low, high))
    text = format(mean, form)
    if math.isnan(low):
        return text
    return page.interval_cell(text, format(low, form), format(high, form))


def methods(results: Results, rule: Rule) -> list[str]:
    """What was varied, what was held, and how every number was made."""
    run, terms = results.study.run, results.terms(rule)
    words = [
        f"Repeats vary the student's initial weights, the order of the images"
        f"{'' if run.augmentation == 'none' else ', their augmentation'} and dropout, all fixed by "
        f"(seed {run.seed}, repeat): every configuration meets the same repeats, so they are "
        f"compared in pairs.",
        "They do not vary the teacher, nor the split into train, val and test: the answer is about "
        "this teacher and these images.",
        f"A run counts by one number (scope {rule.scope}); the spread is over runs, never over "
        f"epochs. sd has ddof = 1; intervals are Student's t with n - 1 degrees of freedom, 95 %"
        f"{', but for those of the finalists' * (terms.anytime is not None)}; they assume that "
        f"repeats' numbers are about normal, and may leave the possible range.",
        terms.choice,
        terms.found(rule.metric),
        "Failed, cut-off and unfinished runs are named above; neither they nor pruned ones enter a "
        "mean.",
        f"logit_diff, agreement and kl (temperature 1) compare student and teacher on the whole "
        f"split. Precision {run.precision}.",
    ]
    return [page.bullets(words)]


def provenance(results: Results) -> list[str]:
    """What the numbers come from: versions, data, command, every setting."""
    file = results.folder / PROVENANCE
    record: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # missing or damaged: the results do not hang on it
        record = json.loads(file.read_text("utf-8"))
    facts = {
        "data fingerprint": str(record.get("data", "")),
        "Python": str(record.get("python", "")),
        **{name: str(v) for name, v in record.get("versions", {}).items()},
    }
    command = " ".join(str(word) for word in record.get("command", ()))
    settings = dataclasses.asdict(results.study)
    flat = settings.pop("run") | settings
    rows = [[name, "" if value is None else str(value)] for name, value in flat.items()]
    return [
        page.card({name: value for name, value in facts.items() if value}),
        f"<pre>{page.markup(command)}</pre>" if command else "",
        page.fold("Every setting", page.table(["setting", "value"], rows, fold_at=len(rows))),
    ]


def _values(column: pd.Series) -> Iterator[str]:
    """A hyperparameter's values as text, at most a handful."""
    values = sorted(column.dropna().unique(), key=lambda v: (isinstance(v, str), v))
    if len(values) > 8:
        return iter([f"{cell(values[0])} … {cell(values[-1])} ({len(values)} values)"])
    return (cell(value) for value in values)


def _examples(results: Results) -> dict[str, int]:
    """Images a split."""
    return {
        str(k): int(n)
        for k, n in results.epochs.groupby("split", sort=False).n_examples.max().items()
    }


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]

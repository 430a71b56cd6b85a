"""The report's sections that give its answer: from a study's results to pieces of a page."""

import math
from collections.abc import Iterator

import pandas as pd

from kdtune.reporting import page
from kdtune.reporting.figures import MOST, ZOOM, curve_epochs, shown_configs, stride
from kdtune.results.comparison import SIGNIFICANCE_LEVEL, Criterion, completed
from kdtune.results.diagnostics import find_caveats
from kdtune.results.study_results import Results
from kdtune.results.tables import cell, comparison_rows, count_of_planned, plus_minus
from kdtune.results.wording import with_unit
from kdtune.statistics.intervals import wilson_interval
from kdtune.statistics.power import detectable_difference

COLUMNS = ("acc", "gap", "ce", "loss", "agreement", "kl", "logit_diff", "teacher_acc")
"""Metrics of the summary."""


def facts(results: Results, criterion: Criterion) -> str:
    """The study card."""
    run = results.study.run
    trials = results.trials
    values = {
        "state": results.status,
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
    values["smallest difference to be seen"] = _seen(results, criterion)
    seconds = completed(trials).seconds.sum()
    values["time of the runs"] = f"{seconds / 3600:.1f} h" if seconds > 7200 else f"{seconds:.0f} s"
    return page.card({k: v for k, v in values.items() if v})


def _counts(results: Results) -> str:
    """How many configurations have how many repeats, in each phase of the search."""
    parts = []
    for phase, word in (("search", ""), ("confirm", "to confirm "), ("final", "final ")):
        counts = results.trials[results.trials.phase == phase].config_id.value_counts()
        ends = [f"{n}" for n in sorted({counts.min(), counts.max()})] if len(counts) else []
        if phase == "search" and not math.isnan(results.planned_repeats):
            ends = [f"{results.planned_repeats}"]
        if ends:
            parts.append(f"{word}{len(counts)} × {' to '.join(ends)}")
    return "; ".join(parts)


def _seen(results: Results, criterion: Criterion) -> str:
    """What the median comparison could have seen; nothing where n was not fixed beforehand."""
    table, context = results.compare(criterion), results.context(criterion)
    if not len(table) or not context.is_fixed or not math.isfinite(sd := table.sd.median()):
        return ""
    m, n = max(1, int(table.p_holm.notna().sum())), int(table.n.max())
    seen = detectable_difference(sd, n, SIGNIFICANCE_LEVEL / m)
    if not math.isfinite(seen):
        return ""
    return f"{with_unit(seen, criterion)}, with 80 % chance, of n = {n} and {m} comparison{'s' * (m > 1)}"


def warnings(results: Results) -> list[str]:
    """What is missing or wrong, then what may mislead."""
    faults = page.bullets(results.warnings)
    alarm = f'<div class="alarm">{faults}</div>' if faults else ""
    return [alarm, page.bullets(find_caveats(results.frames, COLUMNS))]


def summary(results: Results, criterion: Criterion) -> list[str]:
    """Mean ± sd per configuration, and by each hyperparameter alone."""
    table = results.summary((), COLUMNS, criterion.scope)
    if not len(table):
        return [page.paragraph("No run has completed yet.")]
    order = -criterion.sign * table[f"val/{criterion.metric}/mean"]
    table = table.loc[order.sort_values(kind="stable").index]
    optimistic = " The epoch is chosen by the accuracy that is reported: optimistic."
    what = (
        f"val, scope {criterion.scope}: mean ± sd over n repeats{results.repeats_phrase}; below it the 95 % t "
        f"interval."
    )
    parts = [
        page.paragraph(what + optimistic * (criterion.scope == "best"), "quiet"),
        page.table(*_summary_rows(table, results.by), what="configurations"),
    ]
    if len(results.by) > 1:
        marginal = results.marginal(COLUMNS, criterion.scope)
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
        cells.append(count_of_planned(row["val/acc/n"], row.n_planned))
        for metric in metrics:
            mean, sd, low, high = (row[f"val/{metric}/{s}"] for s in ("mean", "std", "low", "high"))
            text = plus_minus(mean, sd)
            digits = len(text.partition(" ")[0].partition(".")[2])  # those of the mean
            ends = f"{low:.{digits}f}", f"{high:.{digits}f}"
            vary = math.isfinite(low) and sd > 0
            cells.append(page.interval_cell(text, *ends) if vary else text)
        rows.append(cells)
    return [*keys, "n", *metrics], rows


def curves(results: Results, criterion: Criterion) -> str:
    """What the figures of the epochs show, where they do not show all."""
    words = []
    configs = results.trials.config_id.nunique()
    shown = shown_configs(results, criterion)
    if configs > MOST:
        words.append(f"The best {MOST - 1} of {configs} configurations and the baseline are drawn.")
    whole, end = (stride(curve_epochs(results, shown, last)[0]) for last in (None, ZOOM))
    if whole > 1:
        of_end = "all" if end == 1 else f"one in {end}"
        words.append(f"One epoch in {whole} is drawn, of the last {ZOOM} {of_end}.")
    return page.paragraph(" ".join(words), "quiet")


def comparisons(results: Results, criterion: Criterion) -> list[str]:
    """Against the baseline."""
    table, context = results.compare(criterion), results.context(criterion)
    if not len(table):
        return [page.paragraph(results.verdict(criterion))]
    m = int(table.p_holm.notna().sum())
    text = (
        f"val {criterion.metric} against {context.baseline}"
        f"{context.repeats_phrase or ', the best configuration there by the same criterion'}. Paired by repeat: "
        f"{context.method_in_full(m)}; P(better) is the share of the repeats it wins, ties counted half; "
        f"correlation is that of the two over the repeats, what pairing gains."
    )
    head, rows = comparison_rows(table, results.by, criterion, context.anytime_level)
    return [page.paragraph(text, "quiet"), page.table(head, rows, what="comparisons")]


def best(results: Results, criterion: Criterion) -> list[str]:
    """The configuration that the study would choose, and what it is worth elsewhere."""
    table = results.selection(criterion)
    if not len(table):
        return []
    fresh = results.uses_held_out_repeats(criterion)
    kinds = {"val": "val, fresh repeats", "test": "test"}
    if not fresh:
        names = ("val (selected by it)", "val, corrected for selection", "test")
        kinds = dict(zip(("val", "corrected", "test"), names, strict=True))
    rows = []
    for _, row in table.iterrows():
        who = f"{row.row}: {results.label(row.config_id)}" if row.config_id else row.row
        signed = row.row == "difference"
        rows.append([who, *(_estimate(row, kind, criterion, signed) for kind in kinds)])
    text = _chosen_by(results, criterion, math.isnan(table.iloc[0]["corrected/mean"]))
    n = _examples(results).get("test")
    if n and criterion.metric == "acc" and math.isfinite(mean := table.iloc[0]["test/mean"]):
        low, high = wilson_interval(round(mean * n), n)
        text += (
            f" Other {n:,} images would give another number: Wilson's 95 % interval of one run is "
            f"{100 * low:.1f} to {100 * high:.1f}."
        )
    edges = page.paragraph(results.edges(criterion))
    return [page.table(["", *kinds.values()], rows), edges, page.paragraph(text, "quiet")]


def _chosen_by(results: Results, criterion: Criterion, uncorrected: bool) -> str:
    """What has chosen the best, and what that does to its numbers."""
    if results.uses_held_out_repeats(criterion):
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
    if criterion.has_predictions and uncorrected:
        text += " It is not corrected here, since predictions of a run are missing."
    return text


def _estimate(row: pd.Series, kind: str, criterion: Criterion, signed: bool) -> object:
    mean, low, high = (row[f"{kind}/{s}"] for s in ("mean", "low", "high"))
    if math.isnan(mean):
        return "-"
    sign = "+" if signed else ""
    form = f"{sign}.2f" if criterion.in_points else f"{sign}.4g"
    mean, low, high = (criterion.scale * value for value in (mean, low, high))
    text = format(mean, form)
    if math.isnan(low):
        return text
    return page.interval_cell(text, format(low, form), format(high, form))


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

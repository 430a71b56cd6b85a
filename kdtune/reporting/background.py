"""The report's sections behind the answer: what it hangs on, how and from what it was made."""

import dataclasses
import json
import math
from contextlib import suppress
from typing import Any

import pandas as pd

from kdtune.config.files import PROVENANCE
from kdtune.reporting import page
from kdtune.reporting.page import Markup
from kdtune.results.comparison import Criterion
from kdtune.results.frames import SCOPES
from kdtune.results.study_results import Results
from kdtune.results.tables import cell
from kdtune.storage.records import read_saved


def sensitivity(results: Results, criterion: Criterion) -> list[str]:
    """Does the ranking hang on the epoch; where does the spread come from."""
    table = results.sensitivity(criterion.metric)
    if not len(table):
        return []
    winners = {s: table.loc[table[f"{s}/rank"] == 1, "config_id"].iloc[0] for s in SCOPES}
    if len(set(winners.values())) == 1:
        text = f"By each criterion the best is the same: {results.label(winners['last'])}."
    else:
        each = "; ".join(f"by {s}: {results.label(c)}" for s, c in winners.items())
        text = f"The best hangs on which epoch counts: {each}."
    rows = [
        [cell(row[f"config/{n}"]) for n in results.by]
        + [_rank(row[f"{s}/mean"], row[f"{s}/rank"], criterion) for s in SCOPES]
        for _, row in table.iterrows()
    ]
    head = [*results.by, *(f"{s}{' (optimistic)' * (s == 'best')}" for s in SCOPES)]
    parts = ["<h3>Which epoch counts</h3>", page.paragraph(text)]
    parts.append(page.table(head, rows, what="configurations"))
    return parts + _spread(results, criterion)


def _rank(mean: float, rank: float, criterion: Criterion) -> Markup:
    shown = f"{100 * mean:.2f}" if criterion.in_points else f"{mean:.4g}"
    return Markup(f"{shown} <small>#{rank:.0f}</small>")


def _spread(results: Results, criterion: Criterion) -> list[str]:
    table = results.spread(criterion)
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
        f"Shares of the sum of squares of val {criterion.metric} over {last.n_configs} configurations × "
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


def methods(results: Results, criterion: Criterion) -> list[str]:
    """What was varied, what was held, and how every number was made."""
    run, context = results.study.run, results.context(criterion)
    words = [
        f"Repeats vary the student's initial weights, the order of the images"
        f"{'' if run.augmentation == 'none' else ', their augmentation'} and dropout, all fixed by "
        f"(seed {run.seed}, repeat): every configuration meets the same repeats, so they are "
        f"compared in pairs.",
        "They do not vary the teacher, nor the split into train, val and test: the answer is about "
        "this teacher and these images.",
        f"A run counts by one number (scope {criterion.scope}); the spread is over runs, never over "
        f"epochs. sd has ddof = 1; intervals are Student's t with n - 1 degrees of freedom, 95 %"
        f"{', but for those of the finalists' * (context.anytime_level is not None)}; they assume that "
        f"repeats' numbers are about normal, and may leave the possible range.",
        context.baseline_note,
        context.significance_rule(criterion.metric),
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
    fingerprints = read_saved(results.folder).fingerprints
    facts = {
        "data fingerprint": fingerprints.get("data", record.get("data", "")),
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

"""A study read whole: hand-worked tables, the starting repository's study, the command."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import sem, t
from studies import at, draw, edit_records, grid, make, metrics, starting_repository, write_records

import kdtune
from kdtune.analysis import main
from kdtune.comparison import Rule
from kdtune.config import InputError
from kdtune.reading import Reading

exact = pytest.approx
T2 = 4.302652729911275  # 97.5 % point of Student's t with 2 degrees of freedom
LAST = {0.5: [0.5, 0.6, 0.7], 1.0: [0.4, 0.45, 0.41]}


# -- the summary -----------------------------------------------------------------------------------


def test_summary_is_the_hand_worked(tmp_path) -> None:
    made = make(tmp_path, LAST)
    row = made.summary(metrics=("acc",)).set_index("alpha").loc[0.5]
    half = T2 * 0.1 / math.sqrt(3)
    expected = {"mean": 0.6, "std": 0.1, "n": 3, "low": 0.6 - half, "high": 0.6 + half}
    expected = {f"val/acc/{k}": v for k, v in expected.items()} | {"n_planned": 3}
    assert row.to_dict() == exact(expected)
    best = made.configs.iloc[0]
    assert (best["config/alpha"], best.n, best.n_planned) == (0.5, 3, 3)
    with pytest.raises(InputError, match="a column of the table must be one of"):
        made.summary(metrics=("accuracy",))
    with pytest.raises(InputError, match="by must be one of"):
        made.summary(by=("alpa",))


@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_summary_of_every_metric_is_numpys_and_scipys(tmp_path, repeats: int) -> None:
    last = draw({0.5: 0.0, 1.0: 0.0}, repeats)
    names = ("acc", "gap", "ce", "loss", "distill", "agreement", "kl", "logit_diff", "teacher_acc")
    table = make(tmp_path, last).summary(metrics=names).set_index("alpha")
    for alpha, name in ((a, n) for a in last for n in names):
        of = [metrics(at(alpha), acc) for acc in last[alpha]]
        values = [m["teacher_acc"] - m["acc"] if name == "gap" else m[name] for m in of]
        row = {k: table.loc[alpha, f"val/{name}/{k}"] for k in ("mean", "std", "n", "low", "high")}
        if name == "distill" and alpha == 1:
            assert row["n"] == 0 and math.isnan(row["mean"])
            continue
        assert (row["mean"], row["n"]) == (exact(np.mean(values)), repeats)
        if repeats == 1:
            assert all(math.isnan(row[k]) for k in ("std", "low", "high"))
        elif name != "teacher_acc":
            assert row["std"] == exact(np.std(values, ddof=1))
            ends = t.interval(0.95, repeats - 1, np.mean(values), sem(values))
            assert (row["low"], row["high"]) == exact(ends)


def test_failed_and_truncated_runs_are_not_averaged(tmp_path) -> None:
    last = {0.5: [0.5, 0.6, 0.7, 0.99], 1.0: [0.4, 0.5, 0.6, 0.01]}
    made = make(tmp_path, last, {(0.5, 3): "failed", (1.0, 3): "truncated"})
    table = made.summary(metrics=("acc",)).set_index("alpha")
    assert table["val/acc/n"].tolist() == [3, 3] and table.n_planned.tolist() == [4, 4]
    assert table.loc[0.5, "val/acc/mean"] == exact(0.6)
    assert table.loc[1.0, "val/acc/mean"] == exact(0.5)
    assert made.configs["n"].tolist() == [3, 3] and made.compare().n.tolist() == [3]
    pooled = made.summary(pooled=True, metrics=("acc",)).set_index("alpha")
    # curves rise evenly to the last: 1/3, 2/3, 1
    assert pooled.loc[0.5, "val/acc/mean"] == exact(0.6 * 2 / 3)
    assert "3 of 4" in made.text()


def test_a_run_without_the_number_is_not_counted_in_its_mean(tmp_path) -> None:
    make(tmp_path, LAST)
    trial = at(0.5, 2).trial_id
    edit_records(tmp_path, lambda line: line["trial_id"] == trial and line.update(acc=None))
    made = kdtune.load(tmp_path)
    row = made.summary(metrics=("acc", "ce")).set_index("alpha").loc[0.5]
    assert (row["val/acc/mean"], row["val/acc/n"], row["val/ce/n"]) == (exact(0.55), 2, 3)
    assert made.compare().n.tolist() == [2]
    assert any("no val acc" in w for w in made.warnings)


def test_a_row_of_several_configurations_counts_repeats_not_configurations(tmp_path) -> None:
    last = {at(0.5, temperature=1.0): [0.2, 0.4], at(0.5, temperature=4.0): [0.4, 0.8]}
    row = make(tmp_path, last).summary(by=["alpha"], metrics=["acc"]).iloc[0]
    assert row["val/acc/n"] == 2
    assert row["val/acc/mean"] == exact(0.45)  # of 0.3 and 0.6
    assert row["val/acc/std"] == exact(0.3 / 2**0.5)


def test_marginal_by_hand(tmp_path) -> None:
    last = {at(0.5, lr=0.1): [0.5, 0.6], at(0.5, lr=0.2): [0.7, 0.6]}
    last |= {at(1.0, lr=0.1): [0.3, 0.4], at(1.0, lr=0.2): [0.1, 0.2]}
    table = make(tmp_path, last).marginal(["acc"]).set_index(["hyperparameter", "value"])
    assert table["val/acc/mean"].to_dict() == exact(
        {("alpha", 0.5): 0.6, ("alpha", 1.0): 0.25, ("lr", 0.1): 0.45, ("lr", 0.2): 0.4}
    )
    assert table.loc[("alpha", 0.5), "val/acc/std"] == exact(0)  # of .6 and .6
    assert table.loc[("lr", 0.1), "val/acc/std"] == exact(0.1 / 2**0.5)  # of .4 and .5


def test_a_range_of_rates_is_cut_into_four(tmp_path) -> None:
    rates = [0.001 * 1.3**i for i in range(12)]
    last = draw({at(0.5, lr=lr): 0.01 * i for i, lr in enumerate(rates)}, 2, sd=0.001)
    made = make(tmp_path, last)
    assert len(made.summary(metrics=["acc"])) == 12
    cut = made.summary(by=["lr"], metrics=["acc"])
    assert cut.lr.tolist() == [
        f"{min(part):.3g} … {max(part):.3g}" for part in np.split(np.array(rates), 4)
    ]
    assert (cut["val/acc/n"] == 2).all() and (cut["val/acc/mean"].diff().dropna() > 0).all()


def test_configurations_are_sorted_by_their_mean(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.99, None, None], 0.5: [0.6, 0.6, 0.7], 1.0: [0.7, 0.6, 0.7]})
    assert made.configs["config/alpha"].tolist() == [1.0, 0.5, 0.1]  # one repeat is no winner
    assert made.best() == at(1.0).config_id and made.best(Rule("ce")) == at(1.0).config_id


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_records_is_not_seen(tmp_path_factory, seed: int) -> None:
    last = draw({0.1: 0.0, 0.5: 0.02, 1.0: 0.0}, 3, seed)
    folder = tmp_path_factory.mktemp("study")
    made = make(folder, last)
    file = folder / "epochs" / "00000.jsonl"
    lines = file.read_text().splitlines()
    by_trial = {}
    for line in lines:
        by_trial.setdefault(json.loads(line)["trial_id"], []).append(line)
    order = np.random.default_rng(seed).permutation(list(by_trial))
    file.write_text("\n".join(line for trial in order for line in by_trial[trial]) + "\n")
    again = kdtune.load(folder)
    assert again.verdict() == made.verdict()
    pd.testing.assert_frame_equal(again.summary(), made.summary(), rtol=1e-12)
    pd.testing.assert_frame_equal(again.compare(), made.compare(), rtol=1e-12)


# -- the starting repository's study ---------------------------------------------------------------


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> kdtune.Results:
    return starting_repository(tmp_path_factory.mktemp("hymenoptera"))


def test_its_short_run_is_named_and_left_out(started) -> None:
    (warning,) = (w for w in started.warnings if not w.startswith("no val "))
    assert re.fullmatch(
        r"truncated, left out: \S+, alpha = 0\.5, repeat 0, 2 of 25 epochs", warning
    )
    table = started.summary(metrics=["acc"]).set_index("alpha")
    assert table["val/acc/n"].to_dict() == {0: 4, 0.5: 3, 1: 4}


@pytest.mark.parametrize(
    ("alpha", "mean", "sd", "half"),  # research/stats.md, section 0
    [(0, 0.9542, 0.0053, 0.0085), (0.5, 0.9521, 0.0075, 0.0187), (1, 0.9608, 0.0053, 0.0085)],
)
def test_its_last_epochs(started, alpha: float, mean: float, sd: float, half: float) -> None:
    row = started.summary(metrics=["acc"]).set_index("alpha").loc[alpha]
    assert (row["val/acc/mean"], row["val/acc/std"]) == exact((mean, sd), abs=5e-5)
    assert (row["val/acc/high"] - row["val/acc/low"]) / 2 == exact(half, abs=5e-5)


def test_its_other_scopes(started) -> None:
    best = started.summary(metrics=["acc"], scope="best").set_index("alpha")
    assert best["val/acc/mean"].tolist() == exact([0.9608, 0.9586, 0.9624], abs=5e-5)
    assert best["val/acc/std"].tolist() == exact([0.0053, 0.0075, 0.0033], abs=5e-5)


def test_its_published_table_is_the_pooled_one(started) -> None:
    table = started.summary(metrics=["loss", "acc", "logit_diff"], pooled=True).set_index("alpha")
    for alpha, name, mean, sd in (
        *((0, "loss", 1.481328, 0.585938), (0, "acc", 0.945359, 0.028460)),
        *((0, "logit_diff", 0.964709, 0.226756), (1, "loss", 0.225731, 0.090253)),
        *((1, "acc", 0.941242, 0.058033), (1, "logit_diff", 1.337674, 0.274519)),
    ):
        row = table.loc[alpha]
        assert row[f"val/{name}/mean"] == exact(mean, abs=5e-7)
        assert row[f"val/{name}/std"] == exact(sd, abs=5e-7)


def test_its_verdict_claims_no_difference(started) -> None:
    # alpha = 1 is ahead by one image of 153, p = .13
    assert started.verdict().startswith(
        "No difference found: alpha = 0 against plain training: -0."
    )
    assert started.best() == started.configs.config_id[0]
    assert started.name(started.best()) == "alpha = 1"


# -- the study as a whole --------------------------------------------------------------------------


def test_what_tells_the_configurations_apart(tmp_path) -> None:
    assert make(tmp_path / "one", {0.5: [0.7]}).by == ["alpha"]
    runs = grid([0.5, 1.0], lr=[0.1, 0.2])
    assert make(tmp_path / "two", draw(dict.fromkeys(runs, 0.0), 2)).by == ["alpha", "lr"]
    mse = {run: 0.0 for run in grid([0.5, 1.0], loss=["mse"])}
    assert make(tmp_path / "mse", draw(mse, 2)).by == ["alpha"]


def test_names_of_configurations(tmp_path) -> None:
    runs = grid([0.5, 1.0], temperature=[1.0, 4.0])
    made = make(tmp_path, draw(dict.fromkeys(runs, 0.0), 2))
    names = {made.name(run.config_id) for run in runs}
    assert names == {"alpha = 0.5, T = 1", "alpha = 0.5, T = 4", "alpha = 1"}


def test_the_text_ends_with_the_verdict(tmp_path) -> None:
    made = make(tmp_path, draw({0.5: 0.05, 1.0: 0.0}, 8))
    text = made.text()
    assert text.endswith(made.verdict())
    assert "mean ± sd over n repeats, scope last" in text
    assert "Against plain training, val acc:" in text
    best = made.text(rule=Rule(scope="best"))
    assert "optimistic" in best and "optimistic" not in text


@pytest.mark.parametrize(
    ("fates", "state"),
    [
        ({}, "complete: 4 runs"),
        ({(0.5, 0): "failed", (1.0, 0): "pruned"}, "complete: 2 runs, 2 failed or pruned"),
        ({(0.5, 0): "truncated"}, "not running, and not complete: 3 of 4 runs completed; last"),
    ],
)
def test_states(tmp_path, fates, state: str) -> None:
    made = make(tmp_path, {0.5: [0.5, 0.6], 1.0: [0.4, 0.5]}, fates)
    assert made.state.startswith(state)


def test_a_study_that_has_just_begun_can_be_read(tmp_path) -> None:
    made = make(tmp_path, {0.5: [None], 1.0: [None]})
    assert made.text().endswith(made.verdict()) and made.verdict().startswith("No verdict")
    assert made.state == "not running, and not complete: 0 of 2 runs completed"
    for table in (made.summary(), made.configs, made.compare(), made.sensitivity(), made.spread()):
        assert not len(table)
    assert not len(made.importance()) and not len(made.selection()) and not len(made.marginal())
    assert made.best() is None


def test_a_study_at_its_first_epoch_can_be_read(tmp_path) -> None:
    make(tmp_path, {0.5: [None], 1.0: [None]})
    write_records(tmp_path, {at(0.5): [0.3]}, {at(0.5): "running"})
    made = kdtune.load(tmp_path)
    assert made.text().endswith(made.verdict()) and not len(made.summary())


# -- the command -----------------------------------------------------------------------------------


def asked(capsys, folder, **flags) -> tuple[int, str, str]:
    code = main(Reading(str(folder), **flags))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_prints_the_text(tmp_path, capsys) -> None:
    made = make(tmp_path, LAST)
    assert asked(capsys, tmp_path) == (0, made.text() + "\n", "")


def test_strict_is_an_exit_code(tmp_path, capsys) -> None:
    make(tmp_path, LAST, {(0.5, 1): "failed"})
    code, _, err = asked(capsys, tmp_path)
    assert code == 0 and err.startswith("warning: failed, left out")
    assert asked(capsys, tmp_path, strict=True)[0] == 3
    make(tmp_path / "whole", LAST)
    assert asked(capsys, tmp_path / "whole", strict=True)[0] == 0


@pytest.mark.parametrize("form", ["csv", "json", "latex"])
def test_forms(tmp_path, capsys, form: str) -> None:
    made = make(tmp_path, LAST)
    code, out, _ = asked(capsys, tmp_path, format=form, columns=("acc", "val/ce"))
    assert code == 0 and "verdict" not in out.lower() and "No difference" not in out
    if form == "json":
        records = json.loads(out)
        want = made.summary(metrics=("acc", "ce"))
        assert [r["val/acc/mean"] for r in records] == exact(want["val/acc/mean"].tolist())


def test_rules_from_the_command_line(tmp_path, capsys) -> None:
    made = make(tmp_path, draw({0.1: 0.0, 0.5: 0.05, 1.0: 0.0}, 6))
    _, out, _ = asked(capsys, tmp_path, metric="ce", scope="best", baseline="alpha=0.5")
    rule = Rule("ce", "best", {"alpha": 0.5})
    assert out.rstrip().endswith(made.verdict(rule))
    assert "Against alpha = 0.5, val ce:" in out


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ("alpha=x", r"must be of the study \(alpha: 0.1, 0.5, 1.0\), but got alpha=x"),
        ("alpha=0.3", "but got alpha=0.3"),
        ("alpha=0.5,temperature=9", r"\(temperature: 4.0\), but got temperature=9"),
    ],
)
def test_a_baseline_that_the_study_cannot_have(tmp_path, baseline: str, words: str) -> None:
    make(tmp_path, draw({0.1: 0.0, 0.5: 0.05, 1.0: 0.0}, 2))
    with pytest.raises(InputError, match=words):
        main(Reading(str(tmp_path), baseline=baseline))


def test_a_file_is_no_study(tmp_path) -> None:
    with pytest.raises(InputError, match=r"must be a folder, but .*study\.json is none"):
        kdtune.load(tmp_path / make(tmp_path, LAST).folder / "study.json")


def test_pooled_says_what_it_is(tmp_path, capsys) -> None:
    make(tmp_path, LAST)
    _, out, _ = asked(capsys, tmp_path, pooled=True)
    assert "the sd is that of a learning curve, not of repeats" in out

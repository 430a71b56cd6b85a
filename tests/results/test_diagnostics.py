"""What is missing in a study, and what cannot be right, is said: on studies with one fault each."""

import pytest
from study_folders import at, draw, edit_records, make, make_final, write_records

import kdtune
from kdtune.planning.plan import Plan
from kdtune.results.diagnostics import MOST, notes
from kdtune.storage.records import read_lines

LAST = {0.5: [0.7, 0.8, 0.75], 1.0: [0.6, 0.65, 0.5]}


def test_a_whole_study_has_no_fault(tmp_path) -> None:
    made = make(tmp_path, LAST)
    assert made.warnings == []
    assert made.state == "complete: 6 runs"


def test_failed_and_truncated_runs_are_named(tmp_path) -> None:
    fates = {(0.5, 2): "failed", (1.0, 1): "truncated"}
    made = make(tmp_path, LAST, fates, error="OSError: [Errno 28] No space left")
    failed, truncated, _ = made.warnings  # the third: they have not the same repeats
    ids = at(0.5, 2).trial_id, at(1.0, 1).trial_id
    assert failed == (
        f"failed, left out: {ids[0]}, alpha = 0.5, repeat 2, 3 of 3 epochs (OSError: [Errno 28] No "
        f"space left)"
    )
    assert truncated == f"truncated, left out: {ids[1]}, alpha = 1, repeat 1, 1 of 3 epochs"
    assert made.state.startswith(
        "not running, and not complete: 4 of 6 runs completed; last record"
    )


def test_many_are_counted(tmp_path) -> None:
    last = {0.5: [0.5 + r / 100 for r in range(MOST + 5)], 1.0: [0.6]}
    made = make(tmp_path, last, {(0.5, r): "failed" for r in range(MOST + 5)}, repeats=MOST + 5)
    assert sum(w.startswith("failed, left out: ") for w in made.warnings) == MOST + 1
    assert "failed, left out: 5 more runs" in made.warnings


def test_runs_that_have_not_started_are_counted(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.7, 0.8, 0.75], 1.0: [0.6, None, None]})
    assert made.warnings == ["2 runs have not started"]


def test_fresh_repeats_do_not_stand_for_runs_that_have_not_started(tmp_path) -> None:
    """A race whose folder is run again with --policy all."""
    last = {0.1: [0.5, None, None], 0.5: [0.7, 0.8, 0.75], 1.0: [0.6, 0.61, None]}
    made = make_final(tmp_path, last, {0.5: [0.71, 0.72, 0.73], 1.0: [0.63, 0.62, 0.64]})
    assert made.warnings == ["3 runs have not started"]
    assert made.state.startswith("not running, and not complete: 12 of 15 runs completed")


def test_a_completed_run_with_too_few_epochs_is_no_whole_run(tmp_path) -> None:
    # the starting repository's file of 2 epochs of 25: its end is recorded, its epochs are not
    made = make(tmp_path, LAST)
    short = at(0.5, 1)
    file = tmp_path / "epochs" / "00000.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    is_late = [
        short.trial_id in x and '"kind": "epoch"' in x and '"epoch": 0' not in x for x in lines
    ]
    file.write_text("".join(x for x, late in zip(lines, is_late, strict=True) if not late))
    made = kdtune.load(tmp_path)
    (warning,) = made.warnings
    assert warning == f"truncated, left out: {short.trial_id}, alpha = 0.5, repeat 1, 1 of 3 epochs"
    table = made.summary(metrics=["acc"]).set_index("alpha")
    assert table.loc[0.5, "val/acc/mean"] == pytest.approx((0.7 + 0.75) / 2)
    # and the search takes it up again
    plan = Plan(made.study, read_lines(tmp_path)[0])
    assert plan.next_run() == short and plan.next_run() is None


def test_a_torn_line_is_named(tmp_path) -> None:
    make(tmp_path, LAST)
    file = tmp_path / "epochs" / "00000.jsonl"
    text = file.read_text()
    file.write_text(text[:-20])
    first, *rest = kdtune.load(tmp_path).warnings
    assert first == f"a torn line was skipped: 00000.jsonl:{text.count(chr(10))}"
    assert rest[0].startswith("truncated, left out")  # its end was in that line


def test_a_missing_number_is_named(tmp_path) -> None:
    make(tmp_path, LAST)
    trial = at(0.5, 1).trial_id
    edit_records(
        tmp_path, lambda line: line["trial_id"] == trial and line.update(kl=None, acc=None)
    )
    warnings = kdtune.load(tmp_path).warnings
    assert "no val acc: alpha = 0.5, repeat 1" in warnings
    assert "no val kl: alpha = 0.5, repeat 1" in warnings
    assert len(warnings) == 2  # plain training has no distillation term, and that is no fault


def test_different_repeats_are_said(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.5, 0.6, None], 0.5: [0.71, 0.8, None], 1.0: [None, 0.6, 0.7]})
    assert "alpha = 1 has repeats that others lack: 2" in made.warnings
    assert not any("alpha = 0.1 has" in w or "alpha = 0.5 has" in w for w in made.warnings)


def test_a_configuration_that_lags_is_not_odd(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.5, None, None], 0.5: [0.71, 0.8, 0.9], 1.0: [0.6, 0.62, 0.7]})
    assert made.warnings == ["2 runs have not started"]


def test_a_seed_that_was_not_applied_is_seen(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.7, 0.8, 0.7], 1.0: [0.6, 0.65, 0.5]})
    (warning,) = made.warnings
    assert warning == (
        "the same curve to the last digit: alpha = 0.5, repeat 0 and alpha = 0.5, repeat 2"
    )


def test_a_value_that_was_not_applied_is_seen(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.7, 0.8], 0.5: [0.7, 0.81], 1.0: [0.6, 0.5]})
    (warning,) = made.warnings
    assert warning == (
        "the same curve to the last digit: alpha = 0.1, repeat 0 and alpha = 0.5, repeat 0"
    ) or warning == (
        "the same curve to the last digit: alpha = 0.5, repeat 0 and alpha = 0.1, repeat 0"
    )


def test_equal_last_epochs_are_no_identical_curves(tmp_path) -> None:
    last = {0.5: [0.7, 0.7]}
    make(tmp_path, last)
    (tmp_path / "epochs" / "00000.jsonl").unlink()
    runs = {at(0.5, 0): [0.1, 0.2, 0.7], at(0.5, 1): [0.2, 0.3, 0.7]}
    write_records(tmp_path, runs)
    assert not any("same curve" in w for w in kdtune.load(tmp_path).warnings)


def test_the_loss_is_not_comparable_across_alpha(tmp_path) -> None:
    frames = make(tmp_path / "two", LAST).frames
    assert notes(frames, ["acc", "loss"]) == [
        "loss = alpha ce + (1 - alpha) distill: it is not comparable across alpha; ce is"
    ]
    assert notes(frames, ["acc", "ce"]) == []
    assert notes(make(tmp_path / "one", {0.5: [0.7, 0.8]}).frames, ["loss"]) == []


@pytest.mark.parametrize("last", [{}, draw({0.5: 0.0, 1.0: 0.0}, 1)])
def test_no_study_is_too_small_to_be_looked_at(tmp_path, last) -> None:
    made = make(tmp_path, last or {0.5: [None], 1.0: [None]})
    assert made.warnings == ([] if last else ["2 runs have not started"])

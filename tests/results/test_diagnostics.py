"""Problems in the records are reported: studies with one problem each."""

import pytest
from study_folders import at, draw, edit_records, make, make_final, write_records

import kdtune
from kdtune.planning.plan import Plan
from kdtune.results.warnings import MAX_LISTED, find_caveats
from kdtune.storage.records import read_lines

LAST = {0.5: [0.7, 0.8, 0.75], 1.0: [0.6, 0.65, 0.5]}


def test_a_complete_study_has_no_problems(tmp_path) -> None:
    made = make(tmp_path, LAST)
    assert made.warnings == []
    assert made.status == "complete: 6 runs"


def test_failed_and_truncated_runs_are_named(tmp_path) -> None:
    fates = {(0.5, 2): "failed", (1.0, 1): "truncated"}
    made = make(tmp_path, LAST, fates, error="OSError: [Errno 28] No space left")
    failed, truncated, _ = made.warnings  # the third: they have not the same repeats
    ids = at(0.5, 2).trial_id, at(1.0, 1).trial_id
    assert failed == (
        f"failed run excluded: {ids[0]}, alpha = 0.5, repeat 2, 3 of 3 epochs (OSError: [Errno 28] "
        f"No space left)"
    )
    assert truncated == f"truncated run excluded: {ids[1]}, alpha = 1, repeat 1, 1 of 3 epochs"
    assert made.status.startswith("incomplete, not running: 4 of 6 runs completed; last record")


def test_of_many_problems_the_rest_is_counted(tmp_path) -> None:
    last = {0.5: [0.5 + r / 100 for r in range(MAX_LISTED + 5)], 1.0: [0.6]}
    made = make(
        tmp_path, last, {(0.5, r): "failed" for r in range(MAX_LISTED + 5)}, repeats=MAX_LISTED + 5
    )
    assert sum("failed run" in w for w in made.warnings) == MAX_LISTED + 1
    assert "5 more failed runs excluded" in made.warnings


def test_runs_that_have_not_started_are_counted(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.7, 0.8, 0.75], 1.0: [0.6, None, None]})
    assert made.warnings == ["2 runs have not started"]


def test_final_repeats_do_not_count_as_search_runs(tmp_path) -> None:
    """A race whose folder is run again with --policy all."""
    last = {0.1: [0.5, None, None], 0.5: [0.7, 0.8, 0.75], 1.0: [0.6, 0.61, None]}
    made = make_final(tmp_path, last, {0.5: [0.71, 0.72, 0.73], 1.0: [0.63, 0.62, 0.64]})
    assert made.warnings == ["3 runs have not started"]
    assert made.status.startswith("incomplete, not running: 12 of 15 runs completed")


def test_a_completed_run_with_too_few_epochs_is_truncated(tmp_path) -> None:
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
    assert (
        warning == f"truncated run excluded: {short.trial_id}, alpha = 0.5, repeat 1, 1 of 3 epochs"
    )
    table = made.summary(metrics=["acc"], full=True).set_index("alpha")
    assert table.loc[0.5, "val/acc/mean"] == pytest.approx((0.7 + 0.75) / 2)
    # and the search takes it up again
    plan = Plan(made.study, read_lines(tmp_path)[0])
    run = plan.next_run()
    assert run is not None and run.trial_id == short.trial_id and plan.next_run() is None


def test_an_incomplete_record_is_named(tmp_path) -> None:
    make(tmp_path, LAST)
    file = tmp_path / "epochs" / "00000.jsonl"
    text = file.read_text()
    file.write_text(text[:-20])
    first, *rest = kdtune.load(tmp_path).warnings
    assert first == f"unreadable record skipped: 00000.jsonl:{text.count(chr(10))}"
    assert rest[0].startswith("truncated run excluded")  # its end was in that line


def test_a_missing_metric_is_reported(tmp_path) -> None:
    make(tmp_path, LAST)
    trial = at(0.5, 1).trial_id
    edit_records(
        tmp_path, lambda line: line["trial_id"] == trial and line.update(kl=None, agreement=None)
    )
    warnings = kdtune.load(tmp_path).warnings
    assert "val agreement missing: alpha = 0.5, repeat 1" in warnings
    assert "val kl missing: alpha = 0.5, repeat 1" in warnings
    assert len(warnings) == 2  # alpha = 1 has no distillation term, which is not a problem


def test_a_metric_that_no_trial_recorded_is_not_missing(tmp_path) -> None:
    """Version 0.1 recorded no nll: NaN columns, and no warning until some trial has it."""
    made = make(tmp_path, LAST)
    assert made.trials["val/nll@last"].isna().all() and made.warnings == []
    trial = at(1.0, 1).trial_id
    edit_records(tmp_path, lambda line: line["trial_id"] != trial and line.update(nll=0.5))
    made = kdtune.load(tmp_path)
    assert made.warnings == ["val nll missing: alpha = 1, repeat 1"]
    assert made.summary(metrics=["nll"], full=True)["val/nll/n"].tolist() == [3, 2]


def test_a_missing_term_of_the_loss_is_named_where_the_loss_has_it(tmp_path) -> None:
    make(tmp_path, LAST)  # alpha = 1 has no distillation term
    trial = at(0.5, 1).trial_id
    edit_records(tmp_path, lambda line: line["trial_id"] == trial and line.update(distill=None))
    assert kdtune.load(tmp_path).warnings == ["val distill missing: alpha = 0.5, repeat 1"]


def test_unequal_repeats_are_reported(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.5, 0.6, None], 0.5: [0.71, 0.8, None], 1.0: [None, 0.6, 0.7]})
    assert "alpha = 1 has repeats that other configurations lack: 2" in made.warnings
    assert not any("alpha = 0.1 has" in w or "alpha = 0.5 has" in w for w in made.warnings)


def test_a_configuration_with_fewer_repeats_is_not_reported(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.5, None, None], 0.5: [0.71, 0.8, 0.9], 1.0: [0.6, 0.62, 0.7]})
    assert made.warnings == ["2 runs have not started"]


def test_a_seed_that_was_not_applied_is_reported(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.7, 0.8, 0.7], 1.0: [0.6, 0.65, 0.5]})
    (warning,) = made.warnings
    assert warning == ("identical learning curves: alpha = 0.5, repeat 0 and alpha = 0.5, repeat 2")


def test_a_value_that_was_not_applied_is_reported(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.7, 0.8], 0.5: [0.7, 0.81], 1.0: [0.6, 0.5]})
    (warning,) = made.warnings
    assert warning == (
        "identical learning curves: alpha = 0.1, repeat 0 and alpha = 0.5, repeat 0"
    ) or warning == ("identical learning curves: alpha = 0.5, repeat 0 and alpha = 0.1, repeat 0")


def test_equal_last_epochs_are_no_identical_curves(tmp_path) -> None:
    last = {0.5: [0.7, 0.7]}
    make(tmp_path, last)
    (tmp_path / "epochs" / "00000.jsonl").unlink()
    runs = {at(0.5, 0): [0.1, 0.2, 0.7], at(0.5, 1): [0.2, 0.3, 0.7]}
    write_records(tmp_path, runs)
    assert not any("identical" in w for w in kdtune.load(tmp_path).warnings)


def test_the_loss_is_not_comparable_across_alpha(tmp_path) -> None:
    frames = make(tmp_path / "two", LAST).frames
    assert find_caveats(frames, ["acc", "loss"]) == [
        "The loss (alpha * ce + (1 - alpha) * distill) is not comparable across alpha; the "
        "cross-entropy (ce) is."
    ]
    assert find_caveats(frames, ["acc", "ce"]) == []
    assert find_caveats(make(tmp_path / "one", {0.5: [0.7, 0.8]}).frames, ["loss"]) == []


@pytest.mark.parametrize("last", [{}, draw({0.5: 0.0, 1.0: 0.0}, 1)])
def test_the_smallest_studies_can_be_checked(tmp_path, last) -> None:
    made = make(tmp_path, last or {0.5: [None], 1.0: [None]})
    assert made.warnings == ([] if last else ["2 runs have not started"])

"""Tiny studies under a real Ray: what is run, once; resume."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from drivers import check_steady, recomputed_epochs, wait_until
from own_functions import study_of
from s3_service import S3
from tiny_run import TINY

import kdtune
from kdtune.config.cli import run_and_exit
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.search import main
from kdtune.storage.mirror import mark_trials
from kdtune.storage.records import read_lines
from kdtune.streams.views import Resources
from kdtune.training.recipe import resolve
from kdtune.training.run import distill

pytestmark = pytest.mark.usefixtures("shared_ray", "one_at_a_time")


def test_a_study_from_nothing_to_its_folder(
    study: Study, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Run, read, repeated without work, and repeated for a run that was dropped."""
    study = replace(study, space={"alpha": (0.0, 1.0)})
    assert main(study) == 0
    results = kdtune.load(study.folder)
    trials, folder = results.trials, study.folder
    assert list(trials.status) == ["completed"] * 4
    assert trials.groupby("config_id")["repeat"].apply(sorted).tolist() == [[0, 1]] * 2
    epochs = results.epochs.groupby(["trial_id", "split"]).size().unstack().to_dict("list")
    assert epochs == {"train": [3] * 4, "val": [3] * 4, "test": [1] * 4}
    for name in ("study.json", "epochs.parquet", "summary.md", "summary.csv", "teacher"):
        assert (folder / name).exists(), name
    assert len(pd.read_parquet(folder / "predictions.parquet")) == 4 * (48 + 36)
    assert len(list((folder / "students").glob("*.safetensors"))) == 2
    assert not list(folder.glob("trials/*/student.safetensors"))  # --keep best
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "trials.parquet"), trials)
    assert results.study.run == replace(resolve(study.run), batch_norm="train")
    costs = (folder / "costs.json").read_bytes()
    student = results.costs.set_index("role").loc["student"]
    assert (trials["student/params"] == student.params).all() and student.params > 0

    run = replace(study.run, alpha=0.0, repeat=1)  # a trial equals the same run alone
    *_, last = distill(run, folder / "teacher", Resources())
    row = trials.set_index("trial_id").loc[run.trial_id]
    for name in ("loss", "acc", "logit_diff", "kl"):
        assert row[f"val/{name}@last"] == pytest.approx(last.splits["val"][name], rel=1e-6)
        assert row[f"test/{name}@last"] == pytest.approx(last.splits["test"][name], rel=1e-6)

    dropped = f"{results.best()}-r01"
    weights = folder / "students" / "repeat-01.safetensors"
    saved = weights.read_bytes()
    mark_trials(str(folder), [dropped], [], "a fault")
    request.getfixturevalue("without_texts")
    with monkeypatch.context() as patch:
        patch.setattr("kdtune.raytune.driver.ray_session", None)  # Ray is not even started
        statuses = kdtune.run(study).trials.set_index("trial_id").status
    assert statuses.to_dict() == {t: "completed" for t in trials.trial_id} | {dropped: "dropped"}
    request.getfixturevalue("in_this_process")
    again = kdtune.run(replace(study, rerun_dropped=True))
    assert not kdtune.load(folder).study.rerun_dropped
    timed = ["seconds", "node"]
    pd.testing.assert_frame_equal(again.trials.drop(columns=timed), trials.drop(columns=timed))
    starts = [x["trial_id"] for x in read_lines(folder)[0] if x["kind"] == "start"]
    assert sorted(starts) == sorted([*trials.trial_id, dropped])
    assert weights.read_bytes() == saved  # --keep best had deleted it
    assert (folder / "costs.json").read_bytes() == costs  # nothing is measured again


@pytest.mark.usefixtures("in_this_process", "without_texts")
def test_students_and_teachers_are_searched(taught: Study) -> None:
    """Two students, two teachers and their ensemble, each student with one baseline."""
    first, second = "factories:tiny_teacher", "factories:tiny_student"
    space = {"student": (TINY.student, "factories:dropout_student")}
    space |= {"teacher": (first, second, f"{first}+{second}"), "alpha": (0.5, 1.0)}
    weights = (f"{first}={taught.run.teacher_weights}", f"{second}=none")
    run = replace(taught.run, teacher_weights=weights, epochs=1)
    study = replace(taught, run=run, space=space, repeats=1)
    results = kdtune.run(study)
    assert list(results.trials.status) == ["completed"] * 8
    teacher_acc = results.trials.groupby("config/teacher")["val/teacher_acc@last"].nunique()
    assert list(teacher_acc) == [1, 1, 1]  # the same logits for both students
    # views and logits of both members, of train, val and test; the ensemble has none of its own
    kinds = [file.parts[-3] for file in Path(str(study.cache)).glob("*/*/*.safetensors")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"views": 3, "logits": 6}
    one = replace(study, space={"alpha": (0.5, 1.0)})
    with pytest.raises(InputError, match=r"student lacks factories:dropout_student"):
        kdtune.run(one)


@pytest.mark.slow
def test_a_limit_of_time_is_kept_and_more_hours_complete_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """68 runs of 0.8 s, two at a time, in 20 s; all numbers are those of the function alone."""
    study = study_of("own_functions:steady", tmp_path, epochs=8, repeats=34, hours=20 / 3600)
    results = kdtune.run(study)
    repeats = results.trials.groupby("config_id")["repeat"].agg(set)
    assert len(repeats) == 2 and repeats.iloc[0] == repeats.iloc[1] and len(repeats.iloc[0]) < 34
    starts = [line["elapsed"] for line in read_lines(study.folder)[0] if line["kind"] == "start"]
    assert max(starts) < 20  # how long the last one takes depends on the machine
    left = f"left out {34 - len(repeats.iloc[0])} of 34 repeats; the same command with more hours"
    assert any(left in warning for warning in results.warnings)
    assert not any("--hours" in w for w in kdtune.run(replace(study, hours=1.0)).warnings)
    check_steady(study, tmp_path, monkeypatch)


def test_a_race_on_a_store(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TPE, a race, early stopping, confirmation and final repeats under a real Ray."""
    server = s3.url.removeprefix("http://")  # which workers do not have in their environment
    study = study_of(
        "own_functions:climbs",
        f"s3://kdtune/{tmp_path.name}?endpoint_override={server}&scheme=http",
        space={"alpha": Range(0, 0.9), "lr": Range(1e-3, 0.1, log=True)},
        epochs=8,
        search="tpe",
        samples=10,
        plain_share=0.2,
        repeats=2,
        policy="race",
        stop_early=True,
    )
    kdtune.run(study)
    results = kdtune.load(str(study.uri))
    trials = results.trials
    assert set(trials.status) == {"completed", "pruned"}
    assert (trials[trials.status == "pruned"].n_epochs < 8).all()
    assert (trials[trials.status == "completed"].n_epochs == 8).all()
    final = results.final_trials
    assert sorted(final["repeat"]) == [2000, 2000, 2001, 2001]
    assert (final.groupby("config_id")["config/alpha"].first() == 1).sum() == 1
    lines, round_ = read_lines(results.folder)[0], results.frames.round
    kinds = [line["kind"] for line in lines if line.get("phase", "final") == "final"]
    assert round_ is not None and kinds.index("finalists") < kinds.index("start")
    assert results.best() == round_.ranking[0]
    assert set(final.config_id) == round_.finalists
    assert trials.config_id.nunique() == 10
    assert trials.groupby("config_id")["config/alpha"].first().eq(1).sum() == 2  # a fifth of 10
    monkeypatch.setattr("kdtune.raytune.driver.ray_session", None)  # Ray is not even started
    assert len(kdtune.run(study).trials) == len(trials)
    other = replace(study, train="own_functions:steady", name=study.name)
    with pytest.raises(InputError, match=r"another study \(train: own_functions:climbs → own"):
        kdtune.run(other)


def test_ctrl_c_exits_130_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted once a run has ended; the worker of the other run dies, too.

    The function finds its state. experiments/soak.py kills drivers.
    """
    changes = {"space": {"alpha": (1.0,)}, "epochs": 8, "repeats": 2}
    study = study_of("own_functions:dies_once", tmp_path, **changes)
    of_ctrl_c = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        wait_until(lambda: any(x["kind"] == "end" for x in read_lines(study.folder)[0]))
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as other:
        sent = other.submit(interrupt)
        with pytest.raises(SystemExit) as exit_:
            run_and_exit(lambda: main(study), resumes=True)
        sent.result()
    assert exit_.value.code == 130
    assert signal.getsignal(signal.SIGINT) is of_ctrl_c  # Tune leaves another one behind
    errors = capsys.readouterr().err
    assert "run the same command again to resume" in errors and "Traceback" not in errors
    before = read_lines(study.folder)[0]
    (ended,) = (line["trial_id"] for line in before if line["kind"] == "end")

    assert main(study) == 0
    output = capsys.readouterr().out
    assert "val/acc" not in output and "Best configuration: alpha = 1. Mean" in output
    after = read_lines(study.folder)[0]
    assert after[: len(before)] == before
    assert ended not in [x["trial_id"] for x in after[len(before) :] if x["kind"] == "start"]
    assert len(list(study.folder.glob("trials/*/files/died"))) == 1
    assert max(map(len, recomputed_epochs(study.folder).values())) <= 1
    check_steady(study, tmp_path, monkeypatch)

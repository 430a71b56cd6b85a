"""Runs that are dropped and restored, in a folder and on a store."""

from dataclasses import replace
from pathlib import Path

import pytest
from s3_service import S3
from study_folders import at, draw, make, write_records

import kdtune
from kdtune.analysis import AnalysisFlags, main
from kdtune.config.files import state_files
from kdtune.config.text import InputError
from kdtune.storage.folder import lock_study
from kdtune.storage.mirror import Mirror, mark_trials
from kdtune.storage.records import read_lines

GONE = at(0.5, 1).trial_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "made", draw({0.5: 0.05, 1.0: 0.0}, 4), out=str(tmp_path))
    return tmp_path / "made"


def test_a_dropped_run_counts_in_no_table_until_it_is_restored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, lines = kdtune.load(folder), read_lines(folder)[0]
    checkpoint = folder / "trials" / GONE / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    for file in state_files(checkpoint):
        file.touch()
    assert main(AnalysisFlags((str(folder),), drop=(GONE,), reason="its GPU was faulty")) == 0
    assert f"dropped {GONE}" in capsys.readouterr().err
    assert not list(checkpoint.parent.iterdir())
    dropped = kdtune.load(folder)
    kept = before.trials.trial_id != GONE
    assert dropped.trials.status.tolist() == ["completed" if k else "dropped" for k in kept]
    columns = [name for name in before.trials if name != "error"]  # its dtype has changed
    assert dropped.trials[kept][columns].equals(before.trials[kept][columns])
    assert dropped.compare().n[0] == 3  # paired: the baseline's repeat is left out, too
    assert dropped.status == "complete: 7 runs, 1 dropped"
    (warning,) = (w for w in dropped.warnings if "dropped" in w)
    assert GONE in warning and "(its GPU was faulty)" in warning
    now = read_lines(folder)[0]
    assert now[: len(lines)] == lines and [x["kind"] for x in now[len(lines) :]] == ["drop"]

    mark_trials(str(folder), [], [GONE])
    assert kdtune.load(folder).trials.equals(before.trials)


def test_a_new_attempt_replaces_a_dropped_run(folder: Path) -> None:
    mark_trials(str(folder), [GONE], [])
    write_records(folder, {at(0.5, 1): [0.1, 0.2, 0.9]}, attempt=1)
    trials = kdtune.load(folder).trials.set_index("trial_id")
    assert trials.status[GONE] == "completed" and trials["val/acc@last"][GONE] == 0.9


@pytest.mark.parametrize(
    ("drop", "restore", "message"),
    [
        ([GONE, f"{GONE[:-1]}7"], [], f"--drop must be .* but got .*7; did you mean {GONE[:-2]}"),
        ([], [GONE], f"--restore must be dropped runs .there are none., but got {GONE}"),
        ([GONE], [GONE], "different runs"),
    ],
)
def test_refusals_change_nothing(folder: Path, drop: list, restore: list, message: str) -> None:
    lines = read_lines(folder)[0]
    with pytest.raises(InputError, match=message):
        mark_trials(str(folder), drop, restore)
    assert read_lines(folder)[0] == lines


def test_what_is_dropped_is_not_dropped_again(folder: Path) -> None:
    mark_trials(str(folder), [GONE], [])
    with pytest.raises(InputError, match=f"not dropped yet, but got {GONE}; --restore"):
        mark_trials(str(folder), [GONE], [])


def test_nothing_is_dropped_while_a_driver_runs(folder: Path) -> None:
    with (
        lock_study(folder),
        pytest.raises(InputError, match="need a study that is not running"),
    ):
        mark_trials(str(folder), [GONE], [])
    assert "dropped" not in set(kdtune.load(folder).trials.status)


def test_a_study_on_a_store(
    s3: S3, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    study = replace(kdtune.load(folder).study, out=f"s3://kdtune/{tmp_path.name}", name="moved")
    study.folder.parent.mkdir(parents=True)
    folder.rename(study.folder)
    mirror = Mirror(study)
    mirror.push("study.json", "epochs")
    mark_trials(str(study.uri), [GONE], [])
    status = kdtune.load(str(study.uri)).trials.set_index("trial_id").status
    assert status[GONE] == "dropped" and (status == "completed").sum() == 7
    assert mirror.store is not None
    assert mirror.store.names() == ["epochs/00000.jsonl", "epochs/00001.jsonl", "study.json"]

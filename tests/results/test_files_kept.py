"""Files that are gone are said, and only those."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from study_folders import at, draw, make, write_predictions

import kdtune
from kdtune.config.files import PREDICTIONS, STUDENT
from kdtune.results.results import Results


@pytest.fixture
def made(tmp_path: Path) -> Results:
    """Return a study with a folder per run; no predictions.parquet of the study."""
    made = make(tmp_path / "made", draw({0.5: 0.05, 1.0: 0.0}, 3), keep="all")
    frame = write_predictions(made)
    (made.folder / PREDICTIONS).unlink()
    for name in made.trials.trial_id:
        own = made.folder / "trials" / name
        own.mkdir(parents=True)
        (own / STUDENT).touch()
        frame[frame.trial_id == name].to_parquet(own / PREDICTIONS, index=False)
    return made


def warnings_of(results: Results) -> list[str]:
    return kdtune.load(results.folder).warnings


def test_folders_deleted_by_hand(made: Results) -> None:
    assert warnings_of(made) == []
    gone = [at(0.5, r).trial_id for r in (0, 2)]
    for name in gone:
        shutil.rmtree(made.folder / "trials" / name)
    (warning,) = warnings_of(made)
    assert warning == (
        f"the folders of 2 completed runs in trials/ are gone: their students and their "
        f"predictions are no longer available ({', '.join(sorted(gone))})"
    )
    frame = pd.DataFrame({"trial_id": gone[:1]})
    frame.to_parquet(made.folder / PREDICTIONS)
    assert "their students and predictions of 1 are" in warnings_of(made)[0]
    pd.DataFrame({"trial_id": gone}).to_parquet(made.folder / PREDICTIONS)
    assert (
        "their students are no longer available; their predictions are in" in (warnings_of(made)[0])
    )


def test_records_alone_have_lost_nothing(made: Results) -> None:
    shutil.rmtree(made.folder / "trials")
    assert warnings_of(made) == []  # no driver has written them
    (made.folder / "provenance.json").write_text("{}")
    assert "the folders of 6 completed runs" in warnings_of(made)[0]

"""Studies whose images change while they run: no table of two versions of an image."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from drivers import numbers, wait_until
from photos import photo, save, save_photos

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import DataChangedError, InputError
from kdtune.storage.records import read_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shared_ray", "one_at_a_time"),
]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Four repeats of one configuration, one run at a time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    save_photos(tmp_path / "photos", 4)
    run = Run(
        data=str(tmp_path / "photos"),
        image_size=24,
        teacher="cifar_resnet20",
        teacher_weights="none",
        teacher_epochs=1,
        student="cifar_resnet20",
        student_weights="none",
        lr=0.01,
        epochs=2,
        batch_size=8,
    )
    places = {"out": str(tmp_path / "runs"), "cache": str(tmp_path / "cache")}
    return Study(name="s", run=run, space={"alpha": (0.5,)}, plain_share=0, repeats=4, **places)


def test_an_overwritten_image_stops_the_study_which_goes_on_when_it_is_back(
    study: Study, tmp_path: Path
) -> None:
    file = tmp_path / "photos" / "train" / "ant" / "2.png"
    content = file.read_bytes()

    def overwrite() -> None:
        wait_until(lambda: any(x["kind"] == "end" for x in read_lines(study.folder)[0]))
        save(photo(99), file)

    with ThreadPoolExecutor(1) as other, pytest.raises(DataChangedError) as caught:
        other.submit(overwrite)
        kdtune.run(study)
    assert f"image files were changed or removed ({file}) while the study ran" in str(caught.value)
    results = kdtune.load(study.folder)
    statuses = list(results.trials.status)
    assert "completed" in statuses and 1 <= statuses.count("failed") < 4
    failed = results.trials[results.trials.status == "failed"]
    assert failed.error.str.contains(f"the image {file} has been changed or removed").all()
    assert str(caught.value) in results.warnings

    with pytest.raises(InputError, match=r"the data in .*photos has changed since"):
        kdtune.run(study)
    file.write_bytes(content)
    assert list(kdtune.run(study).trials.status) == ["completed"] * 4

    undisturbed = replace(study, name="undisturbed", cache=str(tmp_path / "another"))
    kdtune.run(undisturbed)
    pd.testing.assert_frame_equal(numbers(study.folder), numbers(undisturbed.folder))

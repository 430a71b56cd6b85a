"""Studies whose images change while they run: no table of two versions of an image."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from drivers import numbers
from photos import photo, save

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import DataChangedError, InputError
from kdtune.reporting import build
from kdtune.results.comparison import Criterion

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shared_ray", "one_at_a_time"),
]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Four repeats of one configuration, one run at a time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    for i, split in enumerate(("train", "val")):
        for k, name in enumerate(("ant", "bee")):
            for j in range(4):
                file = tmp_path / "photos" / split / name / f"{j}.png"
                save(photo(20 * i + 5 * k + j, 24, 24), file)
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


def after_the_first_run(study: Study, change: Callable[[], None]) -> Thread:
    """Change something in a thread as soon as the study has recorded the end of a run."""

    def wait() -> None:
        for _ in range(6000):
            texts = (file.read_text() for file in (study.folder / "epochs").glob("*.jsonl"))
            if any('"kind": "end"' in text for text in texts):
                change()
                return
            time.sleep(0.05)

    thread = Thread(target=wait)
    thread.start()
    return thread


def test_an_overwritten_image_stops_the_study_which_goes_on_when_it_is_back(
    study: Study, tmp_path: Path
) -> None:
    file = tmp_path / "photos" / "train" / "ant" / "2.png"
    content = file.read_bytes()
    thread = after_the_first_run(study, lambda: save(photo(99, 24, 24), file))
    with pytest.raises(DataChangedError) as caught:
        kdtune.run(study)
    thread.join()
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


def test_images_that_are_only_touched_fail_no_run(study: Study, tmp_path: Path) -> None:
    def touch() -> None:
        for file in (tmp_path / "photos").rglob("*.png"):
            copy = file.with_name("copy")
            copy.write_bytes(file.read_bytes())  # another inode and time
            copy.replace(file)

    thread = after_the_first_run(study, touch)
    results = kdtune.run(study)
    thread.join()
    assert list(results.trials.status) == ["completed"] * 4
    assert not [text for text in results.warnings if "while the study ran" in text]
    kdtune.run(replace(study, repeats=5))


def test_a_removed_image_whose_views_are_stored_is_said_at_the_end(
    study: Study, tmp_path: Path
) -> None:
    file = tmp_path / "photos" / "val" / "bee" / "3.png"
    thread = after_the_first_run(study, file.unlink)
    results = kdtune.run(study)
    thread.join()
    assert list(results.trials.status) == ["completed"] * 4
    (warning,) = [text for text in results.warnings if "while the study ran" in text]
    assert warning.startswith(f"image files were changed or removed ({file})")
    assert "cannot be continued until they are restored" in warning
    assert "were changed or removed" in build.html(results, Criterion(), {})

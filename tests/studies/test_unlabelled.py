"""A study with images without labels, as a user runs it: folders of tiny photographs.

What its trials compute is compared with a plain loop in tests/streams/test_extra.py.
"""

import json
import shutil
from pathlib import Path

import pytest
from photos import photo, save

import kdtune
from kdtune.config.cli import parse
from kdtune.config.text import InputError
from kdtune.reporting.sections import provenance, study_facts
from kdtune.results.comparison import Criterion
from kdtune.search import main

TRAIN, EXTRA, SHARED = 6, 9, 2


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with 6 images each in train and 2 in val."""
    for k, name in enumerate("ab"):
        for split, count in (("train", TRAIN), ("val", 2)):
            for i in range(count):
                file = tmp_path / "photos" / split / name / f"{i}.png"
                save(photo(1000 * k + 100 * count + i, 40, 40), file)
    return tmp_path / "photos"


@pytest.fixture
def extra(tmp_path: Path, photos: Path) -> Path:
    """Nine images in two folders, of which two are in val as well."""
    folder = tmp_path / "more"
    for i in range(EXTRA - SHARED):
        save(photo(5000 + i, 40, 40), folder / "cd"[i % 2] / f"{i}.png")
    for i in range(SHARED):
        shutil.copy(photos / "val" / "a" / f"{i}.png", folder / f"copy{i}.png")
    return folder


def words(photos: Path, extra: Path, tmp_path: Path) -> list[str]:
    flags = {
        "data": photos,
        "extra": extra,
        "extra-share": "0.5",
        "alpha": "0.2",
        "epochs": 2,
        "batch-size": 4,
        "teacher": "factories:photo_student",
        "student": "factories:photo_student",
        "teacher-weights": "none",
        "student-weights": "none",
        "teacher-epochs": 1,
        "repeats": 1,
        "name": "photos",
        "out": tmp_path / "runs",
        "cache": tmp_path / "cache",
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow  # its numbers: tests/streams/test_extra.py
@pytest.mark.usefixtures("shared_ray", "one_at_a_time")
def test_a_study_of_photographs(
    photos: Path, extra: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(parse("search", words(photos, extra, tmp_path))) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"Images without labels: 9 (--extra {extra})." in said
    assert "2 of the 4 images in val are also in --extra (such as val/a/0.png = copy0.png)" in said

    folder = tmp_path / "runs" / "photos"
    results = kdtune.load(folder)
    assert list(results.trials.status) == ["completed"] * 2
    share = results.trials.set_index("config/alpha")["config/extra_share"]
    assert share[0.2] == 0.5 and share.isna()[1.0]  # plain training has none
    counts = results.epochs.groupby("split").n_examples.unique()
    assert counts["train"].tolist() == [2 * TRAIN] and counts["val"].tolist() == [4]
    study = json.loads((folder / "study.json").read_text())
    assert set(study["fingerprints"]) == {"data", "extra images", "teacher", "student"}
    assert {p.name for p in tmp_path.glob("cache/*")} >= {"logits"}
    assert study_facts(results, Criterion())["data"] == "photos, 9 images without labels (more)"
    assert provenance(results)["versions"]["images without labels"] == "9 (more)"

    # the same images in another place are the same study; others are another one
    moved = extra.rename(tmp_path / "moved")
    assert main(parse("search", words(photos, moved, tmp_path))) == 0
    assert kdtune.load(folder).trials.equals(results.trials)
    other = Path(shutil.copytree(moved, tmp_path / "other"))
    save(photo(1, 40, 40), other / "copy0.png")
    with pytest.raises(InputError, match=f"images without labels of --extra {other} have changed"):
        main(parse("search", words(photos, other, tmp_path)))

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


def make_photos(tmp_path: Path) -> Path:
    """Two classes of 6 images in train and 2 in val; nine without labels, two of them in val."""
    photos, extra = tmp_path / "photos", tmp_path / "more"
    for k, name in enumerate("ab"):
        for split, count in (("train", TRAIN), ("val", 2)):
            for i in range(count):
                file = photos / split / name / f"{i}.png"
                save(photo(1000 * k + 100 * count + i, 40, 40), file)
    for i in range(EXTRA - SHARED):
        save(photo(5000 + i, 40, 40), extra / "cd"[i % 2] / f"{i}.png")
    for i in range(SHARED):
        shutil.copy(photos / "val" / "a" / f"{i}.png", extra / f"copy{i}.png")
    return extra


@pytest.mark.slow  # its numbers: tests/streams/test_extra.py
@pytest.mark.usefixtures("in_this_process")
def test_a_study_of_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    extra = make_photos(tmp_path)

    def search(extra: Path) -> int:
        line = (
            f"--data photos --extra {extra} --extra-share 0.5 --alpha 0.2 --epochs 2 "
            f"--batch-size 4 --teacher factories:photo_student --student factories:photo_student "
            f"--teacher-weights none --student-weights none --teacher-epochs 1 --repeats 1 "
            f"--name photos --cache cache"
        )
        return main(parse("search", line.split()))

    assert search(extra) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"Images without labels: 9 (--extra {extra})." in said
    assert "2 of the 4 images in val are also in extra (such as val/a/0.png = copy0.png)" in said

    folder = tmp_path / "runs" / "photos"
    results = kdtune.load(folder)
    assert list(results.trials.status) == ["completed"] * 2
    share = results.trials.set_index("config/alpha")["config/extra_share"]
    assert share[0.2] == 0.5 and share.isna()[1.0]  # plain training has none
    counts = results.epochs.groupby("split").n_examples.unique()
    assert counts["train"].tolist() == [2 * TRAIN] and counts["val"].tolist() == [4]
    study = json.loads((folder / "study.json").read_text())
    assert set(study["fingerprints"]) == {"data", "extra images", "teacher", "student"}
    assert study_facts(results, Criterion())["data"] == "photos, 9 images without labels (more)"
    assert provenance(results)["versions"]["images without labels"] == "9 (more)"

    # the same images in another place are the same study; others are another one
    moved = extra.rename(tmp_path / "moved")
    assert search(moved) == 0
    assert kdtune.load(folder).trials.equals(results.trials)
    other = Path(shutil.copytree(moved, tmp_path / "other"))
    save(photo(1, 40, 40), other / "copy0.png")
    with pytest.raises(InputError, match=f"images without labels of --extra {other} have changed"):
        search(other)

"""Students that a study has trained: predictions, inputs, and use without kdtune."""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import own_data
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from small_students import of_photos, run_here

import kdtune
from kdtune.config.text import InputError
from kdtune.results.results import Results

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "students.md"


def examples(student: kdtune.TrainedStudent, data: str, split: str) -> torch.Tensor:
    """Return all examples of a split as a reader without kdtune's views has them."""
    if data == "own_data:clothes":
        return own_data.clothes()[split][0]
    if data == "own_data:text":
        return torch.tensor(own_data.text()[split][0])
    return torch.stack([student.view(file) for file in sorted(Path(data, split).glob("*/*"))])


@pytest.mark.parametrize("kind", ["fashion", "photos", "text"])
def test_copied_students_predict_as_the_study_did(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On every example of val and test; the reference is the study's own."""
    results: Results = request.getfixturevalue(kind)
    trial = results.trials.iloc[-1]
    recorded = pd.read_parquet(results.folder / "predictions.parquet")
    copied = shutil.copytree(results.folder / "students", tmp_path / "copy")
    student = kdtune.load_student(copied, int(trial["repeat"]))
    with torch.inference_mode():
        for split in ("val", "test"):
            p = student(examples(student, results.study.run.data, split)).numpy()
            rows = recorded[(recorded.trial_id == trial.trial_id) & (recorded.split == split)]
            rows = rows.sort_values("example")
            assert len(p) == len(rows) > 9
            np.testing.assert_array_equal(p.argmax(1), rows.predicted)
            np.testing.assert_allclose(p.max(1), rows.p_predicted, atol=1e-6)
            label = p[np.arange(len(p)), rows.label]
            np.testing.assert_allclose(label, rows.p_label, atol=1e-6)


def test_the_code_of_the_documentation_predicts_the_same_with_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    run = of_photos(tmp_path / "images", "timm/test_resnet")
    folder = run_here(run, tmp_path, "study", repeats=1).folder
    shutil.copy(tmp_path / "images" / "test" / "bee" / "rotated.jpg", folder / "cat.jpg")
    monkeypatch.chdir(folder)
    text = DOCUMENTATION.read_text().partition("## Without kdtune")[2]
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    code = textwrap.dedent("\n".join(lines)).replace("tf_efficientnet_lite0", "test_resnet")
    predictions = []
    for _ in range(2):
        names: dict[str, torch.Tensor] = {}
        exec(code, names)
        student = kdtune.load_student("students")
        predictions.append(student(student.view("cat.jpg")[None]))
        torch.testing.assert_close(names["p"], predictions[-1], rtol=0, atol=1e-6)
        # as earlier versions wrote it, which took images as they are stored
        file = folder / "students" / "students.json"
        record = json.loads(file.read_text())
        record["preprocessing"].pop("orientation", None), record["run"].pop("orientation", None)
        file.write_text(json.dumps(record))
    assert not torch.allclose(*predictions)


def test_images_of_any_size_are_resized_as_by_the_study(photos: Results) -> None:
    student = kdtune.load_student(photos.folder)
    for file in sorted(Path(photos.study.run.data).glob("test/*/plain.png")):
        image = torchvision.io.decode_image(str(file))
        view = student.view(file)
        assert view.shape == (3, 48, 48) and view.dtype == torch.uint8
        torch.testing.assert_close(student(image[None]), student(view[None]))
        torch.testing.assert_close(student.view(Image.open(file)), view)
    for height, width in ((1, 1), (1, 300), (400, 3), (48, 49)):
        p = student(torch.zeros(2, 3, height, width, dtype=torch.uint8))
        torch.testing.assert_close(p.sum(1), torch.ones(2))
    moved = student.to("meta")  # the buffers move with the weights
    assert not moved.net.training
    assert moved.mean.device.type == next(moved.net.parameters()).device.type == "meta"


def test_what_a_student_says_of_itself_are_the_numbers_of_the_tables(
    fashion: Results, photos: Results
) -> None:
    assert fashion.selection().iloc[0][["val/low", "test/high"]].notna().all()
    drawn = ("(each draws 100 of the 200 training images)", "on these 8 training images")
    for results, images in zip((fashion, photos), drawn, strict=True):
        metrics = kdtune.load_student(results.folder, 1).metrics
        row = results.selection().set_index("row").loc["best"]
        trial = results.trials[results.trials["repeat"] == 1].iloc[0]
        for split in ("val", "test"):
            accuracy = metrics["configuration"]["accuracy"][split]
            for name in ("mean", "low", "high"):
                value = row[f"{split}/{name}"]
                assert accuracy[name] == (None if pd.isna(value) else value)
            assert accuracy["n"] == len(results.trials)
            assert metrics["student"][split]["acc"] == trial[f"{split}/acc@last"]
            about = f"new repeats {images} with this teacher and new images like those of {split}"
            assert accuracy["holds_for"] == about
        assert metrics["configuration"]["accuracy"]["val"]["bias"].startswith("optimistic")


def test_batches_that_are_not_like_those_of_the_study(photos: Results, text: Results) -> None:
    of_images, of_tokens = (kdtune.load_student(study.folder) for study in (photos, text))
    shapes = [(3, 48, 48), (2, 1, 48, 48), (2, 4, 48, 48), (2, 48, 48, 3), (2, 3, 0, 48)]
    bytes_of = [torch.zeros(shape, dtype=torch.uint8) for shape in shapes]
    for wrong in (torch.zeros(2, 3, 48, 48), *bytes_of):
        with pytest.raises(InputError, match=r"must be torch.uint8 \[B, 3, H, W\].*but") as error:
            of_images(wrong)
        assert str(list(wrong.shape)) in str(error.value)
    for wrong in (torch.zeros(2, 12), torch.zeros(2, 11, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"inputs must be torch.int64 \[B, 12\].*but got"):
            of_tokens(wrong)
    with pytest.raises(InputError, match="view must be given to a student of images"):
        of_tokens.view("cat.jpg")

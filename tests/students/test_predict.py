"""The command `python -m kdtune.predict`."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from study_folders import edit_json

import kdtune
from kdtune.config.cli import parse_command
from kdtune.config.text import InputError
from kdtune.predict import main
from kdtune.results.results import Results
from kdtune.students.trained import find_images

IMPORTED = (
    "The student is built by factories:tiny_student, as its record says, so the module factories "
    "is imported."
)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of the command in this process."""
    code = main(parse_command("predict", [*map(str, words)]))
    return code, *capsys.readouterr()


@pytest.fixture
def folder(photos: Results, tmp_path: Path) -> Path:
    """Copies of some images of val under new names, and one file that is no image."""
    own = tmp_path / "new"
    for number, file in enumerate(sorted(Path(photos.study.run.data).glob("val/*/*"))):
        place = own / ("deep" if number % 2 else ".") / f"{number:02d}{file.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    (own / "deep" / "broken.jpg").write_text("no image")
    (own / "notes.txt").write_text("")
    return own


def test_csv_has_the_predictions_of_the_study(
    photos: Results, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all kinds of images, in batches that do not divide their number."""
    flags = ("--format", "csv", "--top", 9, "--batch-size", 5)
    code, out, err = run(capsys, photos.folder, folder, *flags)
    assert code == 1
    broken = folder / "deep" / "broken.jpg"
    assert err.splitlines() == [
        f"the image {broken} cannot be read (cannot identify image file)",
        "1 of 13 images could not be read",
    ]
    frame = pd.read_csv(io.StringIO(out), dtype={"file": str})
    assert list(frame.columns) == ["file", "rank", "class", "probability"]
    assert len(frame) == 12 * 2 and frame["rank"].tolist() == [1, 2] * 12
    own = pd.read_parquet(photos.folder / "predictions.parquet")
    rows = own[own.trial_id.str.endswith("r00") & (own.split == "val")].sort_values("example")
    best = frame[frame["rank"] == 1].assign(number=lambda f: f.file.str.extract(r"(\d\d)\.")[0])
    best = best.sort_values("number")
    classes = np.array(["ant", "bee"])
    assert best["class"].tolist() == classes[rows.predicted].tolist()
    np.testing.assert_allclose(best.probability, rows.p_predicted, atol=1e-6)


def test_table_and_json_say_the_same(
    fashion: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        pixels = np.full((28, 28, 3), 100 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    pattern = str(tmp_path / "[01].png")
    code, out, err = run(capsys, fashion.folder, pattern, "--top", 2)
    assert (code, err) == (0, f"{IMPORTED}\n")
    head, *lines = (line.split() for line in out.splitlines())
    assert head == ["file", "class", "probability", "class", "probability"] and len(lines) == 2
    code, out, err = run(capsys, fashion.folder, pattern, "--top", 2, "--format", "json")
    assert (code, err) == (0, f"{IMPORTED}\n")
    for line, one in zip(lines, json.loads(out), strict=True):
        words = [one["file"]]
        for top in one["predictions"]:
            words += [*top["class"].split(), f"{top['probability']:.3f}"]
        assert line == words
    assert one["file"] == str(tmp_path / "1.png")
    p = kdtune.load_student(fashion)(torch.full((1, 1, 28, 28), 100, dtype=torch.uint8))[0]
    assert one["predictions"][0]["probability"] == pytest.approx(float(p.max()), abs=1e-6)


def test_the_student_of_a_factory_predicts_without_heavy_modules(
    fashion: Results, tmp_path: Path
) -> None:
    Image.new("L", (30, 40)).save(image := tmp_path / "a.png")
    code = (
        "import sys; from kdtune.config.cli import parse_command; from kdtune.predict import main;"
        "main(parse_command('predict', sys.argv[1:])); print({'torchvision', 'torch._dynamo',"
        "'pandas', 'pyarrow', 'obstore', 'optuna', 'ray'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code, str(fashion.folder), str(image)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_images_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.jpeg", "sub/notes.txt", "odd.image", "x[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def images(*names: str) -> list[str]:
        paths = find_images([str(tmp_path / name) for name in names])
        return [path.relative_to(tmp_path).as_posix() for path in paths]

    assert images("") == ["a.JPG", "b.png", "sub/c.jpeg", "x[1].png"]
    assert images("sub", "b.png", "*.png") == ["sub/c.jpeg", "b.png", "x[1].png"]
    assert images("x[1].png") == ["x[1].png"]  # a file of that name, not a pattern
    assert images("odd.image") == ["odd.image"]  # named itself, of any suffix
    assert images("**/*.jpeg") == ["sub/c.jpeg"] and images("s*") == ["sub/c.jpeg"]
    (tmp_path / "empty").mkdir()
    for names in (["nothing.png"], ["b.png", "*.bmp"], ["empty"]):
        sentence = f"IMAGE must be .* but got {re.escape(str(tmp_path / names[-1]))}"
        with pytest.raises(InputError, match=sentence):
            images(*names)


def test_wrong_flags(tmp_path: Path, fashion: Results, capsys: pytest.CaptureFixture[str]) -> None:
    copied = shutil.copytree(fashion.folder / "students", tmp_path / "mine")
    Image.new("L", (3, 3)).save(image := tmp_path / "a.png")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device must be auto or cpu"):
            run(capsys, copied, image, "--device", "cuda")
    edit_json(copied / "students.json", lambda record: record["input"].update(kind="tensors"))
    with pytest.raises(InputError, match="must be given a student of images"):
        run(capsys, copied, image)

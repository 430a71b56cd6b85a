"""Students that a study has trained: predictions, inputs, use without kdtune; and their command.

Where students are loaded from, and one sentence for each thing that can be wrong there.
"""

import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import own_data
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from s3_service import S3
from small_students import FASHION, TEXT, of_photos, run_here
from study_folders import draw, edit_json, make

import kdtune
from kdtune.config.cli import parse_command
from kdtune.config.records import SCHEMA
from kdtune.config.text import InputError
from kdtune.data.sources import load_fashion
from kdtune.models.registry import build
from kdtune.models.weights import licence_of
from kdtune.predict import main
from kdtune.results.results import Results
from kdtune.storage.store import Store
from kdtune.students.trained import find_images

TESTS = Path(__file__).parents[1]


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
    text = (TESTS.parent / "docs" / "students.md").read_text().partition("## Without kdtune")[2]
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


def test_a_student_has_the_numbers_of_the_tables(fashion: Results, photos: Results) -> None:
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


IMAGES = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)


@pytest.fixture
def copied(fashion: Results, tmp_path: Path) -> Path:
    return shutil.copytree(fashion.folder / "students", tmp_path / "mine")


def refused(place: object, repeat: int | None = None) -> str:
    """Return the sentence with which a place is refused."""
    with pytest.raises(InputError) as error:
        kdtune.load_student(place, repeat)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit_json(folder / "students.json", change)


def test_every_way_to_name_the_same_student(fashion: Results, copied: Path) -> None:
    want = kdtune.load_student(copied, 1)(IMAGES)
    file = copied / "repeat-01.safetensors"
    for place in (fashion.folder, fashion.folder / "students", str(copied), fashion, fashion.study):
        torch.testing.assert_close(kdtune.load_student(place, 1)(IMAGES), want)
    assert kdtune.load_student(file).repeat == 1
    assert not torch.equal(kdtune.load_student(copied)(IMAGES), want)  # repeat 0


def test_the_default_is_the_lowest_repeat_not_the_best(copied: Path) -> None:
    (copied / "repeat-00.safetensors").rename(copied / "repeat-07.safetensors")

    def better(values: dict[str, Any]) -> None:
        values["students"][0] |= {"repeat": 7, "file": "repeat-07.safetensors"}
        values["students"][0]["metrics"]["val"]["acc"] = 1.0

    edit(copied, better)
    assert kdtune.load_student(copied).repeat == 1
    assert kdtune.load_student(copied, 7).metrics["student"]["val"]["acc"] == 1.0


def test_a_study_on_an_object_store(s3: S3, fashion: Results, tmp_path: Path) -> None:
    uri = f"s3://kdtune/{tmp_path.name}"
    store = Store(f"{uri}/fashion")
    for file in sorted((fashion.folder / "students").iterdir()):
        store.put(file, f"students/{file.name}")
    want = kdtune.load_student(fashion.folder, 1)(IMAGES)
    for place in (f"{uri}/fashion", f"{uri}/fashion/students"):
        torch.testing.assert_close(kdtune.load_student(place, 1)(IMAGES), want)
    study = replace(fashion.study, out=uri)
    torch.testing.assert_close(kdtune.load_student(study, 1)(IMAGES), want)
    assert "one of 0, 1, 2" in refused(study, 3)
    assert "has no folder students/" in refused(f"{uri}/nothing")
    assert "cannot be read" in refused("s3://no-such-bucket-of-kdtune/x")


@pytest.mark.parametrize("name", ["study_v0_1", "study_schema_2", "study_schema_3"])
def test_students_of_earlier_versions(name: str, tmp_path: Path) -> None:
    """They predict as recorded, also from a copy of students/ alone."""
    folder = TESTS / "data" / name
    copied = shutil.copytree(folder / "students", tmp_path / "mine")
    results = kdtune.load(folder)
    trial = results.trials[results.trials.config_id == results.best()].iloc[0]
    frame = pd.read_parquet(folder / "trials" / trial.trial_id / "predictions.parquet")
    val = load_fashion().splits["val"]
    rows = frame[frame.split == "val"].sort_values("example")
    for place in (folder, copied):
        student = kdtune.load_student(place, int(trial["repeat"]))
        p = student(val.inputs)
        assert (p.argmax(1) == val.labels).tolist() == rows.correct.tolist()
        if "p_predicted" in rows:  # not in version 0.1
            want = torch.tensor(rows.p_predicted.to_numpy())
            torch.testing.assert_close(p.max(1).values, want, rtol=0, atol=1e-6)
        assert student.classes[:2] == ("T-shirt", "Trouser")
        assert student.metrics == {"configuration": {}, "student": {}}


def test_earlier_students_of_other_data_need_their_study(tmp_path: Path) -> None:
    """For the names of the classes, and to be told the image size, which version 0.1 lacks."""
    around = shutil.copytree(TESTS / "data" / "study_schema_3", tmp_path / "study")
    folder = around / "students"
    edit(folder, lambda values: values.update(data="torchvision:KMNIST"))
    assert kdtune.load_student(around).classes[0] == "T-shirt"
    copied = shutil.copytree(folder, tmp_path / "mine")
    assert "the names of the classes are not known" in refused(copied)
    edit(folder, lambda values: values.pop("preprocessing"))
    edit(folder, lambda values: values.update(image_size=None))
    assert "image size of these students is not known" in refused(around)


def test_places_without_students(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    for name in ("missing", "empty", "notes.txt"):
        sentence = refused(tmp_path / name)
        assert sentence.startswith("STUDENT must be a study's folder, its students/")
        assert sentence.endswith(f", but {tmp_path / name} is none")
    ended = make(tmp_path / "ended", draw({0.5: 0.05, 1.0: 0.0}, 2)).folder
    assert "is written when a study of distillation is complete" in refused(ended)
    for file in copied.glob("*.safetensors"):
        file.unlink()
    assert "is none" in refused(copied)


def test_a_record_that_is_damaged_newer_or_missing(copied: Path) -> None:
    file = copied / "students.json"
    edit(copied, lambda values: values["model"].update(name="factories:unknown"))
    assert "cannot be imported" in refused(copied)
    edit(copied, lambda values: values.update(schema=SCHEMA + 1, classes=3))
    assert "written by a newer version of kdtune" in refused(copied)
    file.write_text("{}")
    assert f"{file} is damaged (" in refused(copied)
    file.unlink()
    for place in (copied, copied / "repeat-00.safetensors"):
        assert "must hold students.json" in refused(place)


def test_damaged_weights(copied: Path) -> None:
    file = copied / "repeat-00.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:50], whole[:-10], b"x" * 500, whole[:-1] + b"\x01"):
        file.write_bytes(content)
        message = refused(copied)
        assert message.startswith(f"{file} is damaged (") and "choose another repeat" in message
    assert "SHA-256" in message
    assert kdtune.load_student(copied, 1).repeat == 1


def test_a_factory_that_is_gone_or_has_changed(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, name = tmp_path / "my_models_of_mine.py", "my_models_of_mine"
    text = "import factories\n\nsmall = lambda k: factories.small_cnn(k, width=2)\n"
    project.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would hide edits within a second
    made = build(f"{name}:small", "none", 10, seed=0)
    model = {"name": made.name, "file": str(project), "source": made.source}
    want = kdtune.load_student(copied)(IMAGES)
    edit(copied, lambda values: values["model"].update(model))
    torch.testing.assert_close(kdtune.load_student(copied)(IMAGES), want)

    del sys.modules[name]
    project.write_text(f"{text}\n\nEPOCHS = 3\n")
    with pytest.warns(UserWarning, match="has changed since the study") as found:
        changed = kdtune.load_student(copied)
    assert str(project) in str(found[0].message)
    torch.testing.assert_close(changed(IMAGES), want)

    for other, words in (
        (text.replace("width=2", "width=3"), "fit .*The source of .* has changed."),
        ("x = 1\n", "has no attribute 'small'"),
    ):
        del sys.modules[name]
        project.write_text(other)
        assert re.search(words, refused(copied))
    del sys.modules[name]
    project.unlink()
    message = refused(copied)
    assert "No module named 'my_models_of_mine'" in message and "PYTHONPATH" in message
    assert f"The module my_models_of_mine, in the study the file {project}, and" in message


def test_licences_of_initial_weights() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_resnet", pretrained=False)
    assert licence_of(net, "timm/test_resnet", "default") == net.pretrained_cfg["license"]
    assert licence_of(net, "timm/test_resnet", "a file.safetensors") == "unknown"
    assert "license" in torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.meta
    assert licence_of(torch.nn.Identity(), "resnet18", "default") == "unknown"


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
    assert err.splitlines()[1:] == [  # after the line on the student
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
    said = f"{IMPORTED}\nstudent: factories:tiny_student, alpha = 1, repeat 0\n"
    assert (code, err) == (0, said)
    head, *lines = (line.split() for line in out.splitlines())
    assert head == ["file", "class", "probability", "class", "probability"] and len(lines) == 2
    code, out, err = run(capsys, fashion.folder, pattern, "--top", 2, "--format", "json")
    assert (code, err) == (0, said)
    for line, one in zip(lines, json.loads(out), strict=True):
        words = [one["file"]]
        for top in one["predictions"]:
            words += [*top["class"].split(), f"{top['probability']:.3f}"]
        assert line == words
    assert one["file"] == str(tmp_path / "1.png")
    p = kdtune.load_student(fashion)(torch.full((1, 1, 28, 28), 100, dtype=torch.uint8))[0]
    assert one["predictions"][0]["probability"] == pytest.approx(float(p.max()), abs=1e-6)


def test_a_student_predicts_without_heavy_modules(fashion: Results, tmp_path: Path) -> None:
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


def test_wrong_flags(tmp_path: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (3, 3)).save(image := tmp_path / "a.png")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device must be auto or cpu"):
            run(capsys, copied, image, "--device", "cuda")
    edit_json(copied / "students.json", lambda record: record["input"].update(kind="tensors"))
    with pytest.raises(InputError, match="must be given a student of images"):
        run(capsys, copied, image)


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="session")
def fashion(studies: Path) -> Results:
    """Grey images of one size; the student is a factory in tests/factories.py."""
    run = replace(FASHION, data="own_data:clothes", augment="crop")
    return run_here(run, studies, "fashion", repeats=3)


@pytest.fixture(scope="session")
def photos(studies: Path) -> Results:
    """Image files; the student is torchvision's."""
    run = of_photos(studies / "images", "shufflenet_v2_x0_5")
    return run_here(run, studies, "photos")


@pytest.fixture(scope="session")
def text(studies: Path) -> Results:
    """Token ids, which are no images."""
    return run_here(TEXT, studies, "text")

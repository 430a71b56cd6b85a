"""Exported files against the recorded predictions, plain PyTorch and what they say themselves."""

import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from factories import photo_student, tiny_student
from onnx import TensorProto
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.stats import ttest_1samp
from small_students import FASHION, run_here
from study_folders import make

import kdtune
from kdtune.config.cli import parse_command
from kdtune.config.text import ExportMismatchError, InputError
from kdtune.data.sources import load_fashion
from kdtune.deploy.export import FORMATS, Exported, export
from kdtune.deploy.onnx import OPSET
from kdtune.deploy.subject import Subject, read_facts

IMAGES = load_fashion().splits["test"].inputs


def run(file: Path, views: object) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file))
    (name,) = (one.name for one in session.get_inputs())
    return session.run(None, {name: np.asarray(views)})[0]  # type: ignore[no-any-return]


def recorded(study: Path, repeat: int, split: str = "test") -> pd.DataFrame:
    """Return the recorded predictions of the best configuration's student."""
    results = kdtune.load(study)
    trials = results.trials
    own = trials[(trials.config_id == results.best()) & (trials["repeat"] == repeat)]
    frame = pd.read_parquet(study / "predictions.parquet")
    return frame[(frame.trial_id == own.trial_id.item()) & (frame.split == split)]


class All(NamedTuple):
    """A study with a file of each format, and one in int8."""

    study: Path
    done: dict[str, Exported]
    lines: dict[str, list[str]]


@pytest.fixture(scope="module")
def exported(fashion_made: Path, tmp_path_factory: pytest.TempPathFactory) -> All:
    study = shutil.copytree(fashion_made, tmp_path_factory.mktemp("all") / "fashion")
    lines: dict[str, list[str]] = {format: [] for format in FORMATS}
    done = {f: export(study, f, f == "onnx", 2, lines[f].append) for f in FORMATS}
    return All(study, done, lines)


def test_onnx_predicts_what_the_study_recorded(exported: All) -> None:
    """onnxruntime alone reads the file: bytes in, any batch size, logits out."""
    done = exported.done["onnx"]
    assert done.file == exported.study / "students" / "best.onnx"
    logits = run(done.file, IMAGES)
    want = recorded(exported.study, 2)
    assert (logits.argmax(1) == want.predicted).all()
    p = torch.from_numpy(logits).double().softmax(1).amax(1)
    np.testing.assert_allclose(p, want.p_predicted, rtol=1e-5)
    for size in (1, 7):
        np.testing.assert_allclose(run(done.file, IMAGES[:size]), logits[:size], atol=1e-5)
    lines = exported.lines["onnx"]
    assert "all 1,000 test images" in lines[2] and "same class for each" in lines[2]
    assert "same class for 1,000 of 1,000" in lines[3]
    assert done.agreement.count == 1000 and done.agreement.largest_difference < 1e-5


def test_the_file_in_int8_and_its_comparison(exported: All) -> None:
    """The numbers follow from the two files, read by onnxruntime alone."""
    done, lines, students = (
        exported.done["onnx"],
        exported.lines["onnx"],
        exported.study / "students",
    )
    assert done.int8 is not None
    full, small = (run(file, IMAGES).argmax(1) for file in (done.file, done.int8))
    labels = load_fashion().splits["test"].labels.numpy()
    d = (small == labels).astype(float) - (full == labels)
    facts = json.loads((students / "best-int8.onnx.json").read_text())["int8"]
    own = facts["student"]
    assert own["difference"] == pytest.approx(d.mean()) and own["images"] == 1000
    assert own["changed"] == (small != full).sum() > 0
    if d.any():
        low, high = ttest_1samp(d, 0).confidence_interval()
        assert (own["low"], own["high"]) == pytest.approx((low, high))
    every = facts["configuration"]
    assert every["repeats"] == 3 and -0.2 < every["difference"] < 0.2
    assert "new repeats with this teacher and new images like those of test" in every["holds_for"]
    sizes = {"float32": done.file.stat().st_size, "int8": done.int8.stat().st_size}
    assert facts["bytes"] == sizes
    weights = {i.name: i for i in onnx.load(done.int8).graph.initializer}
    assert any(i.data_type == TensorProto.INT8 and len(i.dims) == 4 for i in weights.values())
    assert facts["latency"]["threads"] == 1 and facts["latency"]["processor"]
    assert any("static, per channel" in line and "100 train images" in line for line in lines)
    card = done.card.read_text()
    assert "best-int8.onnx" in card and "int8 minus float32, over 3 repeats" in card
    steps = [line for line in lines if line.startswith("int8:")]
    calibrated = "each calibrated on 100 train images, on 1,000 test images."
    assert steps[0].startswith(f"int8: comparing 3 of 3 repeats, {calibrated}")


def test_what_an_onnx_file_says_about_itself(exported: All) -> None:
    study, file = exported.study, exported.done["onnx"].file
    model = onnx.load(file)
    assert [o.version for o in model.opset_import if o.domain == ""] == [OPSET]
    assert f"opset {OPSET}" in FORMATS["onnx"].title
    properties = {p.key: p.value for p in model.metadata_props}
    facts = json.loads(file.with_name("best.onnx.json").read_text())
    record = json.loads((study / "provenance.json").read_text())
    assert json.loads(properties["classes"]) == facts["classes"] == record["classes"]
    assert json.loads(properties["mean"]) == facts["mean"] == [0.286]
    assert json.loads(properties["std"]) == facts["std"] == [0.353]
    assert json.loads(properties["image_size"]) == 28
    assert "28 x 28" in json.loads(properties["resize"])["words"]
    assert properties["study"] == "fashion" and properties["kdtune_version"] == kdtune.__version__
    accuracy = json.loads(properties["metrics"])["student"]["test"]["acc"]
    assert accuracy == pytest.approx(recorded(study, 2).correct.mean())
    batch, *rest = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param and [d.dim_value for d in rest] == [1, 28, 28]
    assert facts["bytes"] == file.stat().st_size


def test_the_other_formats_need_no_kdtune(exported: All) -> None:
    """A program of torch.export runs as it is; weights have the names of the network.

    No file names the machine.
    """
    for done in exported.done.values():
        content = done.file.read_bytes()
        assert os.fsencode(Path(kdtune.__file__).parent) not in content
        assert b"stack_trace" not in content
    want = torch.from_numpy(run(exported.done["onnx"].file, IMAGES))
    extra = {"kdtune.json": ""}
    program = torch.export.load(exported.done["torch-export"].file, extra_files=extra).module()
    torch.testing.assert_close(program(IMAGES), want, atol=1e-5, rtol=1e-5)
    assert json.loads(extra["kdtune.json"])["study"] == "fashion"

    file = exported.done["safetensors"].file
    net = tiny_student(10).eval()
    net.load_state_dict(load_file(file))
    torch.testing.assert_close(net((IMAGES / 255 - 0.286) / 0.353), want, atol=1e-5, rtol=1e-5)
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["mean"]) == [0.286]


def test_the_graph_shrinks_and_normalises_photographs(photos: Path) -> None:
    """PyTorch's own resizing, with a normalisation of each channel, gives the same logits."""
    done = export(photos, write=str)
    net = photo_student(2).eval()
    net.load_state_dict(load_file(photos / "students" / "repeat-00.safetensors"))
    views = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8)
    x = F.interpolate(views / 255, (40, 40), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    want = net((x - mean) / std).detach().numpy()
    np.testing.assert_allclose(run(done.file, views), want, atol=1e-3 * abs(want).max())
    facts = json.loads((photos / "students" / "best.onnx.json").read_text())
    assert facts["in_graph"].startswith("size 40 (bicubic)")


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_computes_something_else_is_not_left(
    fashion: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier file stays."""
    real, student = FORMATS[format], kdtune.load_student(fashion, int(format == "safetensors"))
    file = fashion / "students" / f"best{real.suffix}"
    file.write_text("earlier")
    student.mean += 0.2  # of the weights alone it is no part: these are those of another student

    def wrong(subject: Subject, metadata: Mapping[str, str], target: Path) -> None:
        real.write(replace(subject, student=student), metadata, target)

    monkeypatch.setitem(FORMATS, format, replace(real, write=wrong))
    with pytest.raises(ExportMismatchError, match=r"what PyTorch does: [1-9]"):
        export(fashion, format, write=str)
    assert file.read_text() == "earlier"
    assert not list(file.parent.glob("*.part"))


def test_without_the_data_random_images_are_checked_and_said_so(photos: Path) -> None:
    for file in (photos / "study.json", photos / "students" / "students.json"):
        values = json.loads(file.read_text())
        values["run"]["data"] = str(photos / "gone")
        file.write_text(json.dumps(values))
    with pytest.raises(InputError, match="--int8 needs the study's data"):
        export(photos, int8=True, write=str)
    assert not (photos / "students" / "best.onnx").exists()
    lines: list[str] = []
    done = export(photos, "safetensors", write=lines.append)
    assert done.checked_on == "random images" and done.agreement.count == 256
    assert any("could NOT be checked on the study's data" in line for line in lines)
    assert "could NOT be checked" in done.card.read_text()


def test_other_predictions_and_other_data_than_the_records_are_said(fashion: Path) -> None:
    # predictions of another student are in the record
    frame = pd.read_parquet(fashion / "predictions.parquet")
    for file in fashion.glob("trials/*/predictions.parquet"):
        file.unlink()
    frame["predicted"] = (frame.predicted + 1) % 10
    frame.to_parquet(fashion / "predictions.parquet")
    lines: list[str] = []
    export(fashion, "safetensors", write=lines.append)
    assert lines[3].startswith("warning: The study recorded the same class for 0 of 1,000.")
    study = json.loads((fashion / "study.json").read_text())
    study["fingerprints"] = {"data": "0123456789abcdef"}
    (fashion / "study.json").write_text(json.dumps(study))
    lines.clear()
    assert export(fashion, "safetensors", write=lines.append).checked_on == "random images"
    assert "holds other data than the study was run with" in lines[2]


def refused(place: object, *words: str) -> str:
    """Return the sentence with which an export is refused."""
    with pytest.raises(InputError) as error:
        flags = parse_command("export", [str(place), *words])
        export(flags.study, flags.format, flags.int8, flags.repeat, write=str)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_places_and_folders_that_cannot_be_used(
    fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is asked for before any work; the other formats do not need it."""
    assert "must be a folder on this machine" in refused("s3://bucket/runs/x")
    waiting = make(tmp_path / "waiting", {0.5: [None], 1.0: [None]})
    assert "has no folder students/" in refused(waiting.folder)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *own: None if "onnx" in name else real(name, *own)
    )
    assert "pip install 'kdtune[export]'" in refused(fashion)
    assert not (fashion / "students" / "best.onnx").exists()
    assert export(fashion, "safetensors", write=str).file.exists()

    def denied(_: object) -> None:  # root may write anywhere, so that chmod would prove nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kdtune.deploy.export.atomic_write", denied)
    sentence = refused(fashion, "--format", "safetensors")
    assert "cannot be written (Permission denied); copy the study's folder" in sentence


def test_a_model_that_cannot_be_traced(made: Path) -> None:
    """The weights can still be exported."""
    run = replace(FASHION, student="factories:wilful_student")
    study = run_here(run, made, "wilful", repeats=1).folder
    for format in ("onnx", "torch-export"):
        sentence = refused(study, "--format", format)
        assert "the student cannot be exported (" in sentence
        assert "--format safetensors" in sentence
    assert export(study, "safetensors", write=str).agreement.largest_difference == 0
    shutil.rmtree(study)


def test_facts_of_exported_files_of_other_types_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "best.onnx").touch()
    (tmp_path.parent / "outside").touch()
    good = {"config_id": "c", "file": "best.onnx", "format": "ONNX", "repeat": 0, "notes": ["n"]}
    file = tmp_path / "best.onnx.json"
    file.write_text(json.dumps(good))
    assert [facts.model_dump() for facts in read_facts(tmp_path, "c")] == [good]
    wrong = [{"file": "../outside"}, {"file": "best\0.onnx"}, {"repeat": "0"}, {"notes": [3]}]
    for text in (*(json.dumps(good | values) for values in wrong), "[]", "[" * 50_000):
        file.write_text(text)
        assert read_facts(tmp_path, "c") == []

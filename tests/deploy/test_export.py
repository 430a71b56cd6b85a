"""Exported files against the recorded predictions, plain PyTorch and what they say themselves.

How models are quantized to int8, and what it costs and gains; the lines of Python in a model card,
and names that mean something to Markdown and YAML.
"""

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from factories import photo_student, tiny_student
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from onnx import TensorProto, helper, numpy_helper
from own_data import text as token_data
from photos import photo
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.stats import ttest_1samp
from small_students import FASHION, TEXT, of_photos, run_here
from study_folders import edit_json
from torch import from_numpy, nn, uint8

import kdtune
from kdtune.config.cli import parse_command
from kdtune.config.text import ExportMismatchError, InputError
from kdtune.data.dataset import decode
from kdtune.data.sources import load_fashion
from kdtune.data.views import Resizing
from kdtune.deploy import int8
from kdtune.deploy import onnx as quantize
from kdtune.deploy.card import Resize, code, escape, onnx_lines, pillow_view, yaml_value
from kdtune.deploy.export import FORMATS, Exported, export
from kdtune.deploy.int8 import accuracy_cost, describe_accuracy
from kdtune.deploy.onnx import OPSET, Graph, Signature, to_onnx, with_weights
from kdtune.deploy.subject import Subject
from kdtune.raytune.folder import export_students
from kdtune.results.design import ONE_TEACHER, Design
from kdtune.statistics.intervals import crossed
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import read_lines

ROOT = Path(__file__).parents[2]
TEST = load_fashion().splits["test"]
CLASSES = load_fashion().classes


def run(file: Path | onnx.ModelProto, views: object) -> np.ndarray:
    is_path = isinstance(file, Path)
    session = onnxruntime.InferenceSession(str(file) if is_path else file.SerializeToString())
    (name,) = (one.name for one in session.get_inputs())
    return session.run(None, {name: np.asarray(views)})[0]  # type: ignore[no-any-return]


def check_of(done: Exported) -> dict[str, Any]:
    """Return what the JSON file beside an exported file says of its check against PyTorch."""
    text = done.file.with_name(f"{done.file.name}.json").read_text()
    return json.loads(text)["check"]  # type: ignore[no-any-return]


def recorded(study: Path, repeat: int) -> pd.DataFrame:
    """Return the recorded predictions on test of the best configuration's student."""
    results = kdtune.load(study)
    trials = results.trials
    trial = trials[(trials.config_id == results.best()) & (trials["repeat"] == repeat)]
    frame = pd.read_parquet(study / "predictions.parquet")
    return frame[(frame.trial_id == trial.trial_id.item()) & (frame.split == "test")]


@pytest.fixture(scope="module", autouse=True)
def short_latencies() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "ROUNDS_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def fashion_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study, out = replace(FASHION, alpha=0.5), tmp_path_factory.mktemp("exported")
    return run_here(study, out, "fashion", repeats=3, space={"alpha": (0.5, 1.0)}).folder


@pytest.fixture
def fashion(fashion_study: Path, tmp_path: Path) -> Path:
    """Grey images of one size; 3 repeats of a distilled configuration and of the baseline."""
    return shutil.copytree(fashion_study, tmp_path / "fashion")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files; views of 48 pixels, which the student shrinks to 40 (bicubic)."""
    out = tmp_path_factory.mktemp("photos")
    photographs = replace(of_photos(out / "images", "factories:photo_student"), student_size=40)
    return run_here(photographs, out, "photos", repeats=1).folder


class All(NamedTuple):
    """A study with a file of each format, and one in int8, of repeat 2."""

    study: Path
    done: dict[str, Exported]
    lines: dict[str, list[str]]
    template: Any
    """The ONNX model whose weights int8 replaces by those of other repeats."""


@pytest.fixture(scope="module")
def exported(fashion_study: Path, tmp_path_factory: pytest.TempPathFactory) -> All:
    study = shutil.copytree(fashion_study, tmp_path_factory.mktemp("all") / "fashion")
    lines: dict[str, list[str]] = {format: [] for format in FORMATS}
    models = []

    def noted(*graph: Any) -> Any:
        models.append(to_onnx(*graph))
        return models[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdtune.deploy.onnx.to_onnx", noted)
        done = {f: export(study, f, f == "onnx", 2, lines[f].append) for f in FORMATS}
    (model,) = models
    return All(study, done, lines, model.template)


def test_onnx_predicts_what_the_study_recorded(exported: All) -> None:
    """onnxruntime alone reads the file: bytes in, any batch size, logits out."""
    done = exported.done["onnx"]
    assert done.file == exported.study / "students" / "best.onnx"
    logits = run(done.file, TEST.inputs)
    want = recorded(exported.study, 2)
    assert (logits.argmax(1) == want.predicted).all()
    p = torch.from_numpy(logits).double().softmax(1).amax(1)
    np.testing.assert_allclose(p, want.p_predicted, rtol=1e-5)
    for size in (1, 7):
        np.testing.assert_allclose(run(done.file, TEST.inputs[:size]), logits[:size], atol=1e-5)
    lines = exported.lines["onnx"]
    assert "all 1,000 test images" in lines[2] and "same class for each" in lines[2]
    assert "same class for 1,000 of 1,000" in lines[3]
    assert check_of(done)["count"] == 1000 and check_of(done)["largest_difference"] < 1e-5


def test_the_file_in_int8_and_its_comparison(exported: All) -> None:
    """The numbers follow from the two files, read by onnxruntime alone."""
    done, lines = exported.done["onnx"], exported.lines["onnx"]
    assert done.int8 is not None
    full, small = (run(file, TEST.inputs).argmax(1) for file in (done.file, done.int8))
    labels = TEST.labels.numpy()
    d = (small == labels).astype(float) - (full == labels)
    facts = json.loads(done.int8.with_name("best-int8.onnx.json").read_text())["int8"]
    student, configuration = facts["student"], facts["configuration"]
    assert student["difference"] == pytest.approx(d.mean()) and student["images"] == 1000
    assert student["changed"] == (small != full).sum() > 0
    if d.any():
        low, high = ttest_1samp(d, 0).confidence_interval()
        assert (student["low"], student["high"]) == pytest.approx((low, high))
    assert configuration["repeats"] == 3 and -0.2 < configuration["difference"] < 0.2
    assert facts["bytes"] == {"float32": done.file.stat().st_size, "int8": done.int8.stat().st_size}
    weights = onnx.load(done.int8).graph.initializer
    assert any(i.data_type == TensorProto.INT8 and len(i.dims) == 4 for i in weights)
    assert facts["latency"]["threads"] == 1 and facts["latency"]["processor"]
    assert any("static, per channel" in line and "100 train images" in line for line in lines)
    said = "\n".join(lines)  # Ctrl-C during int8 leaves the file and its card
    assert said.index("Wrote the model card") < said.index("int8: comparing 3 of 3 repeats")
    card = done.card.read_text()
    assert "best-int8.onnx" in card and "int8 minus float32, over 3 repeats" in card


def test_repeats_share_the_data_and_the_model_but_not_the_weights(exported: All) -> None:
    """As int8 does: the student of a fresh load, and its weights in the model of another."""
    two = Subject.of(kdtune.load(exported.study), 2)
    other, fresh = two.of_repeat(1), Subject.of(two.results, 1)
    assert other.data is two.data is not None and other.student.repeat == 1
    torch.testing.assert_close(other.calibration(), fresh.calibration())
    views = two.signature.random(4)
    logits = [each.student.logits(views).detach().numpy() for each in (two, other, fresh)]
    of_two, of_other, of_fresh = logits
    np.testing.assert_array_equal(of_other, of_fresh)
    assert abs(of_two - of_other).max() > 0.1
    copied = with_weights(exported.template, Graph(other.student))
    np.testing.assert_allclose(run(copied, views), of_other, atol=1e-5)
    np.testing.assert_allclose(run(exported.template, views), of_two, atol=1e-5)  # unchanged
    assert with_weights(exported.template, nn.Sequential(nn.Linear(2, 2))) is None


def test_what_an_onnx_file_says_about_itself(exported: All) -> None:
    file = exported.done["onnx"].file
    model = onnx.load(file)
    assert [o.version for o in model.opset_import if o.domain == ""] == [OPSET]
    assert f"opset {OPSET}" in FORMATS["onnx"].title
    properties = {p.key: p.value for p in model.metadata_props}
    facts = json.loads(file.with_name("best.onnx.json").read_text())
    assert json.loads(properties["classes"]) == facts["classes"] == list(CLASSES)
    assert json.loads(properties["mean"]) == facts["mean"] == [0.286]
    assert json.loads(properties["std"]) == facts["std"] == [0.353]
    assert json.loads(properties["image_size"]) == 28
    assert "28 x 28" in json.loads(properties["resize"])["words"]
    assert properties["study"] == "fashion" and properties["kdtune_version"] == kdtune.__version__
    accuracy = json.loads(properties["metrics"])["student"]["test"]["acc"]
    assert accuracy == pytest.approx(recorded(exported.study, 2).correct.mean())
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
    want = torch.from_numpy(run(exported.done["onnx"].file, TEST.inputs))
    extra = {"kdtune.json": ""}
    program = torch.export.load(exported.done["torch-export"].file, extra_files=extra).module()
    torch.testing.assert_close(program(TEST.inputs), want, atol=1e-5, rtol=1e-5)
    assert json.loads(extra["kdtune.json"])["study"] == "fashion"

    file = exported.done["safetensors"].file
    net = tiny_student(10).eval()
    net.load_state_dict(load_file(file))
    torch.testing.assert_close(net((TEST.inputs / 255 - 0.286) / 0.353), want, atol=1e-5, rtol=1e-5)
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["mean"]) == [0.286]


def test_a_card_says_what_the_study_recorded(exported: All) -> None:
    card = exported.done["safetensors"].card.read_text()
    results, mine = kdtune.load(exported.study), recorded(exported.study, 2)
    trials = results.trials[results.trials.config_id == results.best()]
    frame = pd.read_parquet(exported.study / "predictions.parquet")
    frame = frame[(frame.split == "test") & frame.trial_id.isin(trials.trial_id)]
    head = next(yaml.safe_load_all(card))
    (metric,) = head["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == pytest.approx(mine.correct.mean())
    assert f"Accuracy of this student on test: {100 * mine.correct.mean():.1f}%" in card
    assert f"{100 * frame.correct.mean():.1f}%" in card
    student, all_repeats = (100 * part.groupby("label").correct.mean() for part in (mine, frame))
    for k, name in enumerate(CLASSES):
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:3] == ["100", f"{student[k]:.1f}"] and cells[4] == f"{all_repeats[k]:.1f}"
    assert "The initial weights were random." in card
    assert "epochs 1, batch\\_size 16, trainable all, batch\\_norm train, augment crop" in card


def test_an_edited_card_is_kept_also_when_the_study_is_finished_again(fashion: Path) -> None:
    card = export(fashion, "safetensors", write=str).card
    export(fashion, "safetensors", write=str)
    assert not card.with_name("README.old.md").exists()
    card.write_text(card.read_text().replace("unknown", "mit"))
    lines: list[str] = []
    export(fashion, "safetensors", write=lines.append)
    card.write_text("edited again")
    export(fashion, "safetensors", write=lines.append)
    assert 'license: "mit"' in card.with_name("README.old.md").read_text()
    assert card.with_name("README.old-2.md").read_text() == "edited again"
    assert 'license: "unknown"' in card.read_text() and "README.old-2.md" in lines[-1]
    before = sorted(file.name for file in card.parent.iterdir())
    results = kdtune.load(fashion)
    mirror = Mirror(replace(results.study, out=str(fashion.parent)))
    export_students(results, read_lines(fashion)[0], mirror)  # as `finish` does
    assert sorted(file.name for file in card.parent.iterdir()) == before


@pytest.mark.parametrize("format", ["torch-export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_graph_shrinks_and_normalises_photographs(photos: Path, format: str) -> None:
    """PyTorch's own resizing, with a normalisation of each channel, gives the same logits."""
    done = export(photos, format, write=str)
    net = photo_student(2).eval()
    net.load_state_dict(load_file(photos / "students" / "repeat-00.safetensors"))
    views = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8)
    x = F.interpolate(views / 255, (40, 40), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    want = net((x - mean) / std).detach().numpy()
    if format == "onnx":
        logits = run(done.file, views)
    else:
        logits = torch.export.load(done.file).module()(views).detach().numpy()
    np.testing.assert_allclose(logits, want, atol=1e-3 * abs(want).max())
    facts = json.loads(done.file.with_name(f"{done.file.name}.json").read_text())
    assert facts["in_graph"].startswith("size 40 (bicubic)")


@pytest.mark.slow
def test_a_student_of_linear_layers_in_int8(tmp_path: Path) -> None:
    """Token ids, which are no images; the student has linear layers alone."""
    study = run_here(TEXT, tmp_path, "text", repeats=1).folder
    lines: list[str] = []
    done = export(study, int8=True, write=lines.append)
    (method,) = (line for line in lines if line.startswith("Quantized"))
    assert "linear layers hold 100% of the weights, so both methods were tried" in method
    errors = re.search(r"logits is (\S+), with (static|dynamic) (\S+)\.", method)
    assert errors is not None and 0 < float(errors[1]) <= float(errors[3])
    assert done.int8 is not None
    assert check_of(done)["on"] == "test examples"
    tokens = np.asarray(token_data()["test"][0])  # which are taken as they are
    full, small = (run(file, tokens).argmax(1) for file in (done.file, done.int8))
    assert (full == recorded(study, 0).predicted).all() and (small == full).mean() > 0.8


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_computes_something_else_is_not_left(
    exported: All, fashion: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of another repeat is written; an earlier file stays."""
    real = FORMATS[format]
    file = fashion / "students" / f"best{real.suffix}"
    file.write_text("earlier")

    def wrong(subject: object, metadata: object, target: Path) -> None:
        shutil.copy(exported.done[format].file, target)

    monkeypatch.setitem(FORMATS, format, replace(real, write=wrong))
    with pytest.raises(ExportMismatchError, match=r"what PyTorch does: [1-9]"):
        export(fashion, format, write=str)
    assert file.read_text() == "earlier"
    assert not list(file.parent.glob("*.part"))


def test_without_data_random_images_are_checked_and_said_so(photos: Path, tmp_path: Path) -> None:
    study = shutil.copytree(photos, tmp_path / "photos")
    for file in (study / "study.json", study / "students" / "students.json"):
        edit_json(file, lambda values: values["run"].update(data=str(study / "gone")))
    with pytest.raises(InputError, match="--int8 needs the study's data"):
        export(study, int8=True, write=str)
    lines: list[str] = []
    done = export(study, "safetensors", write=lines.append)
    assert (check_of(done)["on"], check_of(done)["count"]) == ("random images", 256)
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
    other = {"data": "0123456789abcdef"}
    edit_json(fashion / "study.json", lambda study: study.update(fingerprints=other))
    lines.clear()
    done = export(fashion, "safetensors", write=lines.append)
    assert check_of(done)["on"] == "random images"
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
    shutil.copytree(fashion, tmp_path / "none", ignore=shutil.ignore_patterns("students"))
    assert "has no folder students/" in refused(tmp_path / "none")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *own: None if "onnx" in name else real(name, *own)
    )
    assert "pip install 'kdtune[export]'" in refused(fashion)
    assert not (fashion / "students" / "best.onnx").exists()
    assert export(fashion, "safetensors", write=str).file.exists()


def test_a_model_that_cannot_be_traced(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights can still be exported."""

    def wilful(classes: int) -> nn.Module:
        net = tiny_student(classes)
        net.register_forward_hook(lambda net, x, logits: logits if logits.mean() > 0 else -logits)
        return net

    monkeypatch.setattr("factories.tiny_student", wilful)
    sentence = refused(fashion, "--format", "onnx")
    assert "the student cannot be exported (" in sentence and "--format safetensors" in sentence
    assert check_of(export(fashion, "safetensors", write=str))["largest_difference"] == 0


@pytest.mark.slow
def test_the_lines_predict_without_torch_ray_and_kdtune(exported: All) -> None:
    done = exported.done["onnx"]
    want = recorded(exported.study, 2).predicted[:40]
    for k in range(len(want)):
        Image.fromarray(TEST.inputs[k, 0].numpy()).save(done.file.parent / f"{k}.png")
    without = "import sys\nsys.modules |= dict.fromkeys(('torch', 'ray', 'kdtune', 'pandas'))"
    for page in (done.card, ROOT / "docs" / "export.md"):
        lines = page.read_text().split("```python\n")[1].split("```")[0]
        programs = "".join(f"\nexec({lines.replace('image.png', f'{k}.png')!r})" for k in range(40))
        words = [sys.executable, "-c", without + programs]
        ran = subprocess.run(words, cwd=done.file.parent, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.splitlines() == [CLASSES[k] for k in want]


def test_the_share_of_linear_layers() -> None:
    """8 x 4 of a MatMul, 4 x 2 of a Gemm, 10 of a convolution; a bias does not count."""
    sizes = {"m": (8, 4), "g": (4, 2), "b": (99,), "c": (1, 1, 2, 5)}
    weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in sizes.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["y"]),
        helper.make_node("Gemm", ["y", "g", "b"], ["z"]),
        helper.make_node("Conv", ["z", "c"], ["u"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], weights))
    assert quantize.linear_share(model) == pytest.approx(40 / 50)


def test_of_linear_layers_the_method_with_the_smaller_error_is_taken() -> None:
    """Two layers by hand; the errors are those of onnxruntime's logits on the same examples."""
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in (("v", (6, 8)), ("w", (8, 3)))}
    nodes = [
        helper.make_node("MatMul", ["inputs", "v"], ["x"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("inputs", 6), ("logits", 3))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    views = torch.from_numpy(rng.normal(size=(40, 6)).astype(np.float32))
    want = np.maximum(views.numpy() @ weights["v"], 0) @ weights["w"]
    taken = quantize.quantize(model, views, "inputs")
    errors = {}
    for method in (quantize.STATIC, quantize.DYNAMIC):
        small = quantize.quantize(model, views, "inputs", method).model
        session = onnxruntime.InferenceSession(small.SerializeToString())
        logits = session.run(None, {"inputs": views.numpy()})[0]
        errors[method] = abs(logits - want).mean()
    assert taken.error == pytest.approx(min(errors.values()), rel=1e-3) and taken.error > 0
    assert errors[taken.method] == min(errors.values())
    assert taken.others == pytest.approx({k: v for k, v in errors.items() if k != taken.method})
    assert taken.calibrated == 40


def test_calibration_images_are_spread_over_all() -> None:
    for count, shape, most in (
        (5, (1, 28, 28), 5),
        (1000, (1, 28, 28), 128),
        (1000, (3, 260, 260), 41),  # 2^23 / (3 x 260 x 260) = 41.4
        (1000, (3, 600, 600), 32),
    ):
        chosen = quantize.calibration_index(3 + torch.arange(count), math.prod(shape))
        assert len(chosen) == len(set(chosen.tolist())) == most
        assert (chosen[0], chosen[-1]) == (3, count + 2)
        assert chosen.diff().max() <= math.ceil((count - 1) / (most - 1))


def outcomes(seed: int, repeats: int = 4, images: int = 200) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    full = rng.random((repeats, images)) < 0.8
    small = np.where(rng.random((repeats, images)) < 0.05, ~full, full)
    return [(s.astype(float), f.astype(float)) for s, f in zip(small, full, strict=True)]


def test_the_cost_in_accuracy_is_paired_by_image_and_repeat() -> None:
    pairs = outcomes(1)
    cost = accuracy_cost(pairs, 9, range(4), ONE_TEACHER, "test")
    d = np.stack([s - f for s, f in pairs])
    low, high = ttest_1samp(d[0], 0).confidence_interval()
    ends = ("difference", "low", "high")
    student, configuration = ([cost[k][e] for e in ends] for k in ("student", "configuration"))
    assert student == pytest.approx([d[0].mean(), low, high])
    assert configuration == [crossed(d).mean, *crossed(d).interval()]
    text = describe_accuracy(cost)
    assert "over 4 repeats" in text and "9 of 200 predictions differ" in text
    assert "for new repeats on these training images with this teacher and new images like" in text


def test_fewer_than_three_independent_repeats_have_no_interval() -> None:
    """Repeats 0, 3 and 6 share a teacher, and teachers are the units."""
    for repeats, design in (([0, 1], ONE_TEACHER), ([0, 3, 6], Design(teachers=3))):
        cost = accuracy_cost(outcomes(2, len(repeats)), 9, repeats, design, "test")
        assert "configuration" not in cost and "over" not in describe_accuracy(cost)


def test_folds_have_other_images_and_no_change_has_a_limit() -> None:
    """On val images are no sample, and lengths differ; the interval is about new splits."""
    pairs = [(s[: 100 + r], f[: 100 + r]) for r, (s, f) in enumerate(outcomes(3))]
    cost = accuracy_cost(pairs, 9, range(4), Design(folds=4), "val")
    assert "train/val splits" in cost["configuration"]["holds_for"]
    want = np.mean([(s - f).mean() for s, f in pairs])
    assert cost["configuration"]["difference"] == pytest.approx(want)
    # Wilson's upper limit for 0 of 200 is z^2 / (n + z^2) = 3.8415 / 203.84 = 1.88 %
    right = np.ones(200)
    text = describe_accuracy(accuracy_cost([(right, right)], 0, [0], ONE_TEACHER, "test"))
    assert "+0.00 percentage points; 0 of 200 predictions differ" in text
    assert "at most 1.9% do" in text


def text_of(markdown: str) -> str:
    """Return the text that a renderer shows; fail if there is any markup."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    kinds = [token.type for token in tokens]
    assert kinds in ([], ["paragraph_open", "inline", "paragraph_close"]), kinds
    children = [child for token in tokens for child in token.children or []]
    assert {child.type for child in children} <= {"text", "text_special"}, markdown
    return "".join(child.content for child in children)


@given(st.text(alphabet="ab \\`*_{}[]()<>#+-.!|~=&$;:/019\n\"'", max_size=30))
def test_a_name_is_shown_as_it_is(name: str) -> None:
    assert text_of(escape(name)) == " ".join(name.split())


def test_code_is_shown_as_it_is_and_the_head_is_yaml() -> None:
    for name in ("a`b", "``", "`", "x|y", "a ` b `` c"):
        (_, inline, _) = MarkdownIt().parse(code(name).replace("\\|", "|"))
        assert [c.content for c in inline.children or []] == [name.replace("`", "'")]
    hostile = {"name": 'a: b\n---\n- "c" #', "values": [1, {"x": None}]}
    assert {name: yaml.safe_load(yaml_value(value)) for name, value in hostile.items()} == hostile


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_of_pillow(interpolation: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for rounding: 2 of 255 levels is what 153 photographs showed at most.

    The lines of docs/export.md, which read sizes from the file, make the same pixels as the card's.
    """
    file, of_docs = here / "image.png", {}
    lines = (ROOT / "docs" / "export.md").read_text().split("```python\n")[1].split("```")[0]
    facts = {"classes": '["ant"]'}
    session = SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=facts))
    session.run = lambda *_: np.zeros((1, 1, 1))
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda _: session)
    for seed, (height, width) in enumerate([(60, 80), (81, 57), (50, 50)]):
        exif = Image.Exif()
        exif[0x0112] = 1 + 5 * (seed % 2)  # 6 is turned by 90 degrees
        Image.fromarray(photo(seed, height, width).permute(1, 2, 0).numpy()).save(file, exif=exif)
        for size, crop in ((48, 0.875), (50, 1.0), (90, 0.95)):
            resize = Resize(round(size / crop), size, interpolation, "RGB", "exif")
            mine = from_numpy(np.array(pillow_view(str(file), resize)))
            want = Resizing(crop, interpolation)(decode(str(file), "exif"), size)  # type: ignore[arg-type]
            assert mine.shape == want.shape and (mine.int() - want.int()).abs().max() <= 2
            facts["resize"] = json.dumps(vars(resize))
            exec(lines, of_docs)
            np.testing.assert_array_equal(of_docs["images"][0], mine)


def test_the_lines_read_an_image_as_kdtune_does(here: Path) -> None:
    image = Image.fromarray(photo(1, 30, 40).permute(1, 2, 0).numpy())
    orientations = [Image.Exif() for _ in range(9)]
    for number, exif in enumerate(orientations):
        exif[0x0112] = number
    resize = Resize(30, 30, "bilinear", "RGB", "exif")
    lines = onnx_lines(Signature("images", (3, 30, 40), uint8), resize, resizes=False)
    reading = lines[lines.index("image = ") : lines.index("pixels = ")]
    for exif in orientations:
        for suffix in ("png", "tiff"):
            image.save(file := here / f"image.{suffix}", exif=exif)
            own = {"Image": Image}
            exec(reading.replace("image.png", file.name), own)
            mine = from_numpy(np.array(own["image"])).permute(2, 0, 1)
            want = decode(str(file), "exif")
            assert mine.shape == want.shape and bool((mine == want).all())
            assert pillow_view(str(file), resize).shape == (3, 30, 30)

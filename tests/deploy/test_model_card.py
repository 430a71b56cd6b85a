"""The model card: what it says, its lines of Python, and names that mean something to Markdown."""

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from photos import photo, rotated_with_damage
from PIL import Image
from torch import from_numpy, uint8

import kdtune
from kdtune.data.dataset import decode
from kdtune.data.sources import load_fashion
from kdtune.data.views import Resizing
from kdtune.deploy.card import Resize, code, escape, onnx_lines, pillow_view, yaml_value
from kdtune.deploy.export import export
from kdtune.deploy.onnx import Signature
from kdtune.raytune.folder import finish
from kdtune.storage.mirror import Mirror

ROOT = Path(__file__).parents[2]


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
        assert [c.content for c in inline.children or []] == [name]
    hostile = {"name": 'a: b\n---\n- "c" #', "values": [1, {"x": None}]}
    assert {name: yaml.safe_load(yaml_value(value)) for name, value in hostile.items()} == hostile


def test_a_card_says_what_the_study_recorded(fashion: Path) -> None:
    card = export(fashion, "safetensors", repeat=1, write=str).card.read_text()
    results = kdtune.load(fashion)
    trials = results.trials[results.trials.config_id == results.best()]
    frame = pd.read_parquet(fashion / "predictions.parquet")
    frame = frame[(frame.split == "test") & frame.trial_id.isin(trials.trial_id)]
    mine = frame[frame.trial_id == trials[trials["repeat"] == 1].trial_id.item()]
    head = next(yaml.safe_load_all(card))
    (metric,) = head["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == pytest.approx(mine.correct.mean())
    assert f"Accuracy of this student on test: {100 * mine.correct.mean():.1f}%" in card
    assert f"{100 * frame.correct.mean():.1f}%" in card
    own, every = (100 * part.groupby("label").correct.mean() for part in (mine, frame))
    for k, name in enumerate(load_fashion().classes):
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:3] == ["100", f"{own[k]:.1f}"] and cells[4] == f"{every[k]:.1f}"
    assert "The initial weights were random." in card and "300" not in head


def test_an_edited_card_is_kept_also_when_the_study_is_finished_again(fashion: Path) -> None:
    card = export(fashion, "safetensors", write=str).card
    export(fashion, "safetensors", write=str)
    assert not card.with_name("README.old.md").exists()
    card.write_text(card.read_text().replace("unknown", "mit"))
    lines: list[str] = []
    export(fashion, "safetensors", write=lines.append)
    assert 'license: "mit"' in card.with_name("README.old.md").read_text()
    assert 'license: "unknown"' in card.read_text() and "README.old.md" in lines[-1]
    before = sorted(file.name for file in card.parent.iterdir())
    study = kdtune.load(fashion).study
    finish(fashion, Mirror(replace(study, out=str(fashion.parent))))
    assert sorted(file.name for file in card.parent.iterdir()) == before


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pillow_makes_the_same_views(interpolation: str, tmp_path: Path) -> None:
    """But for rounding: 2 of 255 levels is what 153 photographs showed at most."""
    file = tmp_path / "photo.png"
    for seed, (height, width) in enumerate([(60, 80), (81, 57), (50, 50)]):
        exif = Image.Exif()
        exif[0x0112] = 1 + 5 * (seed % 2)  # 6 is turned by 90 degrees
        Image.fromarray(photo(seed, height, width).permute(1, 2, 0).numpy()).save(file, exif=exif)
        for size, crop in ((48, 0.875), (50, 1.0), (90, 0.95)):
            resize = Resize(round(size / crop), size, interpolation, "RGB", "exif")
            mine = from_numpy(np.array(pillow_view(str(file), resize)))
            want = Resizing(crop, interpolation)(decode(str(file), "exif"), size)  # type: ignore[arg-type]
            assert mine.shape == want.shape and (mine.int() - want.int()).abs().max() <= 2


def test_the_lines_read_an_image_as_kdtune_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = Image.fromarray(photo(1, 30, 40).permute(1, 2, 0).numpy())
    orientations = [Image.Exif() for _ in range(9)]
    for number, exif in enumerate(orientations):
        exif[0x0112] = number
    resize = Resize(30, 30, "bilinear", "RGB", "exif")
    lines = onnx_lines(Signature("images", (3, 30, 40), uint8), resize, resizes=False)
    reading = lines[lines.index("image = ") : lines.index("pixels = ")]
    for exif in (*orientations, rotated_with_damage(0x100), rotated_with_damage(0x11A)):
        for suffix in ("png", "tiff") if isinstance(exif, Image.Exif) else ("png",):
            image.save(file := tmp_path / f"image.{suffix}", exif=exif)
            own = {"Image": Image}
            exec(reading.replace("image.png", file.name), own)
            mine = from_numpy(np.array(own["image"])).permute(2, 0, 1)
            want = decode(str(file), "exif")
            assert mine.shape == want.shape and bool((mine == want).all())
            assert pillow_view(str(file), resize).shape == (3, 30, 30)


def isolated_python(folder: Path) -> Path:
    """Return the Python of an environment with onnxruntime, NumPy and Pillow alone.

    Their folders are linked, so that no network is needed.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    target = next((folder / "lib").glob("python*/site-packages"))
    home = Path(sysconfig.get_path("purelib"))
    names = ("onnxruntime", "numpy", "numpy.libs", "PIL", "pillow.libs", "flatbuffers")
    for name in (*names, "google", "packaging"):
        if (home / name).exists():
            (target / name).symlink_to(home / name)
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["card", "docs"])
def test_the_lines_predict_without_torch_ray_and_kdtune(
    fashion: Path, tmp_path: Path, page: str
) -> None:
    done = export(fashion, write=str)
    markdown = done.card if page == "card" else ROOT / "docs" / "export.md"
    lines = markdown.read_text().split("```python\n")[1].split("```")[0]
    results = kdtune.load(fashion)
    trials = results.trials
    trial = trials[(trials.config_id == results.best()) & (trials["repeat"] == 0)].trial_id.item()
    frame = pd.read_parquet(fashion / "predictions.parquet")
    want = frame[(frame.trial_id == trial) & (frame.split == "test")].predicted[:40]
    images = load_fashion().splits["test"].inputs
    for k in range(len(want)):
        Image.fromarray(images[k, 0].numpy()).save(done.file.parent / f"{k}.png")
    python = isolated_python(tmp_path / "venv")
    programs = "".join(f"\nexec({lines.replace('image.png', f'{k}.png')!r})" for k in range(40))
    check = (
        "import importlib.util as u\nassert not any(map(u.find_spec, ('torch', 'ray', 'kdtune')))"
    )
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(
        [python, "-c", check + programs],
        **{"cwd": done.file.parent, "env": own, "capture_output": True, "text": True},
    )
    assert ran.returncode == 0, ran.stderr
    classes = load_fashion().classes
    assert ran.stdout.splitlines() == [classes[k] for k in want]
    assert json.loads((done.file.parent / "best.onnx.json").read_text())["classes"] == [*classes]

"""The lines of Python in a model card, and names that mean something to Markdown and YAML."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from photos import photo
from PIL import Image
from torch import from_numpy, uint8

from kdtune.data.dataset import decode
from kdtune.data.views import Resizing
from kdtune.deploy.card import Resize, code, escape, onnx_lines, pillow_view, yaml_value
from kdtune.deploy.onnx import Signature

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
        assert [c.content for c in inline.children or []] == [name.replace("`", "'")]
    hostile = {"name": 'a: b\n---\n- "c" #', "values": [1, {"x": None}]}
    assert {name: yaml.safe_load(yaml_value(value)) for name, value in hostile.items()} == hostile


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pillow_makes_the_same_views(
    interpolation: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for rounding: 2 of 255 levels is what 153 photographs showed at most.

    The lines of README.md, which read sizes from the file, make the same pixels as the card's.
    """
    file, of_readme = here / "image.png", {}
    lines = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
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
            exec(lines, of_readme)
            np.testing.assert_array_equal(of_readme["images"][0], mine)


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

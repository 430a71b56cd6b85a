"""The pages of docs/ against the code. `sphinx-build -W` in .ci/run checks their links."""

import re
from pathlib import Path

import kdtune

ROOT = Path(kdtune.__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_api_page_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    assert sorted(re.findall(r":: kdtune\.(\w+)", text)) == sorted(kdtune.__all__)

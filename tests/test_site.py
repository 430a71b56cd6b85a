"""The pages of docs/ against the code. `sphinx-build -W` in .ci/run checks their links."""

import re
from pathlib import Path

import kdtune

ROOT = Path(kdtune.__file__).parents[1]
DOCS = ROOT / "docs"


def test_contributing_names_tables_and_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| an? .*\|$", text, re.M)
    assert len(rows) == 9
    for row in rows:
        words = re.findall(r"`([^`]+)`", row)
        code = "".join((ROOT / word).read_text("utf-8") for word in words if "/" in word)
        names = [word for word in words if re.fullmatch(r"[A-Z]\w+", word)]
        assert [n for n in names if not re.search(rf"^(class )?{n}\b", code, re.M)] == []


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    files = [*(ROOT / "kdtune").rglob("*.py"), ROOT / "kdtune" / "results" / "sentences.toml"]
    text = "".join(file.read_text("utf-8") for file in files)
    text = re.sub(r'"\n *f?"|\\\n', "", text)  # literals and lines that go on
    messages = re.findall(r"^\*\*`(.*?)`\*\*", (DOCS / "troubleshooting.md").read_text(), re.M)
    pieces = [piece.strip() for message in messages for piece in message.split("…")]
    assert len(messages) >= 20 and [piece for piece in pieces if piece not in text] == []


def test_the_api_page_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    assert sorted(re.findall(r":: kdtune\.(\w+)", text)) == sorted(kdtune.__all__)

"""Everything a user can see of stored studies and command lines is as it was; see README.md."""

from pathlib import Path

import pytest
from collect import FAST, GROUPS, HERE, difference, prepare

CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in GROUPS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the stored studies."""
    folder = tmp_path_factory.mktemp("goldens")
    prepare(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_it_was(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    lines = list[str]()
    for file, text in GROUPS[name]().items():
        golden = HERE / file
        old = golden.read_text("utf-8") if golden.exists() else ""
        if text != old:
            lines += difference(file, old, text)
    assert not lines, "\n".join([f"if meant: python tests/goldens/write.py {name}", *lines])

"""Everything a user can see of stored studies and command lines is as it was; see README.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from boundary import HYPERPARAMETERS, sharing
from collect import GROUPS, HERE, SLOW_GROUPS, difference, prepare, stored

ALL = GROUPS | SLOW_GROUPS
SEEN: set[str] = set()
"""Goldens that the tests of this process have compared."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with copies of the stored studies, each of which is read once."""
    folder = tmp_path_factory.mktemp("goldens")
    prepare(folder)
    with sharing():
        yield folder


@pytest.mark.parametrize(
    "name", [*GROUPS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_GROUPS)]
)
def test_it_is_as_it_was(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found, lines = ALL[name](), list[str]()
    for file, text in found.items():
        golden = HERE / file
        old = golden.read_text("utf-8") if golden.exists() else ""
        if text != old:
            lines += difference(file, old, text)
    SEEN.update(found)
    assert not lines, "\n".join(lines)


def test_no_golden_is_left_over(request: pytest.FixtureRequest) -> None:
    """No file is compared by nobody."""
    if sum("test_it_is_as_it_was" in item.name for item in request.session.items) < len(ALL):
        pytest.skip("only with all groups, also the slow ones")
    assert {file.relative_to(HERE).as_posix() for file in stored()} == SEEN


def test_the_random_configurations_have_all_hyperparameters() -> None:
    table = json.loads((HERE / "hyperparameters.json").read_text("utf-8"))
    assert sorted(table) == sorted(HYPERPARAMETERS)

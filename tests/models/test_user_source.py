"""Fingerprints of factories: laws of what changes them, with files that are edited on the disk.

Each edit happens between two processes, which is played by forgetting the imported modules.
"""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdtune.models.registry import build

FILES = {
    "mine/__init__.py": "",
    "mine/models.py": """
        from torch import nn
        import helper_of_mine
        from .layers import Block
        from .sizes import WIDTH

        def small(classes):
            return nn.Sequential(nn.Flatten(), Block(784, WIDTH), nn.Linear(WIDTH, classes))

        def late(classes):
            from .late import unused
            return small(classes)
    """,
    "mine/layers.py": """
        from torch import nn
        from . import activations

        class Block(nn.Module):
            def __init__(self, a, b):
                super().__init__()
                self.linear = nn.Linear(a, b)

            def forward(self, x):
                return activations.act(self.linear(x))
    """,
    "mine/activations.py": "def act(x):\n    return x.relu()\n",
    "mine/sizes.py": "WIDTH = 8\n",
    "mine/late.py": "unused = 1\n",
    "mine/unrelated.py": "x = 1\n",
    "helper_of_mine.py": "y = 1\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's package, importable."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would hide edits within a second
    yield tmp_path
    forget()


def forget() -> None:
    """Let the next import read the files again, as another process would."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("mine", "helper_of_mine", "elsewhere"):
            del sys.modules[name]


def fingerprint(name: str = "mine.models:small") -> str:
    forget()
    return build(name, "none", 10, seed=1).fingerprint()


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine/models.py", "nn.Flatten()", "nn.Flatten(1)"),
        ("mine/layers.py", "self.linear(x)", "self.linear(x) + 1"),
        ("mine/activations.py", "relu", "tanh"),  # indirectly imported, invisible in the layers
        ("mine/sizes.py", "8", "8 "),  # a constant, which leaves no trace in the namespace
        ("mine/late.py", "1", "2"),  # imported inside of a function
        ("mine/__init__.py", "", "z = 1"),  # run by every import from the package
        ("helper_of_mine.py", "1", "2"),
    ],
)
def test_an_edited_module_that_a_factory_imports_changes_it(
    project: Path, file: str, old: str, new: str
) -> None:
    before = fingerprint()
    assert fingerprint() == before
    edit(project / file, old, new)
    assert fingerprint() != before


def test_other_files_do_not_change_it(project: Path) -> None:
    before = fingerprint()
    edit(project / "mine/unrelated.py", "1", "2")
    assert fingerprint() == before
    import mine.unrelated  # noqa: F401

    assert build("mine.models:small", "none", 10, seed=1).fingerprint() == before


def test_it_does_not_depend_on_what_has_been_imported_or_called(project: Path) -> None:
    before = fingerprint("mine.models:late")
    model = build("mine.models:late", "none", 10, seed=1)
    with torch.no_grad():
        model(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    import mine.late  # noqa: F401

    assert model.fingerprint() == before
    assert build("mine.models:late", "none", 10, seed=1).fingerprint() == before


def test_a_process_that_runs_old_code_keeps_the_old_fingerprint(project: Path) -> None:
    before = fingerprint()
    edit(project / "mine/activations.py", "relu", "tanh")
    assert build("mine.models:small", "none", 10, seed=1).fingerprint() == before
    assert fingerprint() != before


def test_it_is_of_the_content_not_of_the_place(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint()
    copy = tmp_path_factory.mktemp("copy")
    for name in FILES:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text((project / name).read_text())
        (project / name).unlink()
    monkeypatch.syspath_prepend(copy)
    assert fingerprint() == before


def test_an_installed_package_does_not_count(project: Path) -> None:
    package = project / "site-packages" / "elsewhere.py"
    package.parent.mkdir()
    package.write_text("w = 1\n")
    edit(project / "helper_of_mine.py", "y = 1", "from elsewhere import w")
    sys.path.insert(0, str(package.parent))
    try:
        before = fingerprint()
        edit(package, "1", "2")
        assert fingerprint() == before
    finally:
        sys.path.remove(str(package.parent))


def test_edits_of_kdtune_do_not_change_its_own_factories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = "kdtune.models:fashion_teacher"
    before = build(own, "none", 10, seed=1)
    assert before.source == ""
    read: Callable[..., bytes] = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: read(file) + b"# edited")
    assert build(own, "none", 10, seed=1).fingerprint() == before.fingerprint()

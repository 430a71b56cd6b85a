"""The commands of docs/tutorials run, in their order, on small pictures and for an epoch."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, product
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import timm
from photos import photo, save
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = (
    ("rare_class",),
    ("first_study",),
    ("your_photographs", "read_the_verdict", "ship_the_student"),  # of one study
)
SHORT = {"--epochs": "1", "--teacher-epochs": "1", "--repeats": "2"}
"""Flags after those of a study."""
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.tutorial


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each file, and each command with the name "", in their order."""
    for language, block in BLOCK.findall(text):
        if language == "python":
            if name := re.match(r"# (\S+\.py)\n", block):
                yield name[1], block
            continue
        for command in re.findall(r"^\$ ((?:.*\\\n)*.*)", block, re.MULTILINE):
            yield "", command.replace("\\\n", "")


def shortened(text: str) -> list[str]:
    """Return the words of a command; a study's are followed by what makes it short."""
    if "kdtune.search" not in text:
        return [text] if "(" in text else shlex.split(text)
    words = shlex.split(text, comments=True)
    return words + list(chain(*((flag, n) for flag, n in SHORT.items() if flag not in words)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what tutorials take: photographs, and weights of models, of no use."""
    places = product(("train", "val"), ("ants", "bees"), range(16))
    for number, (split, kind, _) in enumerate(places):
        save(photo(number), tmp_path / f"hymenoptera_data/{split}/{kind}/{number}.jpg")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "weights").mkdir()
    for name in ("tf_efficientnet_lite0", "tf_efficientnet_lite2"):
        weights = timm.create_model(name, pretrained=False).state_dict()
        save_file(weights, tmp_path / f"weights/{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "pages", [PAGES[0], *(pytest.param(p, marks=pytest.mark.slow) for p in PAGES[1:])], ids=" ".join
)
def test_the_commands_of_tutorials_run(pages: Sequence[str], folder: Path) -> None:
    """In their order and in one folder; a check may find something."""
    for page in pages:
        commands = 0
        for name, text in steps((TUTORIALS / f"{page}.md").read_text("utf-8")):
            if name:
                (folder / name).write_text(text, "utf-8")
                continue
            words = shortened(text)
            words[:1] = [sys.executable] if words[0] == "python" else words[:1]
            ended = subprocess.run(words, cwd=folder, capture_output=True, text=True)
            assert ended.returncode <= ("--check" in words), f"{text}\n{ended.stdout}{ended.stderr}"
            commands += 1
        assert commands, page


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="namespaces need root")
def test_the_commands_of_a_cluster_of_one_machine_run(folder: Path) -> None:
    """In namespaces, since `ray stop` ends all of Ray that it sees; tests/clusters has the rest."""
    page = (TUTORIALS / "cluster.md").read_text("utf-8")
    lines = ["set -e; ip link set lo up", *(" ".join(shortened(text)) for _, text in steps(page))]
    words = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "bash", "-c", "\n".join(lines)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with TemporaryDirectory() as short:  # paths of sockets have at most 107 characters
        env = os.environ | {"HOME": short, "RAY_TMPDIR": short, "PATH": path}
        ended = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
    assert len(lines) == 6 and "Best configuration: " in ended.stdout


def test_each_tutorial_is_run() -> None:
    assert {"cluster", *chain(*PAGES)} == {file.stem for file in TUTORIALS.glob("*.md")}

"""Completion in a real bash, by the script that tyro writes; zsh and fish get theirs.

Reference: the flags and choices of the commands, typed here by hand where they are few.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.config.cli import completion_script

IN_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p kdtune | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Completes the last word, by the function that is registered for kdtune."""

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scripts") / "kdtune"
    file.write_text(completion_script("bash"))
    return file


def bash(script: Path, typed: str) -> list[str]:
    """Return the words that bash offers for the last one."""
    line = ["bash", "--norc", "-c", IN_BASH, "bash", str(script), "kdtune", *typed.split(" ")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=True)
    assert done.stderr == ""
    return sorted(done.stdout.split())


@needs_bash
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("se", "search"),
        ("search --al", "--alpha"),
        ("search --optimizer ", "adamw nesterov sgd"),
        ("search --no-st", "--no-stop-early"),
        ("search --lr 1e-4..1e-1:log --mome", "--momentum"),
        ("search mine.py --repea", "--repeats"),
        ("analysis --hi", "--higher-is-better"),  # of tables
        ("analysis --no", ""),
        ("teacher --alpha", ""),
        ("convert --fr", "--from"),  # the field is from_
        ("report runs/fash", ""),  # left to bash's own completion of file names
        ("search --data phot", ""),
    ],
)
def test_bash(typed: str, offered: str, script: Path) -> None:
    assert bash(script, typed) == offered.split()


def test_the_command_prints_the_script() -> None:
    line = [sys.executable, "-m", "kdtune", "completion"]
    done = subprocess.run([*line, "zsh"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("#compdef kdtune") and done.stderr == ""
    assert completion_script("fish")
    done = subprocess.run([*line, "csh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and re.search("bash.*zsh.*fish", done.stderr, re.DOTALL)

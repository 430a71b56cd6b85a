"""Completion in a real bash, by the script that tyro writes; zsh and fish get theirs.

Reference: the flags and choices of the commands, typed here by hand where they are few.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from kdtune.completion import completion_script, main
from kdtune.config.cli import parse_command

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
        ("search --alp", "--alpha"),
        ("search --optimizer ", "adamw nesterov sgd"),
        ("analysis --hi", "--higher-is-better"),  # of tables
        ("teacher --alpha", ""),
        ("convert --fr", "--from"),  # the field is from_
        ("report runs/fash", ""),  # left to bash's own completion of file names
    ],
)
def test_bash(typed: str, offered: str, script: Path) -> None:
    assert bash(script, typed) == offered.split()


def test_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(parse_command("completion", ["zsh"])) == 0
    assert capsys.readouterr().out.startswith("#compdef kdtune")
    assert completion_script("fish")

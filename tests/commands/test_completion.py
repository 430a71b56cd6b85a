"""Completion in real shells: bash, and zsh and fish where they are installed.

Reference: the flags and choices of the commands, typed here by hand where they are few.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from kdtune.config.cli import COMMANDS, completion_script
from kdtune.report import ReportFlags

IN_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p kdtune | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Completes the last word, by the function that is registered for kdtune."""
IN_ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
show() { local out; while zpty -r -t shell out; do print -rn -- "$out"; done }
setopt extended_glob
await() {
  repeat 200; do
    out+=$(show)
    [[ ${out//$'\\e'\\[[0-9;]#[a-zA-Z]/} == *$1* ]] && return
    sleep 0.05
  done
  return 1
}
zpty -w shell "PS1=''; autoload -Uz compinit; compinit -u -d $2/zdump; $3; echo be''gun"
await begun
out=
zpty -n -w shell "$4"$'\\t'
await $5 && echo completed || print -r -- "${(q)out}"
zpty -d shell
"""
"""Types words and a tab into an interactive zsh, and waits for what it makes of them."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[Shell, Path]:
    folder = tmp_path_factory.mktemp("scripts")
    names: dict[Shell, str] = {"bash": "kdtune", "zsh": "_kdtune", "fish": "kdtune.fish"}
    for shell, name in names.items():
        (folder / shell).mkdir()
        (folder / shell / name).write_text(script(shell))
    return {shell: folder / shell / name for shell, name in names.items()}


def run(*line: object, cwd: Path | None = None) -> str:
    words = [str(word) for word in line]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def bash(scripts: dict[Shell, Path], *words: str) -> list[str]:
    """Return the words that bash offers for the last one."""
    out = run("bash", "--norc", "-c", IN_BASH, "bash", scripts["bash"], "kdtune", *words)
    return sorted(out.split())


needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@needs_bash
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("se", "search"),
        ("search --al", "--alpha"),
        ("search --optimizer ", "adamw nesterov sgd"),
        ("search --optimizer sgd a", "adamw"),  # several values
        (
            "search --loss ",
            "dist dkd features_cosine features_mse kl ls mse nkd",
        ),  # without module:function and A+B
        ("search --keep best ", None),
        ("search --no-st", "--no-stop-early"),
        ("search --lr 1e-4..1e-1:log --mome", "--momentum"),
        ("search mine.py --repea", "--repeats"),
        ("analysis runs/x --columns acc c", "ce"),
        ("analysis --by lr_", "lr_gamma lr_step_size"),
        ("analysis --hi", "--higher-is-better"),  # of tables
        ("analysis --no", ""),
        ("teacher --alpha", ""),
        ("convert --fr", "--from"),  # the field is from_
        ("convert --from ti", "timm"),
        ("report runs/fash", ""),  # left to bash's own completion of file names
        ("search --data phot", ""),
    ],
)
def test_bash(typed: str, offered: str | None, scripts: dict[Shell, Path]) -> None:
    got = bash(scripts, *typed.split(" "))
    if offered is None:  # the flag has its value: the next word may be any flag
        assert "--alpha" in got and "best" not in got
    else:
        assert got == offered.split()


@needs_bash
def test_bash_offers_every_command_and_flag(scripts: dict[Shell, Path]) -> None:
    assert bash(scripts, "") == sorted([*COMMANDS, "-h", "--help"])
    names = {field.name.replace("_", "-") for field in fields(ReportFlags)} - {"runs"}
    assert bash(scripts, "report", "-") == sorted([*(f"--{n}" for n in names), "-h", "--help"])


@needs_bash
def test_bash_completes_file_names_where_nothing_else_fits(scripts: dict[Shell, Path]) -> None:
    ask = f"source '{scripts['bash']}'; complete -p kdtune"
    assert run("bash", "--norc", "-c", ask).startswith("complete -o bashdefault -o default -F ")


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
@pytest.mark.parametrize("way", ["source {file}", "fpath+={folder}; compinit -u -d {folder}/d"])
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("kdtune sea", "search "),
        ("kdtune report --sco", "--scope "),
        ("kdtune report ph", "photos/"),
    ],
)
def test_zsh(
    way: str, typed: str, completed: str, scripts: dict[Shell, Path], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    file = scripts["zsh"]
    setup = way.format(file=file, folder=file.parent)
    out = run("zsh", "-f", "-c", IN_ZSH, "zsh", "", tmp_path, setup, typed, completed, cwd=tmp_path)
    assert out.endswith("completed\n"), out


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("kdtune sea", ["search"]),
        ("kdtune report --sco", ["--scope"]),
        ("kdtune report --scope ", ["best", "last", "last-5-avg"]),
        ("kdtune report ph", ["photos/"]),
    ],
)
def test_fish(typed: str, completed: list[str], scripts: dict[Shell, Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    ask = f"source {scripts['fish']}; complete -C '{typed}'"
    out = run("fish", "--no-config", "-c", ask, cwd=tmp_path)
    assert [line.split("\t")[0] for line in out.splitlines()] == completed


def test_commands_are_described_by_their_summary() -> None:
    for name, command in COMMANDS.items():
        assert f"{name!r}: {{'description': {command.summary!r}," in script("zsh")


def test_the_command_prints_the_script() -> None:
    line = [sys.executable, "-m", "kdtune", "completion", "bash"]
    assert run(*line) == script("bash") + "\n"
    done = subprocess.run([*line[:-1], "csh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and re.search("bash.*zsh.*fish", done.stderr, re.DOTALL)

"""Experiments that end the process, change it, or are none: one sentence, never a success."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.config.cli import parse
from kdtune.config.text import InputError

STUDY = "import kdtune\nstudy = kdtune.Study(name='own')\n"


def experiment(folder: Path, content: str | bytes) -> str:
    file = folder / "own.py"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "import sys; sys.exit(0)",
            r"it calls sys\.exit\(0\) \(.*own\.py, line 1\); leave the",
        ),
        ("raise SystemExit", r"it calls sys\.exit\(\)"),
        (f"{STUDY}import sys; sys.exit('done')", r"it calls sys\.exit\('done'\) \(.*line 3\)"),
        ("class Odd(BaseException): ...\nraise Odd('odd')", r"Odd: odd \(.*line 2\)"),
        (
            "class Mute(Exception):\n    def __str__(self): raise OSError\nraise Mute",
            "Mute: a Mute without a message",
        ),
        ("class Mute:\n    def __repr__(self): return 1 / 0\nstudy = Mute()", "ZeroDivisionError"),
        (f"study = {'x' * 200!r}", "but got a str$"),
        ("import own\nfrom own import study", "ImportError: cannot import name 'study'"),
        ("import sys; sys.argv.clear()", "IndexError"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth"),
        (bytes(range(256)), "SyntaxError"),
        (b"name = '\xe9'", "SyntaxError: .*utf-8"),
    ],
)
def test_an_experiment_that_cannot_be_one_is_refused(
    tmp_path: Path, content: str | bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    with pytest.raises(InputError, match=words) as caught:
        parse("search", [experiment(tmp_path, content)])
    assert "own.py" in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_of_an_experiment_that_exits_ends_with_2(tmp_path: Path) -> None:
    file = experiment(tmp_path, f"{STUDY}import sys\nsys.exit(0)\n")
    words = [sys.executable, "-m", "kdtune.search", file, "--out", str(tmp_path / "runs")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {file} cannot be run: it calls sys.exit(0)")
    assert "Traceback" not in ended.stderr and not (tmp_path / "runs").exists()


def test_no_error_repeats_what_acts_on_a_terminal(tmp_path: Path) -> None:
    """Found by experiments/fuzz.py: names of hyperparameters are any text."""
    content = "import kdtune\nstudy = kdtune.Study(space={'\\x1b[2J\\u202eal': [1]})"
    with pytest.raises(InputError, match=r"\\x1b\[2J\\u202eal cannot be searched"):
        parse("search", [experiment(tmp_path, content)])


def test_streams_that_an_experiment_replaces_are_restored(tmp_path: Path) -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    text = f"import io, sys\nsys.stdin = sys.stdout = sys.stderr = io.StringIO()\n{STUDY}"
    assert parse("search", [experiment(tmp_path, text)]).name == "own"
    assert (sys.stdin, sys.stdout, sys.stderr) == before


def test_another_working_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"import os\nos.chdir('/')\n{STUDY}"
    with pytest.warns(UserWarning, match=f"has changed the working folder from {tmp_path} to /;"):
        parse("search", [experiment(tmp_path, text)])


def test_a_folder_does_not_suggest_itself(tmp_path: Path) -> None:
    (tmp_path / "own.py").mkdir()
    with pytest.raises(InputError, match=r"own\.py is not one$"):
        parse("search", [str(tmp_path / "own.py")])

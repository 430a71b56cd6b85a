"""Commands in odd surroundings, as real processes: they work, or say why not in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONVERT = "-m kdtune.convert --from repdistiller gamma=1 alpha=1"
"""A command that imports little and prints a little."""
ANSWER = "--loss kl --alpha 0.5 --temperature 4"
ASCII = {
    **{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "PYTHONIOENCODING": "ascii",
}
SEARCH = (
    "-m kdtune.search --train-images 60 --epochs 1 --teacher-epochs 1 --gpus 0 --repeats 1 "
    "--alpha 0 1 --temperature 1 --teacher factories:tiny_teacher --student factories:tiny_student"
)


def shell(script: str, cwd: Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run a script of bash, in which $PYTHON is this Python; None unsets a variable."""
    changed = os.environ | variables | {"PYTHON": sys.executable}
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={name: value for name, value in changed.items() if value is not None},
        check=False,
    )


def check_is_clean(done: subprocess.CompletedProcess[str], code: int) -> None:
    """Assert an exit code, and that neither a traceback nor Python's own complaint was printed."""
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said and "Exception ignored" not in said, said


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": None, "XDG_CACHE_HOME": None, "TMPDIR": None, "TERM": None},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/etc/passwd"},
        {"TERM": "dumb", "COLUMNS": "10", "PYTHONOPTIMIZE": "1"},
        ASCII,
    ],
    ids=["unset", "no-folder", "dumb", "ascii"],
)
def test_a_command_works(variables: dict[str, str | None], tmp_path: Path) -> None:
    done = shell(f"ulimit -n 256; $PYTHON {CONVERT}", tmp_path, **variables)
    check_is_clean(done, 0)
    assert ANSWER in done.stdout


def test_a_current_folder_that_was_deleted_is_said(tmp_path: Path) -> None:
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; $PYTHON {CONVERT}", tmp_path)
    check_is_clean(done, 2)
    assert done.stderr.startswith("error: the current folder cannot be used (No such file or")


def test_a_reader_of_the_output_that_has_ended(tmp_path: Path) -> None:
    script = "{ sleep 0.2; $PYTHON -m kdtune.search --help; } | true; exit ${PIPESTATUS[0]}"
    check_is_clean(shell(script, tmp_path), 141)


def test_letters_that_the_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    code = "from kdtune.config.cli import run_and_exit as run; run(lambda: print(chr(8211)) or 0)"
    done = shell(f'$PYTHON -c "{code}"', tmp_path, **ASCII)
    check_is_clean(done, 0)
    assert done.stdout == "\\u2013\n"


def test_a_name_that_the_locale_cannot_read_is_said_with_the_remedy(tmp_path: Path) -> None:
    done = shell("$PYTHON -m kdtune.search --data ärzte", tmp_path, **ASCII)
    check_is_clean(done, 2)
    assert "the locale has the encoding ascii; set PYTHONUTF8=1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "variables"),
    [
        ("ulimit -n 256;", "", {"HOME": "/nonexistent", **ASCII}),
        ("", "</dev/null", {"PYTHONOPTIMIZE": "1", "COLUMNS": "10", "TERM": None}),
        ("", "", {"HOME": "/etc/passwd", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": None}),
        ("", "", {"HOME": "", "TMPDIR": "/etc/passwd", "XDG_CACHE_HOME": "/etc/passwd"}),
    ],
    ids=["256-files", "without-asserts", "no-folders", "files-for-folders"],
)
def test_a_study_works(
    before: str, after: str, variables: dict[str, str | None], tmp_path: Path
) -> None:
    done = shell(f"{before} $PYTHON {SEARCH} {after}", tmp_path, **variables)
    check_is_clean(done, 0)
    table = shell(f"{before} $PYTHON -m kdtune.analysis runs/fashion", tmp_path, **variables)
    check_is_clean(table, 0)
    assert "| alpha |" in table.stdout


@pytest.mark.slow
@pytest.mark.parametrize("out", ["/etc/passwd", "/dev/null/x", "/proc/x"])
def test_a_study_in_no_folder_is_refused(out: str, tmp_path: Path) -> None:
    done = shell(f"$PYTHON {SEARCH} --out {out}", tmp_path)
    check_is_clean(done, 2)
    assert done.stderr.startswith(f"error: {out}/fashion cannot be written (")

"""The command for the whole: `python -m kdtune`, the console script, --version, exit codes.

References: the modules of kdtune that can be run, and docs/commands.md.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kdtune
from kdtune.config.cli import COMMANDS, EXIT_CODES

PACKAGE = Path(kdtune.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "commands.md"
CONSOLE = "import sys; from kdtune.__main__ import console; sys.exit(console())"
"""What pip writes into the console script."""
HEAVY = {"torch", "ray", "pandas", "matplotlib", "scipy", "optuna"}


def call(*words: str, cwd: Path | None = None, script: Path | None = None) -> tuple[int, str, str]:
    """Return exit code, output and errors of `python -m kdtune WORDS`, or of a console script."""
    line = [sys.executable, *(["-m", "kdtune"] if script is None else [str(script)]), *words]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "200"}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=240, env=environment, cwd=cwd, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def console(tmp_path: Path) -> Path:
    """The console script, in a folder of its own as in a virtual environment."""
    script = tmp_path / "bin" / "kdtune"
    script.parent.mkdir()
    script.write_text(CONSOLE)
    return script


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serach"], "got serach; did you mean search?"),
        (["--gpus", "4"], "flags must follow a command, but got --gpus first"),
        (["search", "--alpha", "1.5"], "alpha must lie in [0, 1]"),
        (["analysis", "no-such-run"], "a study must be a folder"),
        (["\x1b[31m\u202e"], r"\x1b[31m\u202e"),  # cannot act on the terminal
    ],
)
def test_what_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    code, out, err = call(*words, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
    assert "\x1b" not in err


@pytest.mark.parametrize(
    "words",
    [
        *([], ["--version"], ["serach"], ["search", "--alpa", "1"], ["completion", "bash"]),
        ["convert", "--from", "mdistiller-dkd"],
        *(["search", "--help"], ["analysis", "--help"], ["report", "--formt", "x"]),
    ],
    ids=" ".join,
)
def test_it_answers_without_heavy_modules(words: list[str]) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "kdtune", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "kdtune.config.cli" in loaded
    assert not HEAVY & loaded
    if not words or words[0] in ("--version", "serach"):
        assert "tyro" not in loaded


def test_the_console_script_finds_modules_in_the_current_folder(
    console: Path, tmp_path: Path
) -> None:
    """As `python -m` does: a model or an experiment may be a module there."""
    (tmp_path / "my_models.py").write_text("lr = 7.0")
    (tmp_path / "bin" / "wave.py").write_text("raise SystemExit('found beside the script')")
    text = "import wave, kdtune, my_models\nkdtune.Study(run=kdtune.Run(lr=-my_models.lr))"
    (tmp_path / "mine.py").write_text(text)
    code, _, err = call("search", "mine.py", cwd=tmp_path, script=console)
    assert code == 2 and "lr=-7.0" in err, err


def test_the_exit_codes_are_documented() -> None:
    rows = re.findall(r"^\| +(\d+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert [int(code) for code, _ in rows] == list(EXIT_CODES)
    text = dict(rows)
    assert "no run completed" in text["1"] and "--strict" in text["3"]
    for command in COMMANDS.values():
        assert set(command.exit_codes) <= set(EXIT_CODES)


def _end_of(process: "subprocess.Popen[str]", end: Callable[[], None]) -> int:
    assert process.stdout is not None
    process.stdout.readline()  # the process runs
    end()
    return process.wait(30)


WAITING = """
import sys, time, types
from kdtune.config.cli import start
def main(flags):
    print("begun", flush=True)
    while True:
        print("x" * 1000, flush=True) if {prints} else time.sleep(0.1)
sys.modules["kdtune.report"] = types.SimpleNamespace(main=main, parse=list)
start("report", ["runs/x"])
"""


@pytest.mark.parametrize(("code", "prints"), [(130, False), (-signal.SIGTERM, False), (141, True)])
def test_a_command_that_is_ended(code: int, prints: bool) -> None:
    """Of the command only `main` is replaced; the shell reports -15 as 143."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(prints=prints)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ends: dict[int, Callable[[], None]] = {
        130: lambda: process.send_signal(signal.SIGINT),
        -signal.SIGTERM: process.terminate,
        141: process.stdout.close,
    }
    with process:
        assert _end_of(process, ends[code]) == code
        assert process.stderr is not None and "Traceback" not in process.stderr.read()

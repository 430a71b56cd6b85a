"""Every command, run as a user runs it, in seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kdtune.analysis
import kdtune.teacher
from kdtune.config.cli import parse, parse_command

TINY = [
    *("--train-images", "60", "--epochs", "2", "--teacher-epochs", "1", "--gpus", "0"),
    *("--teacher", "factories:tiny_teacher", "--student", "factories:tiny_student"),
]


def call(*words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, "-m", *map(str, words)], os.environ | variables
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


def test_teacher_then_distill_then_search_then_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command once as a process; the same again, or with other flags, in this one."""
    monkeypatch.chdir(tmp_path)
    flags = [*TINY, "--cache", tmp_path / "cache"]
    teacher = call("kdtune.teacher", *_of_teacher(flags), cwd=tmp_path)
    assert teacher.returncode == 0, teacher.stderr
    assert "epoch   0" in teacher.stdout and "teacher.safetensors" in teacher.stdout
    assert kdtune.teacher.main(parse("teacher", [*map(str, _of_teacher(flags))])) == 0
    assert "the teacher is ready" in capsys.readouterr().out

    one = call("kdtune.distill", *flags, "--alpha", "0.2", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    assert one.stdout.count("epoch ") == 2 and "alpha 0.2" in one.stdout
    assert one.stdout.count("student") == 2 and "mixup" not in one.stdout  # "the student NAME"

    search = call("kdtune", "search", *flags, "--alpha", "0.1", "1", "--repeats", "3", cwd=tmp_path)
    assert search.returncode == 0, search.stderr
    assert "epoch " not in search.stdout  # the teacher was there
    assert "significant difference" in search.stdout or "Distillation" in search.stdout
    assert "Traceback" not in search.stderr

    table = call("kdtune.analysis", "runs/fashion", cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "0.1" in table.stdout
    for words in (["--format", "json"], ["--pooled"], ["--strict", "--by", "alpha"]):
        assert kdtune.analysis.main(parse_command("analysis", ["runs/fashion", *words])) == 0
        assert "0.1" in capsys.readouterr().out


def _of_teacher(flags: list[object]) -> list[object]:
    """Without those of the student."""
    dropped = {"--train-images", "--epochs", "--student"}
    pairs = zip(flags[::2], flags[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in dropped for word in pair]

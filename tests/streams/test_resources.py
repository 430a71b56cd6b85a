"""Resources of a run: what the study gives, and what this machine must have."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import kdtune.distill
import kdtune.teacher
from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import Range
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.streams import resources
from kdtune.streams.resources import Resources, check_gpus, check_precision

STUDY = Study(name="s", repeats=8, gpus=0)


@pytest.mark.parametrize(
    ("change", "trials", "repeats"),
    [
        ({"cpus_per_trial": 1000}, None, 1),  # by default what this machine can run
        ({}, 2, 2),  # a grid runs all configurations of two repeats, then of the next two
        ({}, 16, 8),
        ({"search": "random"}, 3, 3),
        ({"search": "tpe"}, 2, 8),  # runs all repeats of a configuration together
        ({"policy": "race"}, 2, 8),
    ],
)
def test_repeats_that_are_read_in_turn(change: dict, trials: int | None, repeats: int) -> None:
    assert Resources.of(replace(STUDY, **change), trials).repeats == repeats


@pytest.mark.parametrize(
    ("space", "count"),
    [
        ({}, 1),
        ({"batch_size": (16, 32, 64), "batch_norm": ("train", "eval")}, 6),
        ({"batch_size": Range(16, 64)}, 60),
    ],
)
def test_feature_sets_are_the_searched_ways_to_compute_them(space: dict, count: int) -> None:
    study = replace(STUDY, space=space, search="random" if space else "grid", samples=60)
    assert Resources.of(study).feature_sets == count


def test_more_gpus_than_there_are_is_an_error() -> None:
    check_gpus(replace(STUDY, gpus=2), 2)
    check_gpus(replace(STUDY, gpus=None), 0)
    with pytest.raises(InputError, match="4 GPUs are asked for, but this machine has 3; --gpus 3"):
        check_gpus(replace(STUDY, gpus=4), 3)
    with pytest.raises(InputError, match=r"1 GPUs .* --gpus 0, which runs on the CPUs"):
        check_gpus(replace(STUDY, gpus=1), 0)


def test_bf16_is_refused_on_a_cpu_that_emulates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu, run = torch.device("cpu"), torch.device("cuda"), Run(precision="bf16")
    monkeypatch.setattr(resources, "has_bf16", lambda: False)
    with pytest.raises(InputError, match="--precision must be fp32 on this CPU") as caught:
        check_precision(run, cpu)
    assert "15 times" in str(caught.value) and "\n" not in str(caught.value)
    check_precision(run, gpu)
    check_precision(replace(run, precision="fp32"), cpu)
    monkeypatch.setattr(resources, "has_bf16", lambda: True)
    check_precision(run, cpu)


@pytest.mark.parametrize("command", [kdtune.distill, kdtune.teacher])
def test_commands_refuse_bf16_before_any_work(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "has_bf16", lambda: False)
    study = replace(STUDY, out=str(tmp_path), run=Run(precision="bf16"))
    with pytest.raises(InputError, match="--precision must be fp32 on this CPU"):
        command.main(study)
    assert not list(tmp_path.iterdir())


def test_bf16_of_this_cpu_is_what_its_flags_say() -> None:
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(next(line for line in file if line.startswith("flags")).split())
    except (OSError, StopIteration):
        pytest.skip("no /proc/cpuinfo with flags of an x86")
    if "avx512_bf16" in flags:
        assert resources.has_bf16()
    if not flags & {"avx512bw", "avx_ne_convert", "amx_bf16"}:
        assert not resources.has_bf16()

"""Resources of a run: what the study gives, and what this machine must have."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import kdtune.distill
import kdtune.teacher
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.streams import views as resources
from kdtune.streams.views import (
    Resources,
    check_gpus,
    check_precision,
    count_gpus,
    device_of,
)

STUDY = Study(name="s", repeats=8, gpus=0)


def test_more_gpus_than_there_are_is_an_error() -> None:
    check_gpus(replace(STUDY, gpus=2), 2)
    check_gpus(replace(STUDY, gpus=None), 0)
    with pytest.raises(InputError, match=r"--gpus must be at most the 3 .* got --gpus 4. Use .* 3"):
        check_gpus(replace(STUDY, gpus=4), 3)
    with pytest.raises(InputError, match=r"--gpus 1. Use --gpus 0, which runs on the CPUs"):
        check_gpus(replace(STUDY, gpus=1), 0)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_an_error(device: str) -> None:
    study = replace(STUDY, device=device, gpus=None)
    check_gpus(study, 1)
    with pytest.raises(InputError, match=f"--device must be .* got --device {device}.* --device c"):
        check_gpus(study, 0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 cores, 2 GPUs of CUDA and one of MPS, on which nothing can be computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(resources, "local_cpus", lambda: 8)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "device"),
    [
        ({"gpus": None}, "cuda"),
        ({"gpus": 1}, "cuda"),
        ({"gpus": 0}, "cpu"),
        ({"gpus": None, "device": "cpu"}, "cpu"),
        ({"gpus": None, "device": "mps"}, "mps"),  # never chosen by itself
    ],
)
def test_device_of_a_study(change: dict, device: str) -> None:
    study = replace(STUDY, **change)
    assert device_of(study).type == device == Resources.of(study).device.type
    assert count_gpus(study) == (1 if device == "mps" else 2)
    assert device_of(study, gpus=0).type == {"cuda": "cpu"}.get(device, device)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "photos", "workers", "threads"),
    [
        ({}, True, 7, 1),  # all cores of the machine, one of them for the run's own process
        ({}, False, 0, 8),  # tensors need no workers
        ({"cpus_per_trial": 2}, True, 1, 1),
        ({"cpus_per_trial": 1}, True, 0, 1),
        ({"cpus_per_trial": 40}, True, resources.MAX_LOADER_WORKERS, 24),
        ({"loader_workers": 3}, False, 3, 5),
        ({"gpus": 0}, True, 0, 1),  # without a GPU as ever
        ({"gpus": 0, "cpus_per_trial": 2}, True, 0, 2),
        ({"gpus": 0, "cpus_per_trial": 2, "loader_workers": 3}, True, 3, 2),
    ],
)
def test_cores_of_a_trial_are_divided_into_threads_and_loader_workers(
    monkeypatch: pytest.MonkeyPatch, change: dict, photos: bool, workers: int, threads: int
) -> None:
    made = Resources.of(replace(STUDY, **{"gpus": None, **change}), photos)
    assert (made.loader_workers, made.threads) == (workers, threads)


def test_bf16_needs_macos_14_on_an_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    mps, run = torch.device("mps"), Run(precision="bf16")
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major < 14)
    with pytest.raises(InputError, match="--precision must be fp32 on this computer"):
        check_precision(run, mps)
    check_precision(replace(run, precision="fp32"), mps)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: True)
    check_precision(run, mps)


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

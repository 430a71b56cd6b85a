"""What a run needs of this machine: devices, seeds, cores, precision."""

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
from kdtune.streams import views
from kdtune.streams.views import Resources


def test_a_step_seeds_the_generators_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.mps, "manual_seed", seeds.append)
    views.seed_step(Run(), 1, 2)
    monkeypatch.setattr(views, "HAS_MPS", True)
    views.seed_step(Run(), 1, 2)
    assert seeds == [torch.default_generator.initial_seed()] * 3  # of cuda, then of cuda and mps


STUDY = Study(name="s", repeats=8, gpus=0)


@pytest.mark.parametrize(
    ("change", "gpus", "sentence"),
    [
        ({"gpus": 4}, 3, r"--gpus must be at most the 3 .* got --gpus 4. Use .* 3"),
        ({"gpus": 1}, 0, r"--gpus 1. Use --gpus 0, which runs on the CPUs"),
        ({"device": "cuda"}, 0, "--device must be .* got --device cuda.* --device c"),
        ({"device": "mps"}, 0, "--device must be .* got --device mps.* --device c"),
    ],
)
def test_gpus_that_are_not_there_are_an_error(change: dict, gpus: int, sentence: str) -> None:
    study = replace(STUDY, **{"gpus": None, **change})
    views.check_gpus(study, 4)
    with pytest.raises(InputError, match=sentence):
        views.check_gpus(study, gpus)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 cores, 2 GPUs of CUDA and one of MPS, on which nothing can be computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(views, "local_cpus", lambda: 8)


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
    assert views.device_of(study).type == device == Resources.of(study).device.type
    assert views.count_gpus(study) == (1 if device == "mps" else 2)
    assert views.device_of(study, gpus=0).type == {"cuda": "cpu"}.get(device, device)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "photos", "workers", "threads"),
    [
        ({}, True, 7, 1),  # all cores of the machine, one of them for the run's own process
        ({}, False, 0, 8),  # tensors need no workers
        ({"cpus_per_trial": 2}, True, 1, 1),
        ({"cpus_per_trial": 1}, True, 0, 1),
        ({"cpus_per_trial": 40}, True, views.MAX_LOADER_WORKERS, 24),
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


def test_bf16_is_refused_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for it emulates them."""
    run, name, cpu = Run(precision="bf16"), "kdtune.streams.views.has_bf16", torch.device("cpu")
    monkeypatch.setattr(name, lambda: False)
    words = "--precision must be fp32 on this CPU, .* 15 times"
    with pytest.raises(InputError, match=words) as caught:
        views.check_precision(run, cpu)
    assert "\n" not in str(caught.value)
    views.check_precision(run, torch.device("cuda"))
    views.check_precision(replace(run, precision="fp32"), cpu)
    monkeypatch.setattr(name, lambda: True)
    views.check_precision(run, cpu)
    with pytest.raises(InputError, match="fp32 on this CPU, but got --precision fp16"):
        views.check_precision(replace(run, precision="fp16"), cpu)


GPUS = {"H100": ("bf16", (9, 0)), "T4": ("fp16", (7, 5)), "P100": ("fp32", (6, 0))}


def test_auto_is_the_precision_of_the_hardware(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = Study(run=Run(precision="auto"), device="cuda", gpus=1)
    for name, (precision, capability) in GPUS.items():
        major = capability[0]  # what CUDA says of the cards: bf16 since Ampere, 8.0
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda major=major, **_: major >= 8)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert views.with_precision(auto).run.precision == precision
        assert capsys.readouterr().out.startswith(f"--precision auto is {precision} here: {name} ")
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(views, "has_bf16", lambda has=has: has)
        assert views.with_precision(replace(auto, device="cpu", gpus=0)).run.precision == precision
    with pytest.raises(InputError, match="precision must be fp32, bf16 or fp16 with --address"):
        replace(auto, address="auto")


@pytest.mark.parametrize("command", [kdtune.distill, kdtune.teacher])
def test_commands_refuse_bf16_before_any_work(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "has_bf16", lambda: False)
    study = replace(STUDY, out=str(tmp_path), run=Run(precision="bf16"))
    with pytest.raises(InputError, match="--precision must be fp32 on this CPU"):
        command.main(study)
    assert not list(tmp_path.iterdir())

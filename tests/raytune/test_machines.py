"""What fits on machines, counted by hand; their inspection; those that join or are lost."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import torch
import yaml
from s3_service import S3
from tiny_run import TINY

from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError, NodeMismatchError
from kdtune.data.sources import StudyData, load_data
from kdtune.models.weights import save_weights
from kdtune.raytune import machines
from kdtune.raytune.machines import Node, StorageProbe, TrialResources, trial_resources, try_on_gpu
from kdtune.storage.store import Store
from kdtune.training.recipe import resolve_study
from kdtune.training.run import make_student

FILE = {
    "head_node_type": "head",
    "max_workers": 3,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "min_workers": 0, "max_workers": 4},
        "large": {"resources": {"CPU": 48, "GPU": 8}, "min_workers": 0, "max_workers": 1},
    },
}


@pytest.mark.parametrize(
    ("cpus", "gpus", "trials"),
    [(1, 1, 4), (1, 2, 2), (1, 0.5, 8), (1, 0.4, 8), (1, 3, 1), (1, 5, 0), (3, 1, 2), (8, 0, 1)],
)
def test_trials_that_fit_on_8_cores_and_4_gpus(cpus: int, gpus: float, trials: int) -> None:
    assert machines.count_trials({"CPU": 8, "GPU": 4}, TrialResources(cpus, gpus)) == trials


@pytest.mark.parametrize(
    ("change", "machines", "cpu", "gpu"),
    [
        ({}, [{"CPU": 8}], 1, 0),  # no GPU: as ever
        ({}, [{"CPU": 8, "GPU": 2}], 4, 1),
        ({"gpus_per_trial": 0.25}, [{"CPU": 18, "GPU": 2}], 2, 0.25),
        ({"gpus_per_trial": 0.25}, [{"CPU": 2, "GPU": 1}], 1, 0.25),  # more trials than cores
        ({}, [{"CPU": 4}, {"CPU": 48, "GPU": 8}, {"CPU": 4, "GPU": 1}], 4, 1),  # the least share
        ({"cpus_per_trial": 3}, [{"CPU": 8, "GPU": 2}], 3, 1),
        ({"gpus": 0}, [{"CPU": 8, "GPU": 2}], 1, 0),
        ({"device": "mps"}, [{"CPU": 8, "GPU": 1}], 8, 1),  # one trial at a time
    ],
)
def test_cores_are_divided_over_the_trials_of_a_machine_with_gpus(
    change: dict[str, Any], machines: list[dict[str, float]], cpu: int, gpu: float
) -> None:
    assert trial_resources(replace(Study(), **change), machines) == TrialResources(cpu, gpu)


@pytest.fixture
def one_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cluster of one machine, and the place of its file."""
    node = Node("a", "10.0.0.1 (h0)", {"CPU": 2, "GPU": 2})
    monkeypatch.setattr(machines, "alive_nodes", lambda: [node])
    monkeypatch.setattr(machines, "CLUSTER_FILE", tmp_path / "file.yaml")
    return tmp_path / "file.yaml"


def capacity(study: Study) -> machines.Capacity:
    return machines.Capacity(study, pytest.fail)  # it has nothing to say


def test_capacity_is_that_of_now_and_of_what_may_be_added(one_node: Path) -> None:
    study = Study(run=TINY)
    assert capacity(study).concurrent_trials() == 2
    assert capacity(study).trial == TrialResources(cpu=1, gpu=1.0)
    assert capacity(replace(study, gpus=1)).concurrent_trials() == 1
    assert capacity(replace(study, gpus=0)).trial == TrialResources(cpu=1, gpu=0)
    with pytest.raises(InputError, match=r"at most 2 .* has 2 now, but got --gpus 3. Use --gpus 2"):
        capacity(replace(study, gpus=3))
    with pytest.raises(InputError, match="3 CPU cores and 1 GPUs, but no machine"):
        capacity(replace(study, cpus_per_trial=3))

    one_node.write_text(yaml.safe_dump(FILE))
    assert capacity(study).concurrent_trials() == 2  # not of a cluster: the file is another's
    study = replace(study, address="auto")
    assert capacity(study).concurrent_trials() == 2 + 8 + 1 + 1
    assert capacity(replace(study, gpus=6)).concurrent_trials() == 6
    assert capacity(replace(study, cpus_per_trial=3)).concurrent_trials() == 8 + 1 + 1
    with pytest.raises(InputError, match=r"at most 12 .* has 2 now, but got --gpus 13"):
        capacity(replace(study, gpus=13))


def test_machines_that_the_file_demands_are_waited_for_but_not_for_ever(
    one_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"all": {"resources": {}, "min_workers": 2, "max_workers": 2}}
    file = {"head_node_type": "all", "max_workers": 2, "available_node_types": kinds}
    one_node.write_text(yaml.safe_dump(file))
    monkeypatch.setattr(machines, "JOIN_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(machines.time, "sleep", lambda seconds: None)
    lines: list[str] = []
    made = machines.Capacity(Study(run=TINY, address="auto"), lines.append)
    assert lines == ["1 of 3 machines have joined, waiting for the others"]
    assert made.concurrent_trials() == 2


@pytest.mark.parametrize(
    ("values", "machine", "words"),
    [
        ({"gpus": 4}, {"num_gpus": 3}, r"at most the 3 GPUs .* --gpus 4. Use --gpus 3"),
        ({"gpus": 1, "gpus_per_trial": 2.0}, {"num_gpus": 4}, "takes 1 CPU cores and 2 GPUs, but"),
        ({"cpus_per_trial": 3}, {"num_cpus": 2}, "takes 3 CPU cores and 0 GPUs, but"),
        ({}, {"num_gpus": 0}, "--precision must be fp32 on this CPU"),  # bf16 would be emulated
    ],
)
def test_a_trial_may_not_ask_for_more_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, values: Any, machine: dict[str, int], words: str
) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    study = Study(run=replace(TINY, precision="fp32" if values else "bf16"), **values)
    with pytest.raises(InputError, match=words):
        machines.check_resources(study, machine)


HEAD = Node("a", "10.0.0.1 (h0)", {"GPU": 0})
TRIAL = TrialResources(cpu=1, gpu=0)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(name="a", out=str(tmp_path / "runs"), cache=str(tmp_path / "cache"), run=TINY)
    made.folder.mkdir(parents=True)
    return resolve_study(made, StudyData(TINY))


@pytest.mark.parametrize(("cpus", "count"), [(4.0, 1), (0.0, 0)])
def test_bf16_is_a_fault_of_the_cpus_that_run_trials(
    study: Study, monkeypatch: pytest.MonkeyPatch, cpus: float, count: int
) -> None:
    """Not of a head node whose resources are { CPU: 0 }."""
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    probe = StorageProbe(study)
    probe.write("driver")
    inspection = machines.Inspection(
        replace(study, run=replace(study.run, precision="bf16")), TRIAL, {}
    )
    report = machines.report_node(
        replace(HEAD, resources={"CPU": cpus}), probe, inspection, is_driver=True
    )
    assert ["--precision must be fp32" in line for line in report.faults] == [True] * count


def test_the_largest_batch_of_the_space_is_tried_with_every_pair_of_models() -> None:
    space = {"batch_size": (8, 64, 16), "trainable": ("head", "all"), "ema": (0.9, 0.0)}
    models = {"student": ("resnet18", "resnet34"), "teacher": ("a+b", "c")}
    runs = machines.largest_runs(Study(run=TINY, space=space | models))
    assert {(run.batch_size, run.trainable, run.ema) for run in runs} == {(64, "all", 0.9)}
    pairs = {(run.student, run.teacher) for run in runs}
    assert len(pairs) == 4 and ("resnet34", "a+b") in pairs
    ranged = Study(run=TINY, search="random", space={"batch_size": Range(8, 32)})
    assert machines.largest_runs(ranged)[0].batch_size == 32


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "(A100: CUDA out of memory)"),
        (RuntimeError("no kernel"), "a training step with --batch-size 16, the largest of this"),
        (None, ""),
    ],
)
def test_a_batch_is_tried_on_cuda(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, words: str
) -> None:
    assert try_on_gpu(Study(run=TINY, gpus=0)) == ""  # without CUDA there is nothing to try
    monkeypatch.setattr(machines.views, "device_of", lambda study: torch.device("cuda"))
    monkeypatch.setattr(machines, "device_name", lambda device: "A100")
    monkeypatch.setattr(machines, "try_batch", Mock(side_effect=error))
    fault = try_on_gpu(Study(run=TINY))
    assert words in fault and bool(words) == bool(fault)


def test_whatever_fails_during_an_inspection_is_a_fault_of_the_machine(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "PROPAGATION_SECONDS", 0.0)
    probe = StorageProbe(study)  # whose driver has written nothing: as on a disk of its own
    report = machines.report_node(
        HEAD, probe, machines.Inspection(study, TRIAL, {}), is_driver=True
    )
    assert len(report.faults) == 1
    assert f"does not see what the driver wrote into {study.folder}" in report.faults[0]
    run = replace(study.run, student="factories:unreadable_student")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    nowhere = replace(study, run=run, cache=str(tmp_path / "open"))
    probe.write("driver")
    report = machines.report_node(HEAD, probe, machines.Inspection(nowhere, TRIAL, {}))
    assert "these weights cannot be read" in report.faults[0]
    assert "only you may write" in report.faults[1]
    assert report.free and report.facts["torch"]  # the rest is inspected all the same


# -- two machines, as two names of this one; under Ray: clusters/test_cluster.py --


OTHER = Node("b", "10.0.0.2 (h1)", {"CPU": 1})


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Machines whose tasks this process runs; an error of a task is Ray's."""
    alive = [HEAD, OTHER]

    def start_on(node: Node, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            return ray.exceptions.RayTaskError("inspect", str(error), error)

    def get(task: Any, timeout: float = 0.0) -> Any:
        if isinstance(task, Exception):
            raise task
        return task

    monkeypatch.setattr(machines, "alive_nodes", lambda: list(alive))
    monkeypatch.setattr(machines, "start_on", start_on)
    monkeypatch.setattr(machines.ray, "get", get)
    monkeypatch.setattr(machines.ray, "wait", lambda tasks, timeout: (tasks, []))
    monkeypatch.setattr(machines, "NODE_POLL_SECONDS", 0.0)
    return alive


def inspection_of(study: Study) -> machines.Inspection:
    return machines.Inspection(study, TRIAL, machines.fingerprints_of(study))


def test_two_machines_are_a_table_and_nothing_is_left_behind(
    nodes: list[Node], study: Study, s3: S3, tmp_path: Path
) -> None:
    there = replace(study, out=f"s3://kdtune/{tmp_path.name}")
    for asked in (study, there):
        (table,) = machines.preflight(inspection_of(asked))
        assert len(table.splitlines()) == 2 + 2
    assert list(study.folder.iterdir()) == []
    assert Store(str(there.uri)).names() == []
    with pytest.raises((InputError, OSError), match="NoSuchBucket"):
        machines.preflight(inspection_of(replace(study, out="s3://no-such-bucket/runs")))


def test_machines_that_differ_are_refused(nodes: list[Node], study: Study, tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    save_weights(make_student(study.run, load_data(study.run)).net, file)
    study = replace(study, run=replace(study.run, student_weights=str(file)))
    inspection = inspection_of(study)
    others = inspection._replace(fingerprints={**inspection.fingerprints, "data": "others"})
    with pytest.raises(NodeMismatchError) as caught:
        machines.preflight(others)
    assert str(caught.value).startswith(f"{OTHER} has data ")
    assert f", but {HEAD} has others; make them the same" in str(caught.value)
    with pytest.raises(NodeMismatchError, match=rf"{study.folder} has \d+ free bytes, but one run"):
        machines.preflight(inspection._replace(run_bytes=10**17))
    file.unlink()  # the driver has its fingerprints from before
    with pytest.raises(NodeMismatchError, match=rf"^{re.escape(str(OTHER))}: .*{file} does not ex"):
        machines.preflight(inspection)


def test_machines_that_join_are_inspected_and_those_lost_are_named(
    nodes: list[Node], study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot run the study ends it; one lost during its inspection does not."""
    nodes.remove(OTHER)
    elsewhere = replace(study, run=replace(study.run, data=str(tmp_path / "images")))
    asked = (study, elsewhere, study)
    monitor, strict, late = (
        machines.MachineMonitor(machines.Inspection(s, TRIAL, {})) for s in asked
    )
    assert list(monitor.poll()) == []
    nodes.append(OTHER)
    assert list(monitor.poll()) == [f"{OTHER} has joined"]
    with pytest.raises(NodeMismatchError, match=str(tmp_path / "images")):
        list(strict.poll())
    lost = ray.exceptions.RayTaskError("inspect", "", ConnectionError("no answer"))
    monkeypatch.setattr(machines, "start_on", lambda *_: lost)
    warning = f"warning: {OTHER} could not be inspected (no answer)"
    assert list(late.poll()) == [warning]
    nodes.remove(OTHER)
    ended = f"{OTHER} was lost; its runs resume from their last checkpoint on other machines"
    assert [*monitor.poll(), *late.poll()] == [ended] * 2

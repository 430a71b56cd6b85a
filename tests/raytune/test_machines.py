"""What fits on machines, counted by hand; their inspection; those that join or are lost."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from ray.cluster_utils import Cluster
from s3_service import S3

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError, NodeMismatchError
from kdtune.data.dataset import Data
from kdtune.data.sources import StudyData, load_data
from kdtune.models.weights import save_weights
from kdtune.raytune import machines
from kdtune.raytune.machines import (
    Capacity,
    Inspection,
    MachineMonitor,
    Node,
    NodeReport,
    StorageProbe,
    TrialResources,
    alive_nodes,
    check_local_resources,
    count_trials,
    find_node_faults,
    fingerprints_of,
    largest_runs,
    preflight,
    report_node,
    trial_resources,
    try_on_gpu,
)
from kdtune.storage.store import Store
from kdtune.training.recipe import resolve_study

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
    assert count_trials({"CPU": 8, "GPU": 4}, TrialResources(cpus, gpus)) == trials


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
def one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one machine; `alive_nodes` of a real one: `TestOnTwoNodes`."""
    node = Node("a", "10.0.0.1 (h0)", {"CPU": 2, "GPU": 2})
    monkeypatch.setattr(machines, "alive_nodes", lambda: [node])


def capacity(study: Study) -> Capacity:
    said: list[str] = []
    made = Capacity(study, said.append)
    assert said == []
    return made


@pytest.mark.usefixtures("one_node")
def test_capacity_is_that_of_now_and_of_what_may_be_added(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "CLUSTER_FILE", tmp_path / "file.yaml")
    study = Study(name="a", run=tiny)
    assert capacity(study).concurrent_trials() == 2
    assert capacity(study).trial == TrialResources(cpu=1, gpu=1.0)
    assert capacity(replace(study, gpus=1)).concurrent_trials() == 1
    assert capacity(replace(study, gpus=0)).trial == TrialResources(cpu=1, gpu=0)
    with pytest.raises(InputError, match=r"at most 2 .* has 2 now, but got --gpus 3. Use --gpus 2"):
        capacity(replace(study, gpus=3))
    with pytest.raises(InputError, match="3 CPU cores and 1 GPUs, but no machine"):
        capacity(replace(study, cpus_per_trial=3))

    (tmp_path / "file.yaml").write_text(yaml.safe_dump(FILE))
    assert (
        capacity(study).concurrent_trials() == 2
    )  # not asked for a cluster: the file is another's
    study = replace(study, address="auto")
    assert capacity(study).concurrent_trials() == 2 + 8 + 1 + 1
    assert capacity(replace(study, gpus=6)).concurrent_trials() == 6
    assert capacity(replace(study, cpus_per_trial=3)).concurrent_trials() == 8 + 1 + 1
    with pytest.raises(InputError, match=r"at most 12 .* has 2 now, but got --gpus 13"):
        capacity(replace(study, gpus=13))


@pytest.mark.usefixtures("one_node")
def test_machines_that_the_file_demands_are_waited_for_but_not_for_ever(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: dict[str, Any] = {"all": {"resources": {}, "min_workers": 2, "max_workers": 2}}
    file = {"head_node_type": "all", "max_workers": 2, "available_node_types": kinds}
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(file))
    monkeypatch.setattr(machines, "CLUSTER_FILE", tmp_path / "file.yaml")
    monkeypatch.setattr(machines, "JOIN_TIMEOUT_SECONDS", 0.5)
    said: list[str] = []
    made = Capacity(Study(name="a", run=tiny, address="auto"), said.append)
    assert said == ["1 of 3 machines have joined, waiting for the others"]
    assert made.concurrent_trials() == 2


def test_a_trial_may_not_ask_for_more_than_the_machine_has(tiny: Run) -> None:
    study = Study(name="a", run=tiny)
    with pytest.raises(InputError, match=r"at most the 3 GPUs .* --gpus 4. Use --gpus 3"):
        check_local_resources(replace(study, gpus=4), {"num_gpus": 3})
    with pytest.raises(InputError, match=r"at most the 1 GPUs .* --gpus-per-trial 2"):
        check_local_resources(replace(study, gpus=1, gpus_per_trial=2.0), {"num_gpus": 4})
    with pytest.raises(InputError, match=r"at most the 2 cores .* --cpus-per-trial 3"):
        check_local_resources(replace(study, cpus_per_trial=3), {"num_cpus": 2})


@pytest.mark.parametrize(("supported", "gpus"), [(False, 0), (True, 0), (False, 1)])
def test_bf16_is_refused_where_it_would_be_emulated(
    tiny: Run, monkeypatch: pytest.MonkeyPatch, supported: bool, gpus: int
) -> None:
    study = Study(name="a", run=replace(tiny, precision="bf16"))
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: supported)
    if supported or gpus:
        check_local_resources(study, {"num_gpus": gpus})
    else:
        with pytest.raises(InputError, match="--precision must be fp32 on this CPU"):
            check_local_resources(study, {"num_gpus": gpus})


HEAD, OTHER = Node("a", "10.0.0.1 (h0)", {"GPU": 0}), Node("b", "10.0.0.2 (h1)", {"GPU": 2})
TRIAL = TrialResources(cpu=1, gpu=0)
FACTS = {"kdtune": "1.0", "torch": "2.13.0", "data": "d", "teacher": "t"}
OURS = NodeReport(FACTS)


@pytest.fixture
def study(tiny: Run, tmp_path: Path) -> Study:
    made = Study(name="a", out=str(tmp_path / "runs"), cache=str(tmp_path / "cache"), run=tiny)
    made.folder.mkdir(parents=True)
    return resolve_study(made, StudyData(tiny))


@pytest.mark.parametrize(
    ("theirs", "sentences"),
    [
        (OURS, []),
        (
            NodeReport(FACTS | {"torch": "2.9.0", "data": "e"}),
            [
                "10.0.0.2 (h1) has torch 2.9.0, but 10.0.0.1 (h0) has 2.13.0; make them the same",
                "10.0.0.2 (h1) has data e, but 10.0.0.1 (h0) has d; make them the same",
            ],
        ),
        (NodeReport({"kdtune": "1.0"}, faults=("cannot",)), ["10.0.0.2 (h1): cannot"]),
        (NodeReport(no_answer="has not answered"), []),
    ],
)
def test_a_sentence_for_each_fault_and_difference(theirs: NodeReport, sentences: list[str]) -> None:
    assert find_node_faults({HEAD: OURS, OTHER: theirs}) == {HEAD: [], OTHER: sentences}


@pytest.mark.parametrize(("cpus", "count"), [(4.0, 1), (0.0, 0)])
def test_bf16_is_a_fault_of_the_cpus_that_run_trials(
    study: Study, monkeypatch: pytest.MonkeyPatch, cpus: float, count: int
) -> None:
    """Not of a head node whose resources are { CPU: 0 }."""
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    probe = StorageProbe(study)
    probe.write("driver")
    in_bf16 = replace(study, gpus=0, run=replace(study.run, precision="bf16"))
    node = Node("a", "10.0.0.1 (h0)", {"CPU": cpus})
    report = report_node(node, probe, Inspection(in_bf16, TRIAL, {}), is_driver=True)
    assert [line[:30] for line in report.faults] == ["--precision must be fp32 on th"] * count


def test_the_largest_batch_of_the_space_is_tried_with_every_pair_of_models(tiny: Run) -> None:
    study = Study(
        run=tiny,
        space={
            "batch_size": (8, 64, 16),
            "trainable": ("head", "all"),
            "ema": (0.9, 0.0),
            "student": ("resnet18", "resnet34"),
            "teacher": ("a+b", "c"),
        },
    )
    runs = largest_runs(study)
    assert {(run.batch_size, run.trainable, run.ema) for run in runs} == {(64, "all", 0.9)}
    pairs = {(run.student, run.teacher) for run in runs}
    assert len(pairs) == 4 and ("resnet34", "a+b") in pairs
    ranged = Study(run=tiny, search="random", space={"batch_size": Range(8, 32)})
    assert largest_runs(ranged)[0].batch_size == 32


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "not fit into the free memory of a GPU (A100",
        ),
        (RuntimeError("no kernel"), "a training step fails on this GPU (no kernel)"),
        (None, ""),
    ],
)
def test_a_batch_is_tried_on_cuda(
    tiny: Run, monkeypatch: pytest.MonkeyPatch, error: Exception | None, words: str
) -> None:
    def try_batch(run: Run, data: Data, device: torch.device) -> None:
        if error is not None:
            raise error

    assert try_on_gpu(Study(run=tiny, gpus=0)) == ""  # without CUDA there is nothing to try
    monkeypatch.setattr(machines, "device_of", lambda study: torch.device("cuda"))
    monkeypatch.setattr(machines, "device_name", lambda device: "A100")
    monkeypatch.setattr(machines, "try_batch", try_batch)
    fault = try_on_gpu(Study(run=tiny))
    assert words in fault and bool(words) == bool(fault)


@pytest.fixture(scope="module")
def cluster(s3: S3, no_shared_ray: None) -> Iterator[Cluster]:
    """Two raylets, which share this machine's disk and know the store's address."""
    # from Python 3.13 on a forked process clears what waits for the exit: Ray's hook crashes there
    one = {"num_cpus": 1}
    made = Cluster(initialize_head=True, head_node_args=one, shutdown_at_exit=False)
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.usefixtures("cluster")
class TestOnTwoNodes:
    def test_a_table_with_a_row_each_and_nothing_left_behind(self, study: Study) -> None:
        (table,) = inspect(study)
        assert len(table.splitlines()) == 2 + 2
        assert list(study.folder.iterdir()) == []

    def test_a_file_that_is_gone_is_named_with_the_machine(
        self, study: Study, tmp_path: Path
    ) -> None:
        from kdtune.training.run import make_student

        file = tmp_path / "student.safetensors"
        save_weights(make_student(study.run, load_data(study.run)).net, file)
        with_weights = replace(study, run=replace(study.run, student_weights=str(file)))
        inspection = inspection_of(with_weights)
        preflight(inspection)
        file.unlink()
        with pytest.raises(NodeMismatchError) as caught:
            preflight(inspection)
        _, other = alive_nodes()  # the driver has its fingerprints from before
        assert str(caught.value).startswith(f"{other}: ")
        assert f"{file} does not exist" in str(caught.value)

    def test_other_data_than_the_drivers_are_refused(self, study: Study) -> None:
        inspection = inspection_of(study)
        others = {**inspection.fingerprints, "data": "others"}
        first, other = alive_nodes()
        with pytest.raises(NodeMismatchError) as caught:
            preflight(inspection._replace(fingerprints=others))
        assert str(caught.value).startswith(f"{other} has data ")
        assert f", but {first} has others; make them the same" in str(caught.value)

    def test_a_full_disk_is_refused(self, study: Study) -> None:
        with pytest.raises(
            NodeMismatchError, match=rf"{study.folder} has \d+ free bytes, but one run needs"
        ):
            preflight(inspection_of(study)._replace(run_bytes=10**17))

    def test_a_store_is_written_and_read_by_all(self, study: Study, s3: S3, tmp_path: Path) -> None:
        there = replace(study, out=f"s3://kdtune/{tmp_path.name}")
        (table,) = inspect(there)
        assert len(table.splitlines()) == 2 + 2
        assert Store(str(there.uri)).names() == []
        nowhere = replace(study, out="s3://no-such-bucket/runs")
        with pytest.raises((InputError, OSError), match="NoSuchBucket"):
            inspect(nowhere)

    def test_a_folder_that_others_do_not_see_is_refused(self, study: Study) -> None:
        probe = StorageProbe(study)  # whose driver has written nothing: as on a disk of its own
        report = report_node(HEAD, probe, Inspection(study, TRIAL, {}), is_driver=True)
        assert len(report.faults) == 1
        assert f"does not see what the driver wrote into {study.folder}" in report.faults[0]

    def test_whatever_fails_during_an_inspection_is_a_fault_of_the_machine(
        self, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        student = replace(study.run, student="factories:unreadable_student")
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        nowhere = replace(study, run=student, cache=str(tmp_path / "open"))
        probe = StorageProbe(nowhere)
        probe.write("driver")
        report = report_node(HEAD, probe, Inspection(nowhere, TRIAL, {}))
        probe.remove()
        assert "these weights cannot be read" in report.faults[0]
        assert "only you may write" in report.faults[1]
        assert report.free and report.facts["torch"]  # the rest is inspected all the same

    def test_machines_that_join_are_inspected_and_those_lost_are_named(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """One that cannot run the study ends it."""
        monkeypatch.setattr(machines, "NODE_POLL_SECONDS", 0.0)
        monitor = MachineMonitor(Inspection(study, TRIAL, {}))
        assert list(monitor.poll()) == []
        elsewhere = replace(study, run=replace(study.run, data=str(tmp_path / "images")))
        strict = MachineMonitor(Inspection(elsewhere, TRIAL, {}))
        third = cluster.add_node(num_cpus=1)
        name = f"{alive_nodes()[0]}"  # all three have this machine's
        assert until_said(monitor, 1) == [f"{name} has joined"]
        with pytest.raises(NodeMismatchError, match=str(tmp_path / "images")):
            until_said(strict, 1)
        cluster.remove_node(third)
        assert until_said(monitor, 1) == [
            f"{name} was lost; its runs resume from their last checkpoint on other machines"
        ]
        assert not [p for p in study.folder.iterdir() if p.name.startswith(".preflight")]

    def test_a_machine_lost_during_its_inspection_does_not_end_the_study(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machines, "NODE_POLL_SECONDS", 0.0)
        monitor = MachineMonitor(Inspection(study, TRIAL, {}))
        third = cluster.add_node(num_cpus=1)
        before = alive_nodes()
        (node,) = set(before) - set(monitor.nodes)
        cluster.remove_node(third)
        monkeypatch.setattr(
            machines, "alive_nodes", lambda: before
        )  # the inspection learns of it sooner
        (words,) = until_said(monitor, 1)
        assert words.startswith(f"warning: {node} could not be inspected (")
        with pytest.raises(NodeMismatchError, match="could not be inspected"):  # at a start it does
            inspect(study)
        monkeypatch.setattr(machines, "alive_nodes", alive_nodes)
        assert until_said(monitor, 1)[0].startswith(f"{node} was lost; its runs resume")
        assert list(study.folder.iterdir()) == []


def inspection_of(study: Study) -> Inspection:
    data = StudyData(study.run)
    return Inspection(study, TRIAL, fingerprints_of(study, data))


def inspect(study: Study) -> list[str]:
    """Inspect all machines as the driver does."""
    return preflight(inspection_of(study))


def until_said(monitor: MachineMonitor, count: int) -> list[str]:
    said: list[str] = []
    for _ in range(600):
        said += monitor.poll()
        if len(said) >= count:
            return said
        time.sleep(0.1)
    raise AssertionError(f"only {said}")

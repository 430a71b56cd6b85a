"""Every machine is inspected before a trial; one that cannot run the study is refused."""

import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from s3_service import S3

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError, NodeMismatchError
from kdtune.data.sources import load_data
from kdtune.models.weights import save_weights
from kdtune.raytune import machines as machine_monitor
from kdtune.raytune import machines as module
from kdtune.raytune import machines as node_status
from kdtune.raytune.machines import (
    MachineMonitor,
    Node,
    NodeStatus,
    StorageProbe,
    TrialResources,
    alive_nodes,
    find_differences,
    find_faults,
    find_missing_gpus,
    inspect_node,
    preflight,
)

HEAD, OTHER = Node("a", "10.0.0.1 (h0)", {"GPU": 0}), Node("b", "10.0.0.2 (h1)", {"GPU": 2})
TRIAL = TrialResources(cpu=1, gpu=0)
OWN = NodeStatus("1.0", "2.13.0", 0, {}, "images", "teacher", "student", extra="more")


@pytest.fixture
def study(tiny: Run, tmp_path: Path) -> Study:
    made = Study(name="a", out=str(tmp_path / "runs"), cache=str(tmp_path / "cache"), run=tiny)
    made.folder.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (OWN, []),
        (replace(OWN, gpus=2, free={"/x": 5}), []),
        (replace(OWN, kdtune="0.9"), ["has kdtune 0.9, but 10.0.0.1 (h0) has 1.0; install the"]),
        (replace(OWN, torch="2.9.0"), ["has torch 2.9.0, but 10.0.0.1 (h0) has 2.13.0; install"]),
        (replace(OWN, data="others"), ["has another data than 10.0.0.1 (h0) in fashion; copy it"]),
        (
            replace(OWN, extra="others"),
            ["has another set of images without labels than 10.0.0.1 (h0) in None; copy it"],
        ),
        (replace(OWN, teacher="t", student="s"), ["another teacher", "another student"]),
        (replace(OWN, faults=("cannot",), data=""), []),
        (NodeStatus("1.0", no_answer="has not answered"), []),
    ],
)
def test_a_sentence_for_each_difference(study: Study, other: NodeStatus, words: list[str]) -> None:
    said = find_differences(study, {HEAD: OWN, OTHER: other})
    assert len(said) == len(words)
    for sentence, part in zip(said, words, strict=True):
        assert sentence.startswith("10.0.0.2 (h1) ") and part in sentence


def test_gpus_that_ray_counts_but_torch_does_not_see() -> None:
    assert find_missing_gpus(OTHER, replace(OWN, gpus=2)) is None
    assert "Ray counts 2 GPUs, but torch sees 1" in str(
        find_missing_gpus(OTHER, replace(OWN, gpus=1))
    )


@pytest.mark.parametrize(("cpus", "count"), [(4.0, 1), (0.0, 0)])
def test_bf16_is_a_fault_of_the_cpus_that_run_trials(cpus: float, count: int) -> None:
    """Not of a head node whose resources are { CPU: 0 }."""
    node = Node("a", "10.0.0.1 (h0)", {"CPU": cpus})
    status = replace(OWN, faults=("cannot",), precision_fault="has no bf16")
    found = find_faults(node, status, TRIAL)
    assert found == ["10.0.0.1 (h0): cannot", "10.0.0.1 (h0): has no bf16"][: 1 + count]


@pytest.mark.parametrize(
    ("gpus", "allowed", "fault"), [(1, None, ""), (1, 0, "fp32"), (0, 0, "fp32")]
)
def test_each_machine_tells_whether_its_trials_would_emulate_bf16(
    study: Study, monkeypatch: pytest.MonkeyPatch, gpus: int, allowed: int | None, fault: str
) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(node_status, "_visible_gpus", lambda study: gpus)
    monkeypatch.setattr("ray.get_runtime_context", lambda: Node("a", "a", {}))
    own = replace(study, run=replace(study.run, precision="bf16"), gpus=allowed)
    status = inspect_node(own, StorageProbe(own))
    assert fault in status.precision_fault and bool(fault) == bool(status.precision_fault)


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
        (table,) = preflight(study, TRIAL)
        assert len(table.splitlines()) == 2 + 2
        assert list(study.folder.iterdir()) == []

    def test_a_file_that_is_gone_is_named_with_the_machine(
        self, study: Study, tmp_path: Path
    ) -> None:
        from kdtune.training.run import make_student

        file = tmp_path / "student.safetensors"
        save_weights(make_student(study.run, load_data(study.run)).net, file)
        with_weights = replace(study, run=replace(study.run, student_weights=str(file)))
        preflight(with_weights, TRIAL)
        file.unlink()
        with pytest.raises(NodeMismatchError) as caught:
            preflight(with_weights, TRIAL)
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        for line, node in zip(lines, alive_nodes(), strict=True):
            assert line.startswith(f"{node}: ") and f"{file} does not exist" in line

    def test_a_full_disk_is_refused(self, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(node_status, "RUN_BYTES_PER_STUDENT_BYTE", 10**15)
        with pytest.raises(
            NodeMismatchError, match=rf"{study.folder} has \d+ free bytes, but one run needs"
        ):
            preflight(study, TRIAL)

    def test_a_store_is_written_and_read_by_all(self, study: Study, s3: S3, tmp_path: Path) -> None:
        there = replace(study, out=f"s3://kdtune/{tmp_path.name}")
        (table,) = preflight(there, TRIAL)
        assert len(table.splitlines()) == 2 + 2
        assert StorageProbe(there)._store().names() == []
        assert list(there.folder.iterdir()) == []  # of all machines, which share it here
        nowhere = replace(study, out="s3://no-such-bucket/runs")
        with pytest.raises((InputError, OSError), match="NoSuchBucket"):
            preflight(nowhere, TRIAL)

    def test_a_folder_that_others_do_not_see_is_refused(self, study: Study) -> None:
        probe = StorageProbe(study)  # whose driver has written nothing: as on a disk of its own
        status = inspect_node(study, probe)
        assert len(status.faults) == 1
        assert f"does not see what the driver wrote into {study.folder}; --out" in status.faults[0]

    def test_whatever_fails_during_an_inspection_is_a_fault_of_the_machine(
        self, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        student = replace(study.run, student="factories:unreadable_student")
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        nowhere = replace(study, run=student, cache=str(tmp_path / "open"))
        probe = StorageProbe(nowhere)
        probe.write("driver")
        status = inspect_node(nowhere, probe)
        probe.remove()
        assert "only you may write" in status.faults[0]
        assert "these weights cannot be read" in status.faults[1]
        assert status.data and status.teacher  # the rest is inspected all the same

    def test_machines_that_join_are_inspected_and_those_lost_are_named(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine_monitor, "POLL_SECONDS", 0.0)
        monitor = MachineMonitor(study, TRIAL)
        assert list(monitor.poll()) == []
        third = cluster.add_node(num_cpus=1)
        name = f"{alive_nodes()[0]}"  # all three have this machine's
        assert until_said(monitor, 1) == [f"{name} has joined"]
        cluster.remove_node(third)
        assert until_said(monitor, 1) == [
            f"{name} was lost; its runs resume from their last checkpoint on other machines"
        ]
        assert not [p for p in study.folder.iterdir() if p.name.startswith(".preflight")]

    @pytest.mark.cluster  # half a minute
    def test_an_inspection_retries_through_an_outage_of_the_store(
        self,
        study: Study,
        cluster: Cluster,
        s3: S3,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setattr(machine_monitor, "POLL_SECONDS", 0.0)
        there = replace(study, out=f"s3://kdtune/{tmp_path.name}")
        monitor = MachineMonitor(there, TRIAL)
        s3.process.send_signal(signal.SIGSTOP)
        # longer than a request to the store (ANSWER_SECONDS) and the retries at a study's start
        waker = subprocess.Popen(["sh", "-c", f"sleep 22; kill -CONT {s3.process.pid}"])
        try:
            third = cluster.add_node(num_cpus=1)
            began = time.monotonic()
            said, longest = [], 0.0
            while not said:
                assert time.monotonic() - began < 90
                turn = time.monotonic()
                said += monitor.poll()
                longest = max(longest, time.monotonic() - turn)
                time.sleep(0.1)
        finally:
            waker.wait()
        assert said == [f"{alive_nodes()[0]} has joined"]
        assert longest < 5  # Tune's loop goes on meanwhile
        assert StorageProbe(there)._store().names() == []
        cluster.remove_node(third)

    def test_a_machine_lost_during_its_inspection_does_not_end_the_study(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine_monitor, "POLL_SECONDS", 0.0)
        monitor = MachineMonitor(study, TRIAL)
        third = cluster.add_node(num_cpus=1)
        before = alive_nodes()
        (node,) = set(before) - set(monitor.nodes)
        cluster.remove_node(third)
        monkeypatch.setattr(
            machine_monitor, "alive_nodes", lambda: before
        )  # the inspection learns of it sooner
        monkeypatch.setattr(module, "alive_nodes", lambda: before)
        (words,) = until_said(monitor, 1)
        assert words.startswith(f"warning: {node} could not be inspected (")
        with pytest.raises(NodeMismatchError, match="could not be inspected"):  # at a start it does
            preflight(study, TRIAL)
        monkeypatch.setattr(machine_monitor, "alive_nodes", alive_nodes)
        assert until_said(monitor, 1)[0].startswith(f"{node} was lost; its runs resume")
        assert list(study.folder.iterdir()) == []

    def test_a_machine_that_joins_and_cannot_run_the_study_ends_it(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(machine_monitor, "POLL_SECONDS", 0.0)
        data = tmp_path / "images"
        monitor = MachineMonitor(replace(study, run=replace(study.run, data=str(data))), TRIAL)
        third = cluster.add_node(num_cpus=1)
        with pytest.raises(NodeMismatchError, match=str(data)):
            until_said(monitor, 1)
        cluster.remove_node(third)


def until_said(monitor: MachineMonitor, count: int) -> list[str]:
    said: list[str] = []
    for _ in range(600):
        said += monitor.poll()
        if len(said) >= count:
            return said
        time.sleep(0.1)
    raise AssertionError(f"only {said}")

"""Every machine is looked at before a trial: one that will not do is refused, in one sentence."""

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

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.models.weights import save_weights
from kdtune.raytune import machine_monitor as watching
from kdtune.raytune import preflight as module
from kdtune.raytune.machine_monitor import MachineMonitor
from kdtune.raytune.machines import Node, alive
from kdtune.raytune.preflight import NodeStatus, Probe, differences, look, preflight, too_few_gpus

HEAD, OTHER = Node("a", "10.0.0.1 (h0)", {"GPU": 0}), Node("b", "10.0.0.2 (h1)", {"GPU": 2})
SEEN = NodeStatus("1.0", "2.13.0", 0, {}, "images", "teacher", "student")


@pytest.fixture
def study(tiny: Run, tmp_path: Path) -> Study:
    made = Study(name="a", out=str(tmp_path / "runs"), cache=str(tmp_path / "cache"), run=tiny)
    made.folder.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (SEEN, []),
        (replace(SEEN, gpus=2, free={"/x": 5}), []),
        (replace(SEEN, kdtune="0.9"), ["has kdtune 0.9, but 10.0.0.1 (h0) has 1.0; install the"]),
        (replace(SEEN, torch="2.9.0"), ["has torch 2.9.0, but 10.0.0.1 (h0) has 2.13.0; install"]),
        (replace(SEEN, data="others"), ["has another data than 10.0.0.1 (h0) in fashion; copy it"]),
        (replace(SEEN, teacher="t", student="s"), ["another teacher", "another student"]),
        (replace(SEEN, faults=("cannot",), data=""), []),
        (NodeStatus("1.0", unseen="has not answered"), []),
    ],
)
def test_a_sentence_for_each_difference(study: Study, other: NodeStatus, words: list[str]) -> None:
    said = differences(study, {HEAD: SEEN, OTHER: other})
    assert len(said) == len(words)
    for sentence, part in zip(said, words, strict=True):
        assert sentence.startswith("10.0.0.2 (h1) ") and part in sentence


def test_gpus_that_ray_counts_but_torch_does_not_see() -> None:
    assert too_few_gpus(OTHER, replace(SEEN, gpus=2)) is None
    assert "Ray counts 2 GPUs, but torch sees 1" in str(too_few_gpus(OTHER, replace(SEEN, gpus=1)))


@pytest.fixture(scope="module")
def cluster(s3: S3) -> Iterator[Cluster]:
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
        (table,) = preflight(study)
        assert len(table.splitlines()) == 2 + 2
        assert list(study.folder.iterdir()) == []

    def test_a_file_that_is_gone_is_named_with_the_machine(
        self, study: Study, tmp_path: Path
    ) -> None:
        from kdtune.training.run import make_student

        file = tmp_path / "student.safetensors"
        save_weights(make_student(study.run).net, file)
        with_weights = replace(study, run=replace(study.run, student_weights=str(file)))
        preflight(with_weights)
        file.unlink()
        with pytest.raises(InputError) as caught:
            preflight(with_weights)
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        for line, node in zip(lines, alive(), strict=True):
            assert line.startswith(f"{node}: ") and f"there is no {file}" in line

    def test_a_full_disk_is_said(self, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "CHECKPOINT_SHARE", 10**15)
        with pytest.raises(InputError, match=rf"{study.folder} has room for \d+ bytes, but one"):
            preflight(study)

    def test_a_store_is_written_and_read_by_all(self, study: Study, s3: S3, tmp_path: Path) -> None:
        there = replace(study, out=f"s3://kdtune/{tmp_path.name}")
        (table,) = preflight(there)
        assert len(table.splitlines()) == 2 + 2
        assert Probe(there)._store().names() == []
        nowhere = replace(study, out="s3://no-such-bucket/runs")
        with pytest.raises((InputError, OSError), match="NoSuchBucket"):
            preflight(nowhere)

    def test_a_folder_that_others_do_not_see_is_refused(self, study: Study) -> None:
        probe = Probe(study)  # whose driver has written nothing: as on a disk of its own
        seen = look(study, probe)
        assert len(seen.faults) == 1
        assert f"does not see what the driver wrote into {study.folder}; --out" in seen.faults[0]

    def test_whatever_fails_while_a_machine_looks_is_a_fault_it_tells(
        self, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        student = replace(study.run, student="factories:unreadable_student")
        nowhere = replace(study, run=student, cache=str(tmp_path / ("x" * 300)))
        probe = Probe(nowhere)
        probe.write("driver")
        seen = look(nowhere, probe)
        probe.remove()
        assert "File name too long" in seen.faults[0]
        assert seen.faults[1] == "these weights cannot be read"
        assert seen.data and seen.teacher  # the rest is looked at all the same

    def test_machines_that_come_are_looked_at_and_those_that_go_are_named(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
        watch = MachineMonitor(study)
        assert list(watch.tick()) == []
        third = cluster.add_node(num_cpus=1)
        name = f"{alive()[0]}"  # all three have this machine's
        assert until_said(watch, 1) == [f"{name} has come"]
        cluster.remove_node(third)
        assert until_said(watch, 1) == [
            f"{name} is gone; its runs go on from their last checkpoint, elsewhere"
        ]
        assert not [p for p in study.folder.iterdir() if p.name.startswith(".preflight")]

    @pytest.mark.cluster  # half a minute
    def test_an_outage_while_a_machine_is_looked_at_is_ridden_out(
        self,
        study: Study,
        cluster: Cluster,
        s3: S3,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
        there = replace(study, out=f"s3://kdtune/{tmp_path.name}")
        watch = MachineMonitor(there)
        s3.process.send_signal(signal.SIGSTOP)
        # longer than a try of the store (ANSWER_SECONDS) and the patience at a study's start
        waker = subprocess.Popen(["sh", "-c", f"sleep 22; kill -CONT {s3.process.pid}"])
        try:
            third = cluster.add_node(num_cpus=1)
            began = time.monotonic()
            said, longest = [], 0.0
            while not said:
                assert time.monotonic() - began < 90
                turn = time.monotonic()
                said += watch.tick()
                longest = max(longest, time.monotonic() - turn)
                time.sleep(0.1)
        finally:
            waker.wait()
        assert said == [f"{alive()[0]} has come"]
        assert longest < 5  # Tune's loop goes on meanwhile
        assert Probe(there)._store().names() == []
        cluster.remove_node(third)

    def test_a_machine_that_goes_while_it_is_looked_at_ends_nothing(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
        watch = MachineMonitor(study)
        third = cluster.add_node(num_cpus=1)
        before = alive()
        (node,) = set(before) - set(watch.nodes)
        cluster.remove_node(third)
        monkeypatch.setattr(watching, "alive", lambda: before)  # the look learns of it sooner
        monkeypatch.setattr(module, "alive", lambda: before)
        (words,) = until_said(watch, 1)
        assert words.startswith(f"warning: {node} could not be looked at (")
        with pytest.raises(InputError, match="could not be looked at"):  # at a start it does
            preflight(study)
        monkeypatch.setattr(watching, "alive", alive)
        assert until_said(watch, 1)[0].startswith(f"{node} is gone; its runs go on")
        assert list(study.folder.iterdir()) == []

    def test_a_machine_that_comes_and_will_not_do_ends_the_study(
        self, study: Study, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
        data = tmp_path / "images"
        watch = MachineMonitor(replace(study, run=replace(study.run, data=str(data))))
        third = cluster.add_node(num_cpus=1)
        with pytest.raises(InputError, match=str(data)):
            until_said(watch, 1)
        cluster.remove_node(third)


def until_said(watch: MachineMonitor, count: int) -> list[str]:
    said: list[str] = []
    for _ in range(600):
        said += watch.tick()
        if len(said) >= count:
            return said
        time.sleep(0.1)
    raise AssertionError(f"only {said}")

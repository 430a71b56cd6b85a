"""What fits on a cluster, counted by hand; machines that join and are lost."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.raytune import machines
from kdtune.raytune.machines import (
    Capacity,
    Node,
    TrialResources,
    check_local_resources,
    count_trials,
    find_changes,
    potential_workers,
    trial_resources,
)

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
        ({"gpus_per_trial": 2.0}, [{"CPU": 8, "GPU": 4}], 4, 2),
        ({"gpus_per_trial": 0.25}, [{"CPU": 2, "GPU": 1}], 1, 0.25),  # more trials than cores
        ({}, [{"CPU": 4}, {"CPU": 48, "GPU": 8}, {"CPU": 4, "GPU": 1}], 4, 1),  # the least share
        ({"cpus_per_trial": 3}, [{"CPU": 8, "GPU": 2}], 3, 1),
        ({"gpus": 0}, [{"CPU": 8, "GPU": 2}], 1, 0),
        ({"device": "cpu"}, [{"CPU": 8, "GPU": 2}], 1, 0),
        ({"device": "mps"}, [{"CPU": 8, "GPU": 1}], 8, 1),  # one trial at a time
    ],
)
def test_cores_are_divided_over_the_trials_of_a_machine_with_gpus(
    change: dict[str, Any], machines: list[dict[str, float]], cpu: int, gpu: float
) -> None:
    assert trial_resources(replace(Study(), **change), machines) == TrialResources(cpu, gpu)


def test_the_largest_machines_come_first_up_to_both_limits() -> None:
    large, small = {"CPU": 48, "GPU": 8}, {"CPU": 4, "GPU": 1}
    assert potential_workers(FILE) == [large, small, small]
    assert potential_workers(None) == []


def test_a_restarted_machine_was_lost_and_joined() -> None:
    first, second, again = (Node(i, "10.0.0.1 (h1)", {}) for i in ("a", "b", "c"))
    assert find_changes([first, second], [second, again]) == ([again], [first])


@pytest.fixture
def one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one machine; `alive_nodes` of a real one: test_preflight.py."""
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

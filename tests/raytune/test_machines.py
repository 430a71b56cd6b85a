"""What fits on a cluster: hand-counted; machines that come and go."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.raytune import machines as nodes
from kdtune.raytune.machines import Capacity, Node, changed, fit, promised

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
    assert fit({"CPU": 8, "GPU": 4}, cpus, gpus) == trials


def test_the_best_machines_come_first_up_to_both_limits() -> None:
    large, small = {"CPU": 48, "GPU": 8}, {"CPU": 4, "GPU": 1}
    assert promised(FILE) == [large, small, small]
    assert promised(None) == []


def test_a_machine_that_was_restarted_came_and_went() -> None:
    first, second, again = (Node(i, "10.0.0.1 (h1)", {}) for i in ("a", "b", "c"))
    assert changed([first, second], [second, again]) == ([again], [first])


@pytest.fixture(scope="module")
def one_node() -> Iterator[None]:
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def room(study: Study) -> Capacity:
    said: list[str] = []
    made = Capacity(study, said.append)
    assert said == []
    return made


@pytest.mark.usefixtures("one_node")
def test_room_is_that_of_now_and_of_what_may_come(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "BOOTSTRAP", tmp_path / "file.yaml")
    study = Study(name="a", run=tiny)
    assert room(study).trials() == 2
    assert room(study).needs == {"cpu": 1, "gpu": 1.0}
    assert room(replace(study, gpus=1)).trials() == 1
    assert room(replace(study, gpus=0)).needs == {"cpu": 1, "gpu": 0}
    with pytest.raises(InputError, match="has 2 and may have at most 2; --gpus 2"):
        room(replace(study, gpus=3))
    with pytest.raises(InputError, match="3 CPU cores and 1 GPUs, but no machine"):
        room(replace(study, cpus_per_trial=3))

    (tmp_path / "file.yaml").write_text(yaml.safe_dump(FILE))
    assert room(study).trials() == 2  # not asked for a cluster: the file is another's
    study = replace(study, address="auto")
    assert room(study).trials() == 2 + 8 + 1 + 1
    assert room(replace(study, gpus=6)).trials() == 6
    assert room(replace(study, cpus_per_trial=3)).trials() == 8 + 1 + 1
    with pytest.raises(InputError, match="has 2 and may have at most 12; --gpus 12"):
        room(replace(study, gpus=13))


@pytest.mark.usefixtures("one_node")
def test_machines_that_the_file_promises_are_waited_for_but_not_for_ever(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: dict[str, Any] = {"all": {"resources": {}, "min_workers": 2, "max_workers": 2}}
    file = {"head_node_type": "all", "max_workers": 2, "available_node_types": kinds}
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(file))
    monkeypatch.setattr(nodes, "BOOTSTRAP", tmp_path / "file.yaml")
    monkeypatch.setattr(nodes, "JOIN_SECONDS", 0.5)
    said: list[str] = []
    made = Capacity(Study(name="a", run=tiny, address="auto"), said.append)
    assert said == ["1 of 3 machines have joined, waiting for the others"]
    assert made.trials() == 2

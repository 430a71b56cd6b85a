"""Passed objects: copies as bytes, Ray's object store, and where a study must not have them."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import factories
import pytest
import ray
import torch
from ray import cloudpickle
from torch import nn

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import load_data
from kdtune.raytune.objects import freeze, freeze_objects, share_objects, thaw
from kdtune.training.run import make_student
from kdtune.training.teachers import initial_teacher

IMAGES = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
LABELS = torch.arange(40) % 10


def study_of(teacher: Any, student: Any, **values: Any) -> Study:
    data = {"train": (IMAGES, LABELS), "val": (IMAGES[:20].numpy(), LABELS[:20].tolist())}
    return Study(run=Run(data=data, teacher=teacher, student=student), **values)


def test_a_copy_is_the_module_bit_for_bit() -> None:
    net = factories.dropout_student(10).to(memory_format=torch.channels_last)
    net.tied = nn.Parameter(net[-1].weight.data)  # two parameters of one memory
    net.low = nn.Parameter(torch.randn(3).bfloat16(), requires_grad=False)
    net.register_buffer("part", torch.arange(6)[2:4])
    net.register_buffer("none", torch.empty(0, 2))
    net[1].eval()
    copy = thaw(freeze(net))
    own = net.state_dict()
    assert copy.state_dict().keys() == own.keys()
    for name, value in copy.state_dict().items():
        assert torch.equal(value, own[name]) and value.dtype == own[name].dtype
        assert value.stride() == own[name].stride()
        assert value.data_ptr() != own[name].data_ptr() or not value.numel()
    assert copy.tied.data_ptr() == copy[-1].weight.data_ptr()
    assert not copy.low.requires_grad and isinstance(copy.low, nn.Parameter)
    assert copy.training and not copy[1].training
    assert copy.preprocessing == net.preprocessing


def closing_over(value: Any) -> Callable[[int], nn.Module]:
    return lambda classes: value if isinstance(value, nn.Module) else nn.Linear(2, classes)


def test_copies_are_new_each_time_and_as_the_objects_were_at_the_beginning() -> None:
    net = factories.tiny_student(10)
    study = freeze_objects(study_of(closing_over(net), closing_over(net)))
    first, second = (make_student(study.run, load_data(study.run)) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    first.freeze()
    with torch.no_grad():
        first.head.weight.zero_()
    assert second.head.weight.requires_grad and second.head.weight.any()
    assert all(p.requires_grad and p.any() for p in net.parameters() if p.dim() > 1)
    net = factories.tiny_teacher(10)
    study = freeze_objects(study_of(net, factories.tiny_student))
    before = initial_teacher(study.run, load_data(study.run)).fingerprint()
    with torch.no_grad():
        next(net.parameters()).add_(1)
    assert initial_teacher(study.run, load_data(study.run)).fingerprint() == before
    again = freeze_objects(replace(study, run=replace(study.run, teacher=net)))
    assert initial_teacher(again.run, load_data(again.run)).fingerprint() != before


NOTEBOOK = """
class Net(nn.Linear):
    def forward(self, x):
        return SCALE * super().forward(x)

def make(classes):
    return Net(784, classes)
"""


def test_copies_leave_the_classes_of_the_user_alone() -> None:
    """A notebook's class must go on reading the notebook's values."""
    scope: dict[str, Any] = {"__name__": "__main__", "nn": nn, "SCALE": 1.0}
    exec(NOTEBOOK, scope)
    forward, ones = scope["Net"].forward, torch.ones(1, 784)
    for value in (scope["make"], scope["Net"](784, 10)):
        content = freeze(value)
        scope["SCALE"] = 2.0
        copies = [thaw(content) for _ in range(2)]
        net, other = (copy if isinstance(copy, nn.Module) else copy(10) for copy in copies)
        assert type(net) is not type(other) and type(net).__name__ == "Net"
        want = nn.functional.linear(ones, net.weight, net.bias)
        assert torch.equal(net(ones), want)  # as it was: 1.0
        scope["SCALE"] = 1.0
    assert scope["Net"].forward is forward


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_what_cannot_be_copied_is_refused_in_one_sentence(role: str) -> None:
    net = factories.tiny_teacher(10)
    net.lock = threading.Lock()
    for value in (net, closing_over(threading.Lock())):
        study = Study(run=Run(**{role: value}))
        with pytest.raises(InputError, match=rf"{role}=\w+ cannot be copied for Ray's.*lock") as e:
            freeze_objects(study)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("values", "ray_init", "words"),
    [
        ({"address": "10.0.0.1:6379"}, None, "--address 10.0.0.1:6379"),
        ({}, {"address": "auto"}, "--address auto"),
        ({"out": "s3://bucket/runs"}, None, "--out s3://bucket/runs"),
    ],
)
def test_other_machines_need_names(values: Any, ray_init: Any, words: str) -> None:
    study = study_of(factories.tiny_teacher(10), factories.tiny_student, **values)
    with pytest.raises(InputError, match=words) as refused:
        freeze_objects(study, ray_init)
    assert str(refused.value).endswith('and give its name: data="my_module:my_function"')
    only_model = replace(study, run=replace(study.run, data="fashion"))
    with pytest.raises(InputError, match=r"teacher=\w+; .*teacher=\"my_module:my_function\""):
        freeze_objects(only_model, ray_init)


@pytest.mark.slow  # without the store: studies/test_kinds_of_studies.py
@pytest.mark.usefixtures("shared_ray")
def test_workers_have_the_same_objects_once() -> None:
    big = nn.Sequential(nn.Flatten(), nn.Linear(64, 5000), nn.Linear(5000, 10))  # 1.5 MB
    study = freeze_objects(study_of(big, closing_over(nn.Linear(8, 10))))
    fingerprints, look = worker_functions()
    want = fingerprints(study)
    shared = share_objects(study)
    assert fingerprints(shared) == want
    assert len(cloudpickle.dumps(shared)) < 10_000
    in_worker, is_same, again = ray.get(ray.remote(num_cpus=1)(look).remote(shared))
    assert in_worker == want and is_same
    assert fingerprints(again) == want  # also back in the driver


def worker_functions() -> Any:
    """Functions that a worker has by value, since it cannot import this file."""

    def fingerprints(study: Study) -> list[str]:
        data, run = load_data(study.run), study.run
        models = make_student(run, load_data(run)), initial_teacher(run, load_data(run))
        return [data.fingerprint, *(model.fingerprint() for model in models)]

    def look(study: Study) -> tuple[list[str], bool, Study]:
        is_same = load_data(study.run) is load_data(replace(study.run, repeat=3))
        return fingerprints(study), is_same, study

    return fingerprints, look

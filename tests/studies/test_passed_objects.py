"""A study of objects equals, number for number, that of the factories with the same names."""

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from own_data import clothes
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import kdtune
from kdtune.config.objects import Objects
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.raytune.objects import freeze_objects
from kdtune.streams.views import Resources
from kdtune.training.recipe import resolve_study
from kdtune.training.run import check_study, distill

IMAGES = clothes()


def objects(width: int = 2) -> dict[str, Any]:
    """The objects of a study: as equal as another session can make them."""

    def make_student(num_classes: int) -> nn.Module:
        return factories.small_cnn(num_classes, width=width)

    torch.manual_seed(5)
    teacher = factories.tiny_teacher(10)
    data = {**IMAGES, "train": TensorDataset(*IMAGES["train"])}
    data["val"] = tuple(part.numpy() for part in IMAGES["val"])
    return {"data": data, "teacher": teacher, "student": make_student, "augment": "crop"}


@pytest.mark.usefixtures("in_this_process", "without_texts")
def test_objects_equal_factories(study: Study, tmp_path: Path) -> None:
    weights = {"teacher_epochs": None, "teacher_weights": "default", "student_weights": "default"}
    run = replace(study.run, **weights)  # type: ignore[arg-type]
    own = objects()
    net, before = own["teacher"].train(), [p.clone() for p in own["teacher"].state_dict().values()]
    study = replace(study, run=replace(run, **own), space={"alpha": (0.2, 1.0)}, repeats=1)
    results = kdtune.run(study)

    torch.save(net.state_dict(), tmp_path / "teacher.pt")
    named = replace(run, teacher_epochs=0, teacher_weights=str(tmp_path / "teacher.pt"))
    named = replace(named, student_weights="none")
    for alpha in (0.2, 1.0):
        *_, last = distill(replace(named, alpha=alpha), tmp_path, Resources())
        trial = results.trials.set_index("config/alpha").loc[alpha]
        for split in ("val", "test"):
            for metric in ("acc", "ce", "loss", "logit_diff", "teacher_acc"):
                assert trial[f"{split}/{metric}@last"] == last.splits[split][metric], metric

    after = net.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    record = json.loads((study.folder / "study.json").read_text())
    assert record["run"]["student"] == "object:make_student"
    assert (study.folder / "thumbnails").exists()  # the report's images, from the data passed
    assert len(list((study.folder / "students").glob("*.safetensors"))) == 1
    with pytest.raises(InputError, match=r"load_student\(..., module=make_student\)"):
        kdtune.load_student(study.folder)
    trained = kdtune.load_student(study.folder, module=own["student"])
    saved = load_file(study.folder / "students" / "repeat-00.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in trained.net.state_dict().items() if k in saved)

    # a complete study is compared with equal, with other and with no objects
    names = replace(study.run, objects=Objects())  # as in another session
    again = replace(study, run=replace(names, **objects()))
    assert len(kdtune.run(again).trials) == 2
    other = replace(study, run=replace(names, **objects(width=3)))
    with pytest.raises(InputError, match=r"student object:make_student.* has changed since"):
        kdtune.run(other)
    read = kdtune.load(study.folder).study
    assert len(kdtune.run(read).trials) == 2  # nothing is left to train
    with pytest.raises(InputError, match=r"kdtune.Run\(data=data, teacher=\w+, student=make_stu"):
        kdtune.run(replace(read, repeats=3))


DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_example_passes_all_checks() -> None:
    pytest.importorskip("sklearn")
    _, _, rest = DOCS.read_text("utf-8").partition("    # digits.py\n")
    code = textwrap.dedent(rest.partition("\n- **A function")[0])
    scope: dict[str, Any] = {"__name__": "example"}
    exec(code, scope)
    study = freeze_objects(scope["study"])
    assert study.run.student == "object:make_student" and study.run.data == "object:data"
    made_of = check_study(resolve_study(study, StudyData(study.run)), load_data(study.run))
    assert set(made_of) == {"data", "teacher", "student"}

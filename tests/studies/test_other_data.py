"""A study of text equals the plain loop of reference.py; settings of images; --extra."""

import json
from dataclasses import replace
from pathlib import Path

import own_data
import pandas as pd
import pytest
import small_students
import torch
from reference import plain_loop
from safetensors.torch import load_file

import kdtune
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.reporting.sections import provenance, study_facts
from kdtune.results.comparison import Criterion
from kdtune.training.recipe import resolve

TEXT = replace(
    small_students.TEXT,
    teacher_trainable="head",  # a frozen encoder
    **{"teacher_epochs": 2, "alpha": 0.3, "lr": 0.02, "schedule": "cosine", "epochs": 3},
)


@pytest.mark.usefixtures("in_this_process", "without_texts")
def test_a_study_of_text_equals_the_plain_loop(study: Study, tmp_path: Path) -> None:
    space = {"alpha": (0.3,), "trainable": ("all", "head")}
    own = {"space": space, "plain_share": 0.0, "keep": "all", "repeats": 1}
    study = replace(study, run=replace(TEXT, allow_random_backbone=True), **own)
    results = kdtune.run(study)
    assert list(results.trials.status) == ["completed"] * 2
    assert results.study.run.augment == "none"
    arrays, folder = own_data.text(), study.folder
    teacher = own_data.encoder(4).eval()
    teacher.load_state_dict(load_file(folder / "teacher" / "teacher.safetensors"))
    predictions = pd.read_parquet(folder / "predictions.parquet").set_index(["trial_id", "split"])
    for one in results.study.runs():
        *_, (plain, _) = plain_loop(one, folder / "teacher")
        student = plain.net.eval()
        ours = load_file(folder / "trials" / one.trial_id / "student.safetensors")
        for name, value in student.state_dict().items():
            assert (ours[name] - value).abs().max() <= 1e-6 * value.abs().max().clamp(min=1), name
        for split in ("val", "test"):
            x, own = torch.tensor(arrays[split][0]), predictions.loc[(one.trial_id, split)]
            assert [sorted({*arrays[split][1]})[k] for k in own.label] == arrays[split][1].tolist()
            assert own.predicted.tolist() == student(x).argmax(1).tolist()
            assert own.teacher.tolist() == teacher(x).argmax(1).tolist() and own.file.isna().all()
    # features of the frozen backbone are cached, the data themselves are not
    cached = (tmp_path / "cache").rglob("*.safetensors")
    assert {path.parents[1].name for path in cached} == {"features", "logits"}
    facts = provenance(results)["versions"]
    assert facts["examples in train"].startswith(str(len(arrays["train"][0])))


def test_settings_of_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"of shape .12., and got --augment crop; leave it out"):
        resolve(replace(TEXT, augment="crop"))
    with pytest.raises(InputError, match=r"and got --student-mean 0.5 0.4; leave it out"):
        resolve(replace(TEXT, student_mean=(0.5, 0.4)))
    assert resolve(replace(TEXT, augment="none")) == resolve(TEXT)


@pytest.mark.slow  # its numbers: tests/streams/test_extra.py
@pytest.mark.usefixtures("in_this_process", "without_texts")
def test_a_study_with_images_without_labels(taught: Study) -> None:
    run = replace(taught.run, extra="rest", extra_share=0.5, epochs=1)
    results = kdtune.run(replace(taught, run=run, space={"alpha": (0.2, 1.0)}, repeats=1))
    share = results.trials.set_index("config/alpha")["config/extra_share"]
    assert share[0.2] == 0.5 and share.isna()[1.0]  # plain training has none
    counts = results.epochs.groupby("split").n_examples.unique()
    assert counts["train"].tolist() == [run.train_images]
    study = json.loads((taught.folder / "study.json").read_text())
    assert set(study["fingerprints"]) == {"data", "extra images", "teacher", "student"}
    assert "images without labels (rest)" in study_facts(results, Criterion())["data"]

"""Studies with --teachers or --folds under a real Ray: who learns from whom, and on which images.

The reference is the plain loop, which is given the teacher and the split of each repeat.
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from reference import plain_loop
from safetensors.torch import load_file

import kdtune
from kdtune.config.records import read_teacher_accuracy
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import load_data
from kdtune.models.weights import RECORD, WEIGHTS
from kdtune.results.words import holds_for
from kdtune.streams.views import Resources
from kdtune.training.recipe import resolve
from kdtune.training.teachers import fine_tune

pytestmark = pytest.mark.usefixtures("in_this_process", "without_texts")


def check_trial(results: kdtune.Results, run: Run, teacher: Path) -> None:
    """Compare a trial of a study with the plain loop, which knows neither stream nor cache."""
    *_, (_, means) = plain_loop(resolve(run), teacher)
    row = results.trials.set_index("trial_id").loc[run.trial_id]
    for split in ("val", "test"):
        for name in ("loss", "acc", "teacher_acc", "logit_diff"):
            want = pytest.approx(means[split][name], rel=1e-5)
            assert row[f"{split}/{name}@last"] == want, (run.repeat, split, name)


def test_each_repeat_has_its_fold_and_a_teacher_that_has_not_seen_its_val(study: Study) -> None:
    run = replace(study.run, folds=2, epochs=1)
    study = replace(study, run=run, space={"alpha": (0.0,)}, plain_share=0, repeats=1)
    assert len(kdtune.run(study).trials) == 1
    first = {file: file.read_bytes() for file in study.folder.glob(f"teacher/**/{WEIGHTS}")}
    assert len(first) == 1
    results = kdtune.run(replace(study, repeats=2))  # a further repeat needs a further teacher
    assert list(results.trials.status) == ["completed"] * 2
    assert all(file.read_bytes() == content for file, content in first.items())

    frame = pd.read_parquet(study.folder / "predictions.parquet")
    vals = []
    for repeat in range(2):
        own = replace(run, repeat=repeat, alpha=0.0)
        data = load_data(own)
        folder = study.folder / "teacher" / ("" if repeat == 0 else f"number-{repeat}")
        record = json.loads((folder / RECORD).read_text())
        assert record["data"] == data.fingerprint and record["run"]["repeat"] == -1 - repeat
        check_trial(results, own, folder)
        shown = frame[(frame.trial_id == own.trial_id) & (frame.split == "val")]
        assert shown.example.tolist() == data.numbers("val").tolist()
        vals += shown.example.tolist()
    assert sorted(vals) == list(range(200 + 48))  # each image of the pool is in val once
    accuracies = [one.name for one in read_teacher_accuracy(study.folder)]
    assert [name.rpartition(", ")[2] for name in accuracies] == ["repeat 0", "repeat 1"]
    with pytest.raises(InputError, match="folds: 2 → 4"):
        kdtune.run(replace(study, run=replace(run, folds=4)))


def test_repeats_use_the_teachers_in_turn(study: Study, tmp_path: Path) -> None:
    run = replace(study.run, teachers=2, epochs=1)
    study = replace(study, run=run, space={"alpha": (0.0,)}, plain_share=0, repeats=3)
    results = kdtune.run(study)
    root = study.folder / "teacher"
    weights = [load_file(root / folder / WEIGHTS) for folder in ("", "number-1")]
    # number 0 is that of a study with one teacher
    list(fine_tune(replace(run, teachers=1), tmp_path / "one", Resources()))
    usual = load_file(tmp_path / "one" / WEIGHTS)
    assert all(torch.equal(weights[0][name], values) for name, values in usual.items())
    assert not all(torch.equal(weights[1][name], values) for name, values in usual.items())
    for repeat, folder in ((1, "number-1"), (2, "")):
        check_trial(results, replace(run, repeat=repeat, alpha=0.0), root / folder)
    (root / "number-1" / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"the teacher in .*number-1 is damaged"):
        kdtune.run(replace(study, repeats=4))


def test_each_size_and_repeat_has_a_teacher_of_the_images_of_its_students(study: Study) -> None:
    run = replace(study.run, teacher_train_images="same", epochs=1, budget_per="epochs")
    space = {"train_images": (60, 90), "alpha": (0.0,)}
    results = kdtune.run(replace(study, run=run, space=space, plain_share=0, repeats=2))
    subsets = set()
    for size, repeat in itertools.product((60, 90), (0, 1)):
        one = results.study.run.sample(train_images=size, alpha=0.0, repeat=repeat)
        folder = (
            study.folder / "teacher" / (f"number-1-images-{size}" if repeat else f"images-{size}")
        )
        check_trial(results, one, folder)
        recorded, data = Run(**json.loads((folder / RECORD).read_text())["run"]), load_data(one)
        assert torch.equal(data.subset(recorded), data.subset(one))
        assert recorded.repeat == -1 - repeat  # another order and other views than its students'
        subsets.add(tuple(data.subset(one).tolist()))
    assert len(subsets) == 4
    names = [one.name for one in read_teacher_accuracy(study.folder)]
    assert names[0].endswith("60 images), repeat 0") and len(set(names)) == 4
    drawn = (
        "(each draws up to 90 of the 200 training images, from which its teacher learns, too) and"
    )
    assert drawn in holds_for(results.design, "val", new_images=True)
    by_steps = replace(one, train_images=60, budget_per="steps")  # as many as 90 images take
    epochs = list(fine_tune(by_steps, study.folder.parent / "steps", Resources()))
    assert {epoch.splits["train"]["n_examples"] for epoch in epochs} == {90}

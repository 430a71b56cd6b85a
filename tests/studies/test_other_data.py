"""A study of text equals a plain loop, which shares no code with it but the seeds.

The loop is what a user of PyTorch writes for one run: no views, no streams, no cache.
"""

import json
from dataclasses import replace
from pathlib import Path

import own_data
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import kdtune
from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import load_data
from kdtune.reporting.sections import provenance, study_facts
from kdtune.results.comparison import Criterion
from kdtune.training.recipe import resolve

TEXT = Run(
    data="own_data:text",
    teacher="own_data:encoder",
    teacher_weights="none",
    teacher_trainable="head",  # a frozen encoder
    teacher_epochs=2,
    student="own_data:small_reader",
    student_weights="none",
    optimizer="adamw",
    lr=0.02,
    schedule="cosine",
    epochs=3,
    batch_size=16,
)
Arrays = dict[str, tuple[Tensor, Tensor]]


def of_text() -> Arrays:
    """Tokens and classes, straight from the function."""
    names = ["anger", "fear", "joy", "trust"]
    made = own_data.text().items()
    return {k: (torch.tensor(x), torch.tensor([names.index(w) for w in y])) for k, (x, y) in made}


def plain_loop(run: Run, arrays: Arrays, student: nn.Module, teacher: nn.Module) -> None:
    """Train the student."""
    x, y = arrays["train"]
    for name, parameter in student.named_parameters():
        last = name.rpartition(".")[0] == list(dict(student.named_modules()))[-1]
        parameter.requires_grad_(run.trainable == "all" or last)
    learned = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=run.lr, weight_decay=run.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=run.epochs)
    for epoch in range(run.epochs):
        seed = derive_seed("order", run.seed, run.repeat, epoch)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        student.train()
        for step, index in enumerate(order.split(run.batch_size)):
            torch.manual_seed(derive_seed("step", run.seed, run.repeat, epoch, step))
            logits, t = student(x[index]), run.temperature
            with torch.no_grad():
                target = (teacher(x[index]) / t).log_softmax(1)
            kl = F.kl_div(
                (logits / t).log_softmax(1), target, reduction="batchmean", log_target=True
            )
            loss = run.alpha * F.cross_entropy(logits, y[index]) + (1 - run.alpha) * t**2 * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    student.eval()


@pytest.mark.usefixtures("in_this_process", "without_texts")
def test_a_study_of_text_equals_the_plain_loop(tmp_path: Path) -> None:
    run = replace(TEXT, allow_random_backbone=True)
    study = Study(
        name="other",
        out=str(tmp_path / "runs"),
        cache=str(tmp_path / "cache"),
        run=run,
        space={"alpha": (0.3,), "trainable": ("all", "head")},
        plain_share=0.0,
        keep="all",
        repeats=1,
    )
    results = kdtune.run(study)
    assert list(results.trials.status) == ["completed"] * 2
    assert results.study.run.augment == "none"
    arrays, folder = of_text(), study.folder
    classes = len(load_data(run).classes)
    teacher = getattr(own_data, run.teacher.partition(":")[2])(classes).eval()
    teacher.load_state_dict(load_file(folder / "teacher" / "teacher.safetensors"))
    predictions = pd.read_parquet(folder / "predictions.parquet").set_index(["trial_id", "split"])
    for one in study.runs():
        torch.manual_seed(derive_seed("init", run.seed, 0))
        student = getattr(own_data, run.student.partition(":")[2])(classes)
        plain_loop(one, arrays, student, teacher)
        ours = load_file(folder / "trials" / one.trial_id / "student.safetensors")
        for name, value in student.state_dict().items():
            assert (ours[name] - value).abs().max() <= 1e-6 * value.abs().max().clamp(min=1), name
        for split in ("val", "test"):
            x, y = arrays[split]
            own = predictions.loc[(one.trial_id, split)]
            assert own.label.tolist() == y.tolist() and own.file.isna().all()
            assert own.predicted.tolist() == student(x).argmax(1).tolist()
            assert own.teacher.tolist() == teacher(x).argmax(1).tolist()
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

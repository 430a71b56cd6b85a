"""Runs and studies: checks, equivalent configurations, ids, JSON.

References: the bounds one by one, the rules of `canonical` one by one, a seed computed with
sha256sum, and laws.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtune.config.run import DISTILLATION, HYPERPARAMETERS, SCHEMA, Run, derive_seed, migrate
from kdtune.config.study import Study, check_new_study, flags_without_effect
from kdtune.config.task import Range
from kdtune.config.text import InputError, check_packages

BAD = [
    (Run, "alpha", 1.5),
    (Run, "lr", math.inf),
    *((Run, "loss", value) for value in ("", "KL", "mine:", "mine:a:b", "kl+", "kl+mse+dkd")),
    (Run, "lr_milestones", (0.75, 0.5)),
    *((Study, "name", value) for value in ("../x", ".hidden", "-x", "a b", "x\n", "a" * 65)),
    (Study, "gpus_per_trial", 1.5),
    (Study, "stop_early", 1),
    *((Study, "budget", value) for value in ("400", "-3h", "3 h", "h", "0h", "9" * 40 + "runs")),
    (Study, "out", "s3:/bucket/runs"),
    (Study, "cache", "s3://bucket/cache"),
    (Study, "warm_start", "s3://bucket/runs/other"),
    (Study, "run", {"alpha": 1}),
    (Study, "space", ["alpha"]),
]
OTHER = {
    **{"loss": "mse", "alpha": 0.25, "temperature": 2, "optimizer": "adamw", "lr": 0.5},
    **{"momentum": 0, "weight_decay": 0.1, "schedule": "cosine", "lr_step_size": 3},
    **{"lr_gamma": 0.5, "epochs": 3, "batch_size": 8, "trainable": "head", "batch_norm": "eval"},
    **{"dkd_alpha": 2, "dkd_beta": 2, "dist_beta": 1, "dist_gamma": 1, "nkd_gamma": 1},
    **{"loss_weight": 2, "teacher_temperature": 2, "augment": "trivial", "label_smoothing": 0.1},
    **{"mixup": 0.2, "cutmix": 1, "warmup_epochs": 1, "clip_norm": 1, "ema": 0.9},
    **{"class_weights": "balanced", "sampler": "balanced"},
    "extra_share": 0.5,
    **{"teacher": "my:teacher", "teacher_epochs": 7, "student": "my:student", "train_images": 7},
}

OWN = {"dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma", "nkd_gamma", "loss_weight"}
"""Weights that only the loss that they are named after, or one of the user's own, takes."""
TEACHER = {"teacher", "teacher_epochs", "extra_share"}
"""What has no effect without a teacher, besides loss and temperature."""

positive = st.floats(1e-9, 1e3)
words = st.text(  # of at most 240 bytes: a file may have a name of 255
    st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"], exclude_characters="~:"),
    min_size=1,
    max_size=60,
)
counts = st.integers(1, 1000)
valid_runs = st.builds(
    Run,
    data=st.sampled_from(["fashion", "/data/photos", "/data/Ärzte/bees"]),
    train_images=st.none() | counts,
    teacher=words,
    teacher_weights=words,
    teacher_epochs=st.integers(0, 100),
    loss=st.sampled_from(["mse", "kl", "mine:objective", "dkd+mse", "kl+mine:objective"]),
    dkd_alpha=st.floats(0, 10) | counts,
    alpha=st.sampled_from([0, 1]) | st.floats(0, 1),
    temperature=st.floats(1e-4, 1e3) | counts,
    optimizer=st.sampled_from(["sgd", "adamw"]),
    lr=positive | counts,
    schedule=st.sampled_from(["constant", "step", "cosine", "onecycle"]),
    seed=st.integers(-(2**40), 2**40),
    repeat=st.integers(-1, 99),
)


@pytest.mark.parametrize(("owner", "name", "value"), BAD)
def test_a_value_that_is_refused(owner: Any, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name} must .*{re.escape(f'{name}={value!r}')}$"):
        owner(**{name: value})


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ({}, [0, 0, 0, 0, 0]),
        ({"teachers": 3}, [0, 1, 2, 0, 1]),
        ({"folds": 3}, [0, 1, 2, 3, 4]),
        ({"folds": 3, "teacher_epochs": 0}, [0, 0, 0, 0, 0]),
    ],
)
def test_number_of_the_teacher(values: dict[str, Any], numbers: list[int]) -> None:
    runs = [Run(repeat=repeat, **values) for repeat in range(5)]
    assert [run.teacher_number for run in runs] == numbers
    for run in runs:  # the run that trains a teacher has its number and its split
        own = replace(run, repeat=run.teacher_repeat)
        assert (own.teacher_number, own.teacher_repeat) == (run.teacher_number, run.teacher_repeat)
        if run.folds and run.teacher_epochs != 0:
            assert own.split_repeat == run.repeat
    assert len({run.config_id for run in runs}) == 1


@pytest.mark.parametrize(
    ("changes", "dead"),
    [
        ({}, OWN),
        ({"alpha": 0}, {"label_smoothing", "class_weights"} | OWN),
        ({"loss": "mse"}, {"temperature"} | OWN),
        ({"alpha": 1}, {"loss", "temperature"} | OWN | TEACHER),
        ({"loss": "mine:objective"}, {"loss_weight"}),
        ({"loss": "kl+mine:objective"}, set()),
        ({"loss": "dkd"}, OWN - {"dkd_alpha", "dkd_beta"}),
        ({"loss": "nkd"}, OWN - {"nkd_gamma"}),
        ({"loss": "kl+dist"}, OWN - {"dist_beta", "dist_gamma", "loss_weight"}),
        ({"optimizer": "adamw"}, {"momentum"} | OWN),
        ({"schedule": "cosine"}, {"lr_step_size", "lr_gamma"} | OWN),
        ({"schedule": "multistep"}, {"lr_step_size"} | OWN),
        ({"schedule": "onecycle"}, {"lr_step_size", "lr_gamma", "warmup_epochs"} | OWN),
    ],
)
def test_canonical_nulls_what_has_no_effect(changes: dict[str, Any], dead: set[str]) -> None:
    config = {name: Run().value(name) for name in HYPERPARAMETERS} | changes
    canonical = DISTILLATION.canonical(config)
    assert canonical == {n: None if n in dead else v for n, v in config.items()}
    run = replace(Run(extra="photos"), **changes)
    assert run.config == canonical
    for name in dead - changes.keys():  # equivalent: they differ only in what has no effect
        assert replace(run, **{name: OTHER[name]}).config_id == run.config_id


def test_config_id_names_every_hyperparameter_and_nothing_else() -> None:
    # an own loss takes what any objective takes, and a sum has a weight
    base = Run(loss="kl+mine:objective", teacher_epochs=5, augment="crop")
    run = Study(run=base).run  # the models of the study are neutral, others are not
    run = replace(run, extra="photos")
    for name in HYPERPARAMETERS:
        assert replace(run, **{name: OTHER[name]}).config_id != run.config_id, name
    other = Run(data="/elsewhere", extra="x", repeat=3, seed=7, teacher="x:y", train_images=5)
    assert other.config_id == Run().config_id
    assert other.trial_id == f"{other.config_id}-r03"


def test_models_are_searched_and_ids_of_the_first_ones_stay() -> None:
    """Plain training is one configuration per student, whatever the teachers."""
    one = Study(run=Run(student="a", teacher="x", teacher_epochs=3), space={"alpha": (0.5,)})
    space = {"student": ("b", "a"), "teacher": ("x", "y"), "alpha": (0.5,)}
    both = Study(run=one.run, space=space)
    kinds = [(r.student, r.teacher, r.alpha) for r in both.runs()]
    plain = [(s, "x", 1) for s in "ba"]
    assert sorted(kinds) == sorted([(s, t, 0.5) for s in "ba" for t in "xy"] + plain)
    assert both.covers(one) and not one.covers(both)
    assert {r.config_id for r in one.runs()} < {r.config_id for r in both.runs()}
    assert len({r.config_id for r in both.runs()}) == 6


def test_several_numbers_of_training_images_are_in_ids_and_one_is_not() -> None:
    """So ids of studies of one number stay, and each of several has its own baseline."""
    one = Study(run=Run(student="a", train_images=300), space={"alpha": (0.1, 0.5)})
    ids = {run.config_id for run in one.runs()}
    assert ids == {run.config_id for run in replace(one, run=Run(student="a")).runs()}
    several = replace(one, space={"train_images": (300, 100), **one.space})
    runs = several.runs()
    assert len({run.config_id for run in runs} | ids) == 9  # of 3, and of 3 of each number
    pairs = {(run.group, run.alpha) for run in runs}
    assert pairs == {(f"a, {n} images", alpha) for n in (100, 300) for alpha in (0.1, 0.5, 1)}
    assert several.searched == ["train_images", "alpha"]
    assert several.run.train_images == several.default.train_images == 300  # the largest
    assert not several.covers(one) and not one.covers(several)
    again = Study.from_json(several.to_json())
    assert again == several and [r.config_id for r in again.runs()] == [r.config_id for r in runs]
    assert [run.passes for run in runs[:4:3]] == [1, 3]  # as many steps
    assert {run.passes for run in replace(several, run=Run(budget_per="epochs")).runs()} == {1}
    alone = replace(several, space=one.space)
    assert alone.run.largest_train_images is None and alone.run.group == "a"


def test_weights_of_several_models() -> None:
    run = Run(student="a", student_weights=("a=none", "b=/w/b.pt"))
    assert run.weights_of("student") == "none"
    assert replace(run, student="b").weights_of("student") == "/w/b.pt"
    assert Run(student="a", student_weights="b=c.pt").weights_of("student") == "b=c.pt"  # a file
    study = Study(run=Run(student_weights="b=none"), space={"student": ["a", "b"]})
    assert [study.run.weights_of("student"), study.run.student_weights] == ["default", ("b=none",)]
    home = Run(student_weights=("a=none", "b=w.pt")).absolute().student_weights
    assert home == ("a=none", f"b={Path('w.pt').absolute()}")


@settings(deadline=None, max_examples=30)
@given(valid_runs)
def test_json_and_canonical_values_give_the_run_again(run: Run) -> None:
    study = Study(run=run, name="x", space={"lr": (0.1, 1), "schedule": ["step"]}, gpus=0)
    again = Study.from_json(study.to_json())
    assert again == study
    assert again.run.config_id == run.config_id
    assert [r.config_id for r in again.runs()] == [r.config_id for r in study.runs()]
    live = {name: value for name, value in run.config.items() if value is not None}
    assert replace(run, **live).config == run.config


def test_a_grid_has_no_duplicates_and_every_setting_at_alpha_1_unless_taken_out() -> None:
    study = Study(space={"alpha": (0.1, 0.5), "lr": (0.01, 0.1), "temperature": (1, 4)})
    values = [(run.alpha, run.lr, run.config["temperature"]) for run in study.runs()]
    distilled = [(a, lr, t) for a in (0.1, 0.5) for lr in (0.01, 0.1) for t in (1, 4)]
    assert values == [*distilled, (1, 0.01, None), (1, 0.1, None)]
    assert study.has_plain and study.searched == ["alpha", "lr", "temperature"]
    assert replace(study, run=Run(repeat=3)).runs() == study.runs()
    without = replace(study, plain_share=0)
    assert not without.has_plain and len(without.runs()) == 8
    fixed = Study(run=Run(alpha=0.3))  # one value of alpha is compared with the baseline, too
    assert [run.alpha for run in fixed.runs()] == [0.3, 1] and fixed.searched == ["alpha"]
    assert [run.alpha for run in Study(space={"alpha": (0.5, 0.5, 1.0)}).runs()] == [0.5, 1]
    only = Study(run=Run(alpha=1))
    assert [run.alpha for run in only.runs()] == [1] and only.searched == []


def test_derive_seed() -> None:
    # printf '["init", 0, 3]' | sha256sum: the first 16 digits, halved
    assert derive_seed("init", 0, 3) == 0x26DC0D4E395F000A >> 1 == 1400063848969371653
    parts = [(), ("a",), ("a", 1), ("a", "1"), (1, "a"), ("a", 1, 2), ("a", 12), ("b", 1)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)


def test_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    run = Run(data="photos", teacher_weights="t.pt", student_weights="~/s.safetensors")
    study = Study(run=run, out="runs", cache="~/c").absolute()
    paths = study.run.data, study.run.teacher_weights, study.out
    assert paths == tuple(str(tmp_path / name) for name in ("photos", "t.pt", "runs"))
    assert study.run.student_weights == "/home/ada/s.safetensors"
    assert (study.cache, study.folder) == ("/home/ada/c", tmp_path / "runs/photos")
    assert study.absolute() == study


FILE = Run(teacher="a/x.parquet", augment="none")
THOUSAND = tuple(i / 1000 for i in range(1, 1001))


def test_a_flag_that_changes_nothing_is_named() -> None:
    study = Study(space={"alpha": (0.5, 1.0)}, flags=("nkd_gamma", "momentum", "temperature"))
    words = "--nkd-gamma was given, but has no effect in any configuration"
    assert flags_without_effect(study) == [words]


TWO = {"student": ("resnet18", "resnet34")}
SIZES = {"train_images": (100, 300)}
SAME = Run(train_images=100, teacher_train_images="same")
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Run(student_weights=("none", "default")), "student_weights must be one value, or "),
    (lambda: Run(student_weights=("a=none", "a=x.pt")), "MODEL=WEIGHTS once for each of several"),
    (lambda: Study(run=Run(student_weights=("resnet43=none",)), space=TWO), "resnet43; did you"),
    (lambda: Study(space={"epochs": Range(0.5, 3)}, search="tpe"), "epochs must be a whole number"),
    (lambda: Study(space={"lr": Range(0.1, 2e6)}, search="tpe"), "lr must lie in (0, 1000000]"),
    (lambda: Study(space={"loss": Range(0, 1)}, search="tpe"), "loss must be text"),
    (lambda: check_packages("it", ["absent"], "x"), "it absent: pip install 'kdtune[x]'"),
    (lambda: Study(run=FILE, dump="copy.npz"), "dump must be left out with a teacher that"),
    (lambda: Run(groups="(p"), "groups must be a regular expression (missing ), unterminated"),
    (lambda: Study(run=Run(folds=5), policy="race"), "folds must be left out with "),
    (lambda: Study(run=SAME, policy="race"), "teacher_train_images must be left out with --policy"),
    (lambda: replace(SAME, teacher_epochs=0), "teacher_train_images must be left out with a teac"),
    (
        lambda: replace(SAME, teacher_train_images="sam"),
        "must be a whole number or one of same, but",
    ),
    (lambda: replace(SAME, teachers=2), "teachers must be 1 with --teacher-train-images same: "),
    (lambda: Study(space={"train_images": Range(10, 99)}, search="tpe"), "train_images must be a"),
    (
        lambda: Study(run=Run(trainable="head", batch_norm="train"), space=SIZES),
        "budget_per must be epochs with several --train-images, --trainable head and",
    ),
    (lambda: Study(device="cpu", gpus=2), "gpus must be 0 with --device cpu, but got gpus=2"),
    (lambda: Study(space={"temprature": (1.0,)}), "temprature cannot be searched; "),
    (lambda: Study(unless={"lr": {"alpha": 1.0}}), "unless must be left out without train="),
    (lambda: Study(metric="gap"), "recall:CLASS, precision:CLASS or module:function, but got gap"),
    (lambda: Study(metric="balanced"), "but got balanced; did you mean balanced_acc?"),
    (
        lambda: Study(metric="auc", mode="max"),
        "mode must be left out but with a metric of your own",
    ),
    (lambda: Study(tracker=None), "tracker must be a list of names, but got tracker=None"),
    (lambda: Study(train="a:b", unless=5), "unless must be a dict of dicts, but got unless=5"),
    (lambda: Study(metric="ce", until_decided=True, budget="9h"), "be acc with --repeats auto, "),
    (lambda: Study(space={"teacher": ("a/x.npz", "b/x.npz")}), "different names, but got a/x.npz"),
    (
        lambda: Study(space={"lr": THOUSAND, "alpha": THOUSAND}),  # counted without being made
        "a study must have at most 100000 configurations and 1000000 runs, but has 1000000 ",
    ),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_runs_and_studies_that_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)


TYPED = [
    (Study(run=Run(data="phtos")), "class, but phtos does not exist; did you mean photos?"),
    (Study(run=Run(extra="more", extra_share=0.5)), "--extra must be .* but more does not"),
    (Study(run=Run(teacher="y.npz", augment="none")), "of its outputs, but y.npz does not exist"),
    (Study(run=Run(student_weights="w.pt")), '--student-weights must be "default", .* but w.pt '),
    (Study(search="tpe", warm_start="old"), "--warm-start must be the folder of a study, but old"),
]


@pytest.mark.parametrize(("study", "words"), TYPED)
def test_what_a_new_study_names_must_exist(
    study: Study, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    check_new_study(Study(run=Run(data="photos"), space={"alpha": (0.5, 0.5, 1.0)}))
    with pytest.raises(InputError, match=words):
        check_new_study(study)
    study.folder.mkdir(parents=True)
    (study.folder / "study.json").touch()
    check_new_study(study)  # it has begun: its data may be elsewhere


LONG = {"epochs": Range(6, 20), "warmup_epochs": Range(0, 5)}
WARM = Run(epochs=5, warmup_epochs=5)


@pytest.mark.parametrize(
    ("run", "space", "is_allowed"),
    [
        (WARM, {}, False),
        (Run(epochs=5), {"epochs": (5, 20), "warmup_epochs": (0, 5)}, False),
        (Run(epochs=9), LONG | {"epochs": Range(5, 20)}, False),
        (WARM, {"schedule": ("onecycle", "cosine")}, False),
        (replace(WARM, warmup_epochs=4), {}, True),
        (WARM, {"epochs": (6, 20)}, True),  # none has the run's values
        (replace(WARM, schedule="onecycle"), {}, True),
        (Run(epochs=9), LONG, True),
    ],
)
def test_a_warm_up_ends_before_the_training(run: Run, space: Any, is_allowed: bool) -> None:
    words = "--warmup-epochs must be less than --epochs, but got"
    with nullcontext() if is_allowed else pytest.raises(InputError, match=words):
        Study(run=run, space=space, search="random" if "warmup_epochs" in space else "grid")


DATA = Path(__file__).parents[1] / "data"
STUDY = Study(name="x", space={"lr": Range(0.01, 1, log=True), "alpha": (0.5, 1)}, search="tpe")


def schema_1(study: Study) -> dict:
    """Version 0.1's study.json: the fields of the study, without those that came later."""
    values = dataclasses.asdict(study)
    written = json.loads((DATA / "study_v0_1" / "study.json").read_text())
    values["run"] = {name: values["run"][name] for name in written["run"]}
    values["run"] |= {"teacher_epochs": 25, "teacher_lr": 1e-3}
    return json.loads(json.dumps({name: values[name] for name in written}))


def test_schema_1_is_read() -> None:
    """The teacher was fine-tuned with the student's settings, and views were cropped like them."""
    study = Study.from_json(json.dumps(schema_1(STUDY)))
    assert (study.name, study.space, study.search) == (STUDY.name, STUDY.space, "tpe")
    run = study.run
    recipe = (run.teacher_optimizer, run.teacher_momentum, run.teacher_schedule)
    assert recipe == ("sgd", 0.9, "step")
    assert (run.teacher_lr_step_size, run.teacher_lr_gamma) == (7, 0.1)
    assert (run.teacher_batch_size, run.teacher_lr, run.teacher_epochs) == (32, 1e-3, 25)
    assert (run.teacher_trainable, run.teacher_batch_norm) == ("all", "train")
    assert (run.augment, run.teacher_augment, run.eval_crop) == ("crop", "crop", 1.0)
    interpolations = (run.eval_interpolation, run.teacher_interpolation, run.student_interpolation)
    assert set(interpolations) == {"bilinear"}


def test_what_a_version_migrates() -> None:
    photos = schema_1(dataclasses.replace(STUDY, run=Run(data="photos")))
    assert migrate(photos)["run"]["eval_crop"] == 224 / 256  # an eighth, with resized-crop
    photos["run"]["augment"] = "crop"
    assert migrate(photos)["run"]["eval_crop"] == 1
    found = {"data": "d", "teacher": "t", "student": "s"}
    assert migrate(schema_1(STUDY), found | {"python": "3.11"})["fingerprints"] == found
    own = dataclasses.replace(STUDY, run=Run(teacher="kdtune.models:fashion_teacher"))
    assert migrate(schema_1(own), found)["fingerprints"] == {"data": "d", "student": "s"}
    assert migrate(schema_1(STUDY))["fingerprints"] == {}
    values = json.loads(Study().to_json())
    del values["keep"]  # earlier studies kept all students
    keeps = [migrate({**values, "schema": schema}).get("keep") for schema in (1, 2, 3)]
    assert keeps == ["all", "all", None]


def test_study_json_has_the_study_and_what_it_is_made_of() -> None:
    values = json.loads(STUDY.to_json({"data": "d"}))
    assert values["schema"] == SCHEMA == 5 and values["fingerprints"] == {"data": "d"}
    assert values["run"]["epochs"] == STUDY.run.epochs and migrate(values) == values
    assert values["space"]["lr"].pop("logit") is False  # which earlier versions did not know
    assert Study.from_json(json.dumps(values)) == STUDY
    for metric in ("auc", "val/recall:Shirt"):
        own = replace(STUDY, metric=metric)
        assert Study.from_json(own.to_json()) == own != STUDY == replace(STUDY, metric="acc")
        assert {run.config_id for run in own.runs()} == {run.config_id for run in STUDY.runs()}
    assert "metric" not in values and json.loads(own.to_json())["metric"] == metric
    odds = replace(STUDY, space={"alpha": Range(0.001, 0.999, logit=True)})
    assert Study.from_json(odds.to_json()) == odds
    newer = json.dumps(values | {"schema": SCHEMA + 1, "new field": 1})
    with pytest.raises(InputError, match=r"newer version of kdtune \(schema 6, .*update"):
        Study.from_json(newer)


NETWORK = Run(data="photos", augment="none", teacher_weights="none", teacher_epochs=0)


def test_files_are_named_by_their_paths_alone_or_beside_networks() -> None:
    named = FILE.teacher, FILE.teacher_weights, FILE.teacher_epochs
    assert named == ("x.parquet", "a/x.parquet", 0)
    assert FILE.weights_of("teacher") == "a/x.parquet"
    again = replace(FILE, lr=0.1)
    assert (again.teacher, again.teacher_weights) == (FILE.teacher, FILE.teacher_weights)
    assert replace(FILE, teacher="b/y.npz").teacher_weights == "b/y.npz"
    absolute = str(FILE.absolute().teacher_weights)
    assert absolute.startswith("/") and absolute.endswith("/a/x.parquet")
    moved = replace(FILE, teacher="elsewhere/x.parquet")
    assert moved.config_id == FILE.config_id and moved != FILE
    renamed = replace(FILE, teacher_weights=("x.parquet=b/renamed.parquet",))
    assert renamed.weights_of("teacher") == "b/renamed.parquet"
    assert renamed.config_id == FILE.config_id
    study = Study(run=NETWORK, space={"teacher": ("resnet50", "a/x.parquet", "b/y.npz")})
    assert study.space["teacher"] == ("resnet50", "x.parquet", "y.npz")
    weights = {run.teacher: run.weights_of("teacher") for run in study.runs()}
    assert weights == {"resnet50": "none", "x.parquet": "a/x.parquet", "y.npz": "b/y.npz"}
    assert Study.from_json(study.to_json()) == study
    more = replace(study, run=FILE, space={"teacher": ("x.parquet", "resnet50")})
    assert more.run.teacher_weights == ("x.parquet=a/x.parquet",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augment": "crop"}, "augment must be none .* but got augment='crop'"),
        ({"cutmix": 1.0}, "cutmix must be 0 .* but got cutmix=1"),
        ({"extra": "more", "extra_share": 0.5}, "extra_share must be 0"),
        ({"teachers": 2}, "teachers must be 1 with a teacher that is a file"),
        ({"teacher": "resnet50+x.parquet"}, "an ensemble is a file of means"),
        ({"teacher": "a=1.parquet"}, r"have no \+ or = if it is a file"),
        ({"teacher_weights": "w.pt"}, "--teacher-weights must be left out"),
        ({"teacher_weights": "b/y.parquet"}, "was renamed, give .*x.parquet=b/y.parquet"),
        ({"student": "x.parquet"}, "student must be a network"),
    ],
)
def test_what_a_file_cannot_do_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Run(**{"teacher": "x.parquet", "augment": "none", **values})
    Run(teacher="x.parquet", alpha=1.0, augment="trivial", mixup=0.2)  # without the teacher

"""Finished teachers that may have trained on val: whether a sentence is due follows from the cuts.

The law: a teacher is warned of if and only if its data differ from the study's and one of the two
has a val that is cut from train.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from photos import photo, save
from tiny_run import TINY

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import StudyData, load_data
from kdtune.models.weights import WEIGHTS, FinishedTeacher, read_finished, save_weights
from kdtune.raytune.distillation import prepare
from kdtune.streams.views import Resources
from kdtune.training.recipe import find_other_cuts, resolve
from kdtune.training.teachers import fine_tune, initial_teacher


def write_images(root: Path, *splits: str) -> str:
    for number, split in enumerate(splits):
        for i in range(16):
            save(photo(i + 100 * number, 12, 12), root / split / "ab"[i % 2] / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a teacher that was fine-tuned on these data, whose val is cut from train."""
    folder = tmp_path_factory.mktemp("cut")
    own = replace(TINY, data=write_images(folder / "images", "train"), train_images=None)
    own = replace(own, teacher="cifar_resnet20", student="cifar_resnet20")
    list(fine_tune(own, folder / "teacher", Resources()))
    return replace(own, teacher_weights=str(folder / "teacher" / WEIGHTS), teacher_epochs=0)


def found(run: Run) -> list[str]:
    return find_other_cuts(Study(run=resolve(run)), load_data(run))


def test_another_seed_or_share_is_warned_of_everywhere(run: Run) -> None:
    assert found(run) == []
    assert found(replace(run, lr=0.5, repeat=3)) == []
    words = f"the teacher cifar_resnet20 ({run.teacher_weights}) was fine-tuned with"
    for other in (replace(run, val_share=0.4), replace(run, seed=1)):
        (sentence,) = found(other)
        assert sentence.startswith(words) and "--seed and --val-share" in sentence
    study = Study(run=resolve(other))
    prepared = prepare(study, study, None, StudyData(other))
    assert sentence in prepared.provenance["warnings"]
    assert prepared.warnings[0] == sentence


def test_it_follows_from_the_two_cuts(run: Run, tmp_path: Path) -> None:
    with_val = replace(run, data=write_images(tmp_path / "other", "train", "val"))
    assert len(found(with_val)) == 1  # the teacher's val was cut
    model, classes = initial_teacher(with_val, load_data(with_val)), load_data(run).classes
    file = tmp_path / "renamed.safetensors"

    def recorded(own: Run, **record: object) -> list[str]:
        finished = FinishedTeacher(own.teacher, classes, model.preprocessing, **record)
        save_weights(model.net, file, finished.metadata)
        assert read_finished(file) == finished
        return found(replace(own, teacher_weights=str(file)))

    assert recorded(with_val, data="others") == []
    assert len(recorded(run, data="others")) == 1  # the study's val is cut
    assert recorded(run, data=load_data(run).fingerprint, has_cut_val=True) == []


def test_files_without_the_record_are_not_warned_of(run: Run, tmp_path: Path) -> None:
    finished = read_finished(Path(str(run.teacher_weights)))
    assert finished is not None and finished.has_cut_val
    model, file = initial_teacher(run, load_data(run)), tmp_path / WEIGHTS
    text = finished.metadata["kdtune_teacher"]
    old = text.replace(f'"data": "{finished.data}", ', "").replace('"has_cut_val": true, ', "")
    assert len(old) < len(text) - 40
    save_weights(model.net, file, {"kdtune_teacher": old})
    assert found(replace(run, seed=1, teacher_weights=str(file))) == []
    save_weights(model.net, file)
    assert found(replace(run, seed=1, teacher_weights=str(file))) == []


def test_folds_are_warned_of_whatever_the_cuts(run: Run) -> None:
    """Every image of the pool is in val in some repeat, and the teacher has seen most of them."""
    (sentence,) = found(replace(run, folds=2))
    assert "with --folds, a teacher that is fine-tuned for each repeat" in sentence
    (again,) = found(replace(run, folds=2, teacher_epochs=3))  # its initial weights have, too
    assert again == sentence

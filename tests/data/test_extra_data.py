"""Images without labels: where they come from, what is refused, and what val may not share."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from photos import photo, save
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.arrays import with_extra
from kdtune.data.checks import data_record, describe_data, find_copies
from kdtune.data.dataset import Data
from kdtune.data.folder import verify
from kdtune.data.sources import clear_cached_data, load_data

REST = Run(train_images=300, extra="rest")


@pytest.fixture(autouse=True)
def own_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    clear_cached_data()


def load(run: Run) -> Data:
    return with_extra(load_data(run), run)


def rows(split: str, start: int, stop: int) -> Tensor:
    inputs = load_data(Run()).splits[split].inputs
    assert isinstance(inputs, Tensor)
    return inputs[start:stop]


# -- functions of the user's -------------------------------------------------------------------


class Items(Dataset[Any]):
    """Items one by one, as a function of each position."""

    def __init__(self, item: Callable[[int], Any]):
        self.item = item

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        if index >= 7:
            raise IndexError
        return self.item(index)


def seven() -> Tensor:
    return rows("train", 0, 7)


def seven_flat() -> Tensor:
    return seven()[:, 0]


def seven_array() -> Any:
    return seven().numpy()


def seven_with_labels() -> Any:
    return seven(), ["no class of train"] * 7


def seven_in_a_dataset() -> Any:
    return TensorDataset(seven())


def seven_items() -> Any:
    return Items(lambda i: seven()[i])


def seven_pairs() -> Any:
    return Items(lambda i: (seven()[i], i))


def seven_pictures() -> Any:
    return Items(lambda i: Image.fromarray(seven()[i, 0].numpy()))


def seven_of_more() -> Any:
    return Subset(TensorDataset(rows("train", 0, 20), torch.zeros(20)), range(7))


FORMS = (
    *("seven", "seven_flat", "seven_array", "seven_with_labels", "seven_in_a_dataset"),
    *("seven_items", "seven_pairs", "seven_pictures", "seven_of_more"),
)


@pytest.mark.parametrize("form", FORMS)
def test_a_function_returns_the_images_in_many_forms(form: str) -> None:
    data = load(Run(extra=f"{__name__}:{form}"))
    split = data.splits["extra"]
    assert isinstance(split.inputs, Tensor) and torch.equal(split.inputs, seven())
    assert split.labels.tolist() == [-1] * 7  # whatever labels there were
    plain = load(Run(extra=f"{__name__}:seven"))
    assert data.extra is not None and plain.extra is not None
    assert data.extra.fingerprint == plain.extra.fingerprint
    assert data.fingerprint == load_data(Run()).fingerprint
    assert "extra" not in load_data(Run(extra=f"{__name__}:{form}")).splits


def in_colour() -> Tensor:
    return torch.zeros(4, 3, 28, 28, dtype=torch.uint8)


def floats() -> Tensor:
    return torch.zeros(4, 1, 28, 28)


def larger() -> Tensor:
    return torch.zeros(4, 1, 40, 40, dtype=torch.uint8)


def none_at_all() -> Tensor:
    return torch.zeros(0, 1, 28, 28, dtype=torch.uint8)


def a_dict() -> dict[str, Tensor]:
    return {"train": seven()}


def failing() -> None:
    raise ValueError("no such bucket")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("in_colour", r"tensors of the same channels and type.*\[1, 28, 28\].*\[3, 28, 28\]"),
        ("floats", r"train has \[1, 28, 28\] of uint8 and --extra has \[1, 28, 28\] of float32"),
        ("none_at_all", "must return images without labels"),
        ("a_dict", "must return a tensor or array of images or a torch Dataset.*returned dict"),
        ("failing", "cannot be made: ValueError: no such bucket"),
        ("not_there", "cannot be imported"),
    ],
)
def test_what_a_function_may_not_return(form: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(Run(extra=f"{__name__}:{form}"))


def test_images_of_another_size_are_resized_with_the_views() -> None:
    assert load(Run(extra=f"{__name__}:larger")).splits["extra"].example(0).shape == (1, 40, 40)


# -- folders -----------------------------------------------------------------------------------


def make_photos(root: Path) -> Path:
    places = product(("train", "val", "test"), ("ants", "bees"), ("0.png", "1.png"))
    for seed, (split, name, file) in enumerate(places, 100):
        save(photo(seed), root / split / name / file)
    return root


def make_extra(root: Path) -> Path:
    """Five images: flat, in folders, behind a link to a folder; and what is none."""
    save(photo(1), root / "b.jpg")
    save(photo(2), root / "a" / "z.PNG")
    save(photo(3), root / "a" / "deeper" / "a.jpeg", grey=True)
    save(photo(4), root.parent / "elsewhere" / "c.png")
    save(photo(5), root / "a.png")
    (root / "linked").symlink_to(root.parent / "elsewhere")
    (root / "a" / "circle").symlink_to(root)
    (root / "notes.txt").write_text("no image")
    return root


def test_a_folder_is_read_with_all_its_folders_in_one_order(tmp_path: Path) -> None:
    root, data = make_extra(tmp_path / "extra"), make_photos(tmp_path / "photos")
    found = load(Run(data=str(data), extra=str(root)))
    files = found.splits["extra"].inputs
    names = [os.path.relpath(str(file), root) for file in files]
    assert names == ["a.png", "a/deeper/a.jpeg", "a/z.PNG", "b.jpg", "linked/c.png"]
    verify(found)
    assert found.splits["extra"].example(1).shape == (3, 60, 80)
    assert describe_data(found)[0] == f"Images without labels: 5 (--extra {root})."
    assert data_record(found)["extra"] == {"examples": 5, "source": "extra"}
    assert set(data_record(found)["examples"]) == {"train", "val", "test"}


def test_the_fingerprint_of_a_folder_is_of_its_content(tmp_path: Path) -> None:
    data = str(make_photos(tmp_path / "photos"))
    root = make_extra(tmp_path / "extra")
    first = load(Run(data=data, extra=str(root)))
    moved = root.rename(tmp_path / "moved")
    (moved / "a" / "circle").unlink()
    clear_cached_data()
    second = load(Run(data=data, extra=str(moved)))
    assert first.extra is not None and second.extra is not None
    assert first.extra.fingerprint == second.extra.fingerprint
    save(photo(9), moved / "b.jpg")
    clear_cached_data()
    third = load(Run(data=data, extra=str(moved)))
    assert third.extra is not None and third.extra.fingerprint != first.extra.fingerprint
    assert first.fingerprint == second.fingerprint == third.fingerprint


def missing(root: Path) -> None:
    root.rename(root.parent / "gone")


def empty(root: Path) -> None:
    missing(root)
    root.mkdir()


def unreadable(root: Path) -> None:
    (root / "b.jpg").write_bytes(b"no JPEG")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (missing, "there is no folder .*extra; give one"),
        (empty, "has no files with the suffixes .jpg"),
        (unreadable, "the image .*b.jpg cannot be read.*replace or remove"),
    ],
)
def test_faults_of_a_folder(fault: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    root = make_extra(tmp_path / "extra")
    fault(root)
    with pytest.raises(InputError, match=words):
        verify(load(Run(data=str(make_photos(tmp_path / "photos")), extra=str(root))))


def test_files_do_not_go_with_arrays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train has \[1, 28, 28\] of uint8.*has image files"):
        load(Run(extra=str(make_extra(tmp_path / "extra"))))


# -- rest --------------------------------------------------------------------------------------


def test_rest_is_what_the_labelled_images_leave_out() -> None:
    data = load(REST)
    own = data.splits["train"].select(data.subset(REST)).inputs
    rest = data.splits["extra"].inputs
    assert isinstance(own, Tensor) and isinstance(rest, Tensor)
    assert len(own) == 300 and len(rest) == 1700
    both = {image.numpy().tobytes() for image in (*own, *rest)}
    assert both == {image.numpy().tobytes() for image in data.splits["train"].inputs}
    assert load(REST) is data  # images are not copied for each configuration
    assert load(replace(REST, lr=0.5)) is data
    assert describe_data(data) == [
        "Images without labels: 1,700 (--extra rest: those of train that --train-images leaves "
        "out)."
    ]


def test_rest_of_a_fold_has_no_image_of_its_val() -> None:
    prints = set()
    for repeat in range(4):
        data = load(replace(REST, folds=4, repeat=repeat))
        rest = {image.numpy().tobytes() for image in data.splits["extra"].inputs}
        assert len(data.splits["extra"]) == len(data.splits["train"]) - 300
        for split in ("val", "test"):
            assert not rest & {image.numpy().tobytes() for image in data.splits[split].inputs}
        assert data.extra is not None
        prints.add(data.extra.fingerprint)
    assert len(prints) == 4


def test_rest_must_leave_something() -> None:
    with pytest.raises(InputError, match="--train-images 2000 takes all of train"):
        load(replace(REST, train_images=2000))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"extra": "rest"}, "--extra rest must have --train-images"),
        ({"extra_share": 0.5}, "--extra-share must be 0 without --extra"),
        ({"extra": "torchvision:SVHN"}, "must be a folder of images, rest or module:factory"),
        ({"extra": "a", "extra_share": 0.5, "batch_size": 1}, "--batch-size must be 2 or more"),
        ({"extra": "a", "extra_share": 1.0}, "extra_share"),
        ({"extra": torch.zeros(3)}, "extra must be text or a function of a module.*a Tensor"),
        ({"extra": lambda: 0}, "extra must be text or a function of a module.*a function"),
    ],
)
def test_what_a_run_may_not_have(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Run(**values)


def test_what_a_study_may_not_have() -> None:
    run = Run(extra=f"{__name__}:seven")
    with pytest.raises(InputError, match="--extra has no effect with --extra-share 0"):
        Study(run=run)
    with pytest.raises(InputError, match="--batch-size must be 2 or more"):
        Study(run=run, space={"extra_share": (0.0, 0.5), "batch_size": (1, 8), "alpha": (0.1,)})
    assert Study(run=run, space={"extra_share": (0.0, 0.5), "alpha": (0.1,)}).run == run


def test_a_function_is_given_by_itself() -> None:
    assert Run(extra=seven).extra == f"{__name__}:seven"  # type: ignore[arg-type]


def test_only_a_folder_has_an_absolute_path() -> None:
    shares = {"train_images": 300}
    for extra in ("rest", "mine:images"):
        assert Run(extra=extra, **shares).absolute().extra == extra  # type: ignore[arg-type]
    assert Run(extra="a/b").absolute().extra == str(Path.cwd() / "a" / "b")
    assert Run(extra="./rest").absolute().extra == str(Path.cwd() / "rest")


# -- images that val or test has as well -------------------------------------------------------


def some_of_val_and_test() -> Tensor:
    return torch.cat([rows("train", 0, 5), rows("val", 3, 6), rows("test", 10, 11)])


def test_images_of_val_and_test_are_said() -> None:
    run = Run(extra=f"{__name__}:some_of_val_and_test")
    val, test = find_copies(load(run))
    assert val == (
        "3 of the 500 images in val are also in --extra (such as val[3] = extra[5]), so students "
        "learn what the teacher says of them, and metrics on val may be optimistic"
    )
    assert test.startswith("1 of the 1000 images in test are also in --extra (such as test[10] =")
    assert find_copies(load(run)) == [val, test]  # from a note
    assert find_copies(load_data(Run())) == []
    assert find_copies(load(REST)) == []


def test_with_folds_every_image_of_train_is_in_val_once() -> None:
    (pool, _) = find_copies(load(Run(extra=f"{__name__}:some_of_val_and_test", folds=5)))
    assert pool.startswith("8 of the 2500 images in train and val together are also in --extra")


def test_files_are_named_below_their_own_folder(tmp_path: Path) -> None:
    data, root = make_photos(tmp_path / "photos"), make_extra(tmp_path / "extra")
    copy = root / "a" / "copy.png"
    copy.write_bytes((data / "val" / "bees" / "1.png").read_bytes())
    (sentence,) = find_copies(load(Run(data=str(data), extra=str(root))))
    assert "(such as val/bees/1.png = a/copy.png)" in sentence

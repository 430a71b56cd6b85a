"""The cache against one law: the numbers are equal with it, without it and after any fault.

Builders that die (SIGKILL) are real processes. What others could have written is not read; real
users write in raytune/test_two_users.py. A key that lacks a part gives old numbers without a word,
so every part of a key is changed here in turn, and nothing that is searched enters.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open

import kdtune.streams.cache
from kdtune.config.fields import searchable
from kdtune.config.run import HYPERPARAMETERS, Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.streams.cache import Cache, Key, Keys, Place, read
from kdtune.streams.views import Resources

KEY = {"data": "abc", "epoch": 3, "train_images": None}
FORKS = multiprocessing.get_context("fork")  # as the processes that load images


def make(number=0):
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(16, 10, generator=generator)
    return {"logits": values, "labels": torch.arange(16) + number, "count": torch.tensor(number)}


def equal(a, b):
    same = (torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    return a.keys() == b.keys() and all(same)


def get(cache, key=KEY, number=0, kind="logits"):
    """Return the entry, and how often it was built for this call."""
    built = []

    def build(progress):
        built.append(number)
        progress(0, 1)
        return make(number)

    return cache.get(Key(kind, key), "what", build), len(built)


def rebuilt(cache):
    """Whether the entry is not there, so that it is built, with the same numbers."""
    tensors, built = get(cache)
    return built == 1 and equal(tensors, make())


def entries(folder):
    return sorted(folder.glob("*/*/*.safetensors"))


def clean(folder):
    return not [*folder.rglob("*.part"), *folder.glob("building/*")]


def one_line(capsys):
    output = capsys.readouterr()
    assert output.err.count("\n") == 1 and not output.out
    return output.err


def test_another_key_or_kind_is_another_entry(tmp_path):
    cache = Cache(tmp_path)
    keys = [KEY, KEY | {"epoch": 4}, KEY | {"epoch": "3"}, KEY | {"more": 1}, {"data": "abc"}]
    cases = [(KEY, "views"), *((key, "logits") for key in keys)]
    for number, (key, kind) in enumerate(cases):
        assert get(cache, key, number, kind)[1] == 1
    for number, (key, kind) in enumerate(cases):
        for again in (cache, Cache(tmp_path)):
            tensors, built = get(again, dict(reversed(key.items())), 99, kind)
            assert built == 0 and equal(tensors, make(number))
    assert len(entries(tmp_path)) == len(cases) and clean(tmp_path)


@pytest.mark.parametrize(("keep", "filled"), [(0, False), (0.5, False), (0.99, True)])
def test_a_damaged_entry_is_built_again(tmp_path, keep, filled):
    get(Cache(tmp_path))
    content = (file := entries(tmp_path)[0]).read_bytes()
    kept = content[: int(keep * len(content))]
    file.write_bytes(kept.ljust(len(content), b"\0") if filled else kept)  # a crash leaves either
    assert rebuilt(Cache(tmp_path))
    get(Cache(tmp_path / "other"), {"data": "foreign"}, 7)
    os.replace(*entries(tmp_path / "other"), file)  # of another key
    assert rebuilt(Cache(tmp_path))


def test_no_flipped_bit_gives_a_wrong_number(tmp_path):
    get(Cache(tmp_path))
    (file,) = entries(tmp_path)
    content, text = file.read_bytes(), safe_open(file, "pt").metadata()["key"]
    assert equal(read(file, text), make())
    for position, byte in enumerate(content):
        flipped = bytes([byte ^ 1 << position % 8])
        file.unlink()  # rather than write into a map that may be open
        file.write_bytes(content[:position] + flipped + content[position + 1 :])
        tensors = read(file, text)
        assert tensors is None or equal(tensors, make()), position


def test_a_change_in_place_stays_with_its_reader(tmp_path):
    get(Cache(tmp_path))
    mine, _ = get(Cache(tmp_path))
    mine["logits"].fill_(7)
    mine["labels"] += 1
    tensors, built = get(Cache(tmp_path))
    assert built == 0 and equal(tensors, make())
    entries(tmp_path)[0].unlink()  # as eviction does
    assert equal(tensors, make())


@pytest.mark.parametrize("gigabytes", [0, 700e-9])
def test_what_exceeds_the_limit_is_built_and_not_kept(tmp_path, capsys, gigabytes):
    cache = Cache(tmp_path / "cache", gigabytes)
    assert rebuilt(cache) and rebuilt(cache)
    assert not entries(cache.folder) and cache.folder.exists() == (gigabytes > 0)
    if gigabytes:
        assert one_line(capsys).startswith(f"the cache in {cache.folder} is full (--cache-gb 7e-07")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("blocked", ["cache", "cache/logits", "cache/locks"])
def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, capsys, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("a file where a folder should be")
    cache = Cache(tmp_path / "cache")
    assert rebuilt(cache) and rebuilt(cache)
    assert str(cache.folder) in one_line(capsys)


@pytest.mark.parametrize("fault", [OSError(28, "No space left"), SafetensorError("os 28")])
def test_a_full_disk_is_said_once_and_leaves_nothing(tmp_path, capsys, monkeypatch, fault):
    def fill_up(tensors, file, metadata):
        Path(file).write_bytes(b"half an ent")
        raise fault

    monkeypatch.setattr(kdtune.streams.cache, "save_file", fill_up)
    cache = Cache(tmp_path)
    assert rebuilt(cache) and rebuilt(cache)
    assert not entries(tmp_path) and clean(tmp_path)
    assert str(fault) in one_line(capsys)


def test_eviction_takes_the_least_recently_used(tmp_path):
    files = []
    for number in range(6):
        cache = Cache(tmp_path, gigabytes=2500e-9)  # two entries of 776 bytes with their headers
        for age, file in enumerate(filter(Path.exists, reversed(files))):
            os.utime(file, (1e9 - age, 1e9 - age))  # as if written long ago, one after the other
        if number == 2:
            assert get(cache, {"n": 0})[1] == 0  # used: so 1 goes first
        get(cache, {"n": number}, number)
        files += set(entries(tmp_path)) - set(files)
        assert len(files) == number + 1 and files[-1].exists()
        assert sum(file.stat().st_size for file in entries(tmp_path)) <= cache.limit
        assert number != 2 or (files[0].exists() and not files[1].exists())
    assert len(entries(tmp_path)) == 2


def test_a_working_set_larger_than_the_cache_still_gives_hits(tmp_path):
    """Entries read in turn: of 5, the 2 that fit stay. Least recently used alone finds none."""
    for _ in range(3):
        built = []
        for number in range(5):  # each in a run with a cache object of its own
            tensors, count = get(Cache(tmp_path, gigabytes=2500e-9), {"n": number}, number)
            assert equal(tensors, make(number))
            built.append(count)
    assert built == [0, 0, 1, 1, 1] and len(entries(tmp_path)) == 2
    for file in entries(tmp_path):
        os.utime(file, (1e9, 1e9))  # of a study that has ended: they give way
    assert get(Cache(tmp_path, gigabytes=2500e-9), {"n": 9}, 9)[1] == 1
    assert get(Cache(tmp_path, gigabytes=2500e-9), {"n": 9}, 9)[1] == 0


def test_views_fill_at_most_half_of_the_cache(tmp_path):
    for number in range(6):
        get(Cache(tmp_path, gigabytes=4200e-9), {"n": number}, number, "views")
    assert len(entries(tmp_path)) == 2
    for number in range(2):
        get(Cache(tmp_path, gigabytes=4200e-9), {"n": number}, number)
    assert get(Cache(tmp_path, gigabytes=4200e-9), {"n": 1}, 1)[1] == 0


def work(folder):
    """Get the entry; its build reports progress as long as the file hold exists."""
    kdtune.streams.cache.HEARTBEAT_SECONDS = 0.1

    def build(progress):
        (folder / f"built-{os.getpid()}").touch()
        while (folder / "hold").exists():
            progress(0, 1)
            time.sleep(0.02)
        return make()

    (folder / f"ready-{os.getpid()}").touch()
    assert equal(Cache(folder / "c").get(Key("logits", KEY), "what", build), make())


@pytest.fixture
def start(tmp_path):
    """Return start(n), which starts n processes of which one is building."""
    processes = []

    def begin(count):
        (tmp_path / "hold").touch()
        processes.extend(FORKS.Process(target=work, args=(tmp_path,)) for _ in range(count))
        for process in processes:
            process.start()
        while len([*tmp_path.glob("ready-*"), *tmp_path.glob("built-*")]) < count + 1:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.02)
        return processes

    yield begin
    for process in processes:
        process.kill()
        process.join()


def test_two_processes_build_an_entry_once(tmp_path, start):
    processes = start(2)
    time.sleep(0.3)
    (tmp_path / "hold").unlink()
    assert [process.join() or process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("built-*"))) == 1
    assert get(Cache(tmp_path / "c"))[1] == 0 and clean(tmp_path)


def test_a_waiter_replaces_a_killed_builder(tmp_path, start):
    (process,) = start(1)
    threading.Timer(0.3, process.kill).start()
    tensors, built = get(Cache(tmp_path / "c"))
    process.join(0.5)  # if it had not waited, the builder would live on
    assert process.exitcode == -signal.SIGKILL and (tmp_path / "hold").exists()
    assert built == 1 and equal(tensors, make())
    assert get(Cache(tmp_path / "c"))[1] == 0 and clean(tmp_path)


def test_lock_files_are_deleted_when_they_are_old_and_free(tmp_path):
    cache = Cache(tmp_path, gigabytes=9e-6)  # whose files are counted after each new one
    for number in range(3):
        get(cache, {"n": number}, number)
    free, held, new = (next(tmp_path.glob(f"locks/*{f.stem}.lock")) for f in entries(tmp_path))
    for file in (free, held):
        os.utime(file, (1e9, 1e9))
    with FileLock(held):
        os.utime(held, (1e9, 1e9))
        get(cache, {"n": 9})
        assert not free.exists() and held.exists() and new.exists()


def test_what_is_being_built_is_shown_and_is_its_owners_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(kdtune.streams.cache, "HEARTBEAT_SECONDS", 0.0)
    cache, seen = Cache(tmp_path, owner="mine"), []

    def build(progress):
        progress(3, 8)
        seen.extend(Cache(tmp_path, owner="mine").building())
        assert not [*Cache(tmp_path, owner="another study").building()]
        return make()

    cache.get(Key("logits", KEY), "logits, repeat 3, epoch 7", build)
    assert seen == [("logits, repeat 3, epoch 7", 3, 8, "mine")]
    assert list(cache.building()) == []
    before = os.umask(0)
    try:
        get(cache := Cache(tmp_path / "cache"))
    finally:
        os.umask(before)
    cache.check()
    assert {p for p in cache.folder.rglob("*") if p.lstat().st_mode & 0o002} == set()


def test_eviction_leaves_the_users_own_files_alone(tmp_path):
    own = tmp_path / "train" / "ants" / "holiday.jpg"
    for file in (own, tmp_path / "views" / "of" / "rome.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 10_000)
    cache = Cache(tmp_path, gigabytes=2500e-9)
    for number in range(6):
        get(cache, {"n": number}, number)
    assert own.exists() and (tmp_path / "views" / "of" / "rome.jpg").exists()


STRANGER = 54322


@pytest.fixture
def cache(tmp_path):
    """The cache with an entry."""
    cache = Cache(tmp_path / "parent" / "cache")
    get(cache)
    return cache


def give_away(path, user=STRANGER, group=0):
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    os.chown(path, user, group, follow_symlinks=False)


def linked(path):
    """Put a link in the place of a file or folder; return where it is now."""
    path.symlink_to(path.rename(path.with_name("elsewhere")))
    return path.with_name("elsewhere")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: None, None),
        (lambda f: f.chmod(0o1777), "may be written by every user"),
        (lambda f: f.parent.chmod(0o777), "is inside .*parent, which may be"),
        (lambda f: f.parent.chmod(0o1777), None),  # as /tmp
        (give_away, f"belongs to user {STRANGER}, who"),
        (lambda f: give_away(linked(f)), f"belongs to user {STRANGER}"),
        (linked, None),
        # who owns the link may turn it to another folder of the victim's at any time
        (lambda f: linked(f) and give_away(f), f"belongs to user {STRANGER}"),
        (lambda f: f.chmod(0o775), None),  # of the user's own group
        (lambda f: f.chmod(0o775) or give_away(f, 0, 54323), "may be written by group 54323"),
    ],
)
def test_a_folder_that_others_may_change_is_refused(cache, change, sentence):
    change(cache.folder)
    with nullcontext() if sentence is None else pytest.raises(InputError, match=sentence):
        cache.check()


def test_a_study_refuses_a_folder_that_all_may_write(cache):
    cache.folder.chmod(0o777)
    with pytest.raises(InputError) as refused:
        Resources.of(Study(cache=str(cache.folder)))
    assert str(refused.value) == (
        f"the cache must be a folder that only you may write, but {cache.folder} may be written by "
        f"every user, who could change the logits that runs read; delete it, or name another one "
        f"(--cache FOLDER)"
    )
    Resources.of(Study(cache=str(cache.folder), cache_gb=0))  # no cache is used
    place = cache.folder / "new"
    with pytest.raises(InputError, match=rf"{place} is inside {cache.folder}, which may be"):
        Cache(place).check()


@pytest.mark.parametrize(
    ("change", "is_said"),
    [
        (lambda file: give_away(file, STRANGER, STRANGER), True),
        (lambda file: file.chmod(0o666), True),
        (linked, False),
        (lambda file: file.unlink() or os.mkfifo(file), True),
    ],
    ids=["given away", "open to all", "a link", "a pipe"],
)
def test_an_entry_that_others_could_have_made_is_built_again(cache, change, is_said):
    (file,) = entries(cache.folder)
    change(file)
    assert rebuilt(cache)
    said = [text.endswith(", so it is computed again") for text in cache.warnings.values()]
    assert said == [True] * is_said
    assert get(cache)[1] == 0 and file.lstat().st_mode & 0o022 == 0


CPU = torch.device("cpu")
RUN = Run(train_images=100, trainable="head", batch_norm="train", seed=3, repeat=2)
KEYS = Keys(RUN, "data", 28, CPU, 32)

MAKERS: dict[str, Callable[..., Key]] = {
    "views": lambda k, split="train", epoch=1: k.views(Place(split, epoch, 0, 10)),
    "logits": lambda k, split="train", epoch=1: k.logits(Place(split, epoch), "teacher"),
    "features": lambda k, split="train", epoch=1: k.features(Place(split, epoch), "student"),
    "per image": lambda k, split="train", epoch=1: k.features(Place(split, epoch), "student", True),
}

INPUT: list[dict[str, Any]] = [
    *({"data": "other"}, {"size": 32}, {"augment": "resized-crop"}, {"seed": 4}, {"repeat": 3}),
    *({"train_images": 99}, {"train_images": None}, {"sampler": "balanced"}),
]
COMPUTATION: list[dict[str, Any]] = [
    *(
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"inference_batch": 64},
        {"mixup": 0.2},
        {"cutmix": 0.2},
    )
]


def name(kind: str, split: str = "train", epoch: int = 1, run: Run = RUN, **changes: Any) -> str:
    """The name of a key after changes of the run and of the other fields of `Keys`."""
    own = {field: changes.pop(field) for field in vars(KEYS).keys() & changes.keys()}
    keys = replace(KEYS, run=replace(run, **changes), **own)
    return MAKERS[kind](keys, split, epoch).name


BOTH, FROZEN = {"mixup": 0.5, "cutmix": 1.0}, {"batch_norm": "eval"}
CROP, OTHER_CROP = {"eval_crop": 1.0}, {"eval_crop": 0.9}
LINEAR, CUBIC = {"eval_interpolation": "bilinear"}, {"eval_interpolation": "bicubic"}
EVALUATED = CROP | LINEAR
SPLITS = ["train", "val", "test"]
IMAGES, ALL = ["views", "logits"], ["views", "logits", "features"]
UNMIXED = {"mixup": 0.0, "cutmix": 0.0}
OTHER_ORDERS = [{"epoch": 5}, {"sampler": "balanced"}]
ONE_DRAW = {"train_draw": "study"}
SUBSETS = [{"seed": 9}, {"train_images": 50}]
BATCHES = [{"repeat": 9}, {"batch_size": 9}, {"epoch": 2}]
SEARCHED: dict[str, Any] = {
    **{"loss": "mse", "alpha": 0.9, "temperature": 7.0, "label_smoothing": 0.1, "ema": 0.9},
    **{"class_weights": "balanced"},
    **{"optimizer": "adamw", "lr": 0.5, "momentum": 0.1, "weight_decay": 0.1, "clip_norm": 1.0},
    **{"schedule": "constant", "lr_step_size": 3, "lr_gamma": 0.5, "epochs": 3, "warmup_epochs": 1},
}
OTHER: dict[str, Any] = {
    **{"teacher": "resnet18", "teacher_weights": "none", "teacher_epochs": 3, "teacher_lr": 0.5},
    **{"student": "resnet34", "student_weights": "none", "data": "photos"},
}
"""Fields of a run that enter by what they lead to: fingerprints, and the data set's own size."""


@pytest.mark.parametrize(
    ("kinds", "splits", "base", "enter", "do_not"),
    [
        (ALL, ["train"], {}, [*INPUT, {"epoch": 2}], []),
        (["logits", "features"], ["train"], {}, COMPUTATION, []),
        # of a frozen backbone the batch size and the mode of batch norm do change the numbers
        (["features"], ["train"], {}, [{"batch_size": 33}, FROZEN], []),
        (IMAGES, ["train"], {}, [], [{"batch_size": 7, "batch_norm": "eval", "trainable": "all"}]),
        (MAKERS, ["train"], {"augment": "crop"}, [], [SEARCHED]),
        # views and logits of val are shared by all repeats, and follow its own transform
        (IMAGES, ["val", "test"], {}, [], [*SUBSETS, {"repeat": 5}, {"epoch": 7}]),
        (ALL, ["val", "test"], EVALUATED | FROZEN, [OTHER_CROP, CUBIC], [{"augment": "trivial"}]),
        # of augmented images the interpolation enters where it has an effect
        (["views"], ["train"], EVALUATED | {"augment": "crop"}, [CUBIC], [OTHER_CROP]),
        (["views"], ["train"], EVALUATED | {"augment": "resized-crop"}, [], [CUBIC, OTHER_CROP]),
        # images that are turned, which only new studies of files have
        (
            *(["views"], [*SPLITS, "extra"], {"orientation": "stored"}),
            [{"orientation": "exif", "files": True}],
            [{"orientation": "exif"}, {"files": True}],
        ),
        # without augmentation train is shared by all epochs, and by the repeats of one draw
        (IMAGES, ["train"], {"augment": "none"}, [{"seed": 9}, {"repeat": 1}], OTHER_ORDERS),
        (IMAGES, ["train"], {"augment": "none"} | ONE_DRAW, [{"seed": 9}], [{"repeat": 1}]),
        (MAKERS, ["train"], {}, [ONE_DRAW], []),
        (["views"], ["train"], {"augment": "none"} | EVALUATED, [CUBIC, OTHER_CROP], []),
        (["views"], ["train"], {"augment": "none", "train_images": None}, [], [{"seed": 9}]),
        # features that depend on the batch, and running statistics: of one epoch and repeat
        (["features"], SPLITS, {"augment": "none"}, BATCHES, []),
        (["features"], ["train"], {"augment": "none"} | FROZEN, BATCHES, []),
        (["features"], ["val", "test"], {"augment": "none"} | FROZEN, [], BATCHES),
        (["per image"], ["train"], {"augment": "none"} | FROZEN | ONE_DRAW, [], BATCHES),
        # of val they follow the training images
        (["features"], ["val"], {}, [{"augment": "none"}, {"augment": "trivial"}], []),
        # mixtures: of one mixing, batch size, epoch and repeat
        (
            *(["logits", "features"], ["train"], BOTH | FROZEN),
            [{"mixup": 0.4}, {"mixup": 0.0}, {"cutmix": 0.9}, {"cutmix": 0.0}, *SUBSETS, *BATCHES],
            [{"cutmix": 1}],
        ),
        (["logits"], ["train"], BOTH | {"augment": "none"}, [*SUBSETS, *BATCHES], []),
        (["logits", "features"], ["train"], BOTH | FROZEN, [], [SEARCHED]),  # a pass for all
        (["views"], SPLITS, BOTH, [], [UNMIXED]),
        (ALL, ["val", "test"], BOTH | FROZEN, [], [UNMIXED]),
        (["features"], ["val", "test"], BOTH, [UNMIXED], []),
    ],
)
def test_what_enters_a_key(
    kinds: list[str],
    splits: list[str],
    base: dict[str, Any],
    enter: list[dict[str, Any]],
    do_not: list[dict[str, Any]],
) -> None:
    run = replace(RUN, **base)
    for kind in kinds:
        for split in splits:
            of_run = name(kind, split, run=run)
            changed = [name(kind, split, **{"run": run} | change) for change in enter]
            assert len({of_run, *changed}) == len(changed) + 1, (kind, split)
            for change in do_not:
                assert name(kind, split, **{"run": run} | change) == of_run, (kind, split, change)


def test_all_that_is_searched_is_looked_at() -> None:
    assert set(HYPERPARAMETERS) - set(SEARCHED) <= {
        "batch_size",
        "batch_norm",
        *("trainable", "student", "teacher", "teacher_epochs"),  # fingerprints of models do
        *("augment", "mixup", "cutmix", "extra_share", "train_images", "sampler"),  # other views
        *(name for name, setting in searchable(Run).items() if setting.of_objective),
    }
    run = replace(RUN, augment="crop")
    for kind in MAKERS:
        for field, value in OTHER.items():
            assert name(kind, run=replace(run, **{field: value})) == name(kind, run=run)


@pytest.mark.parametrize("kind", IMAGES)
def test_each_part_that_images_without_labels_depend_on_changes_their_key(kind: str) -> None:
    changes = [{}, *INPUT[1:5], {"extra": "fewer"}]
    every = [name(kind, "extra", **{"extra": "images"} | change) for change in changes]
    assert len(set(every)) == 6
    for change in (INPUT[0], *INPUT[5:]):  # which images have labels does not matter
        assert name(kind, "extra", extra="images", **change) == every[0]
    assert name(kind, extra="images") == name(kind)  # nor do they matter to other splits


def test_models_splits_shards_and_kinds_change_the_key() -> None:
    frozen = replace(KEYS, run=replace(RUN, **FROZEN))
    every = [
        *(make(KEYS, split) for make in list(MAKERS.values())[:3] for split in SPLITS),
        KEYS.logits(Place("val", 1), "b"),
        KEYS.features(Place("val", 1), "b"),
        *(KEYS.views(Place("val", 0, first, count)) for first, count in ((10, 10), (0, 11))),
        KEYS.per_image("a"),
        KEYS.per_image("b"),
        frozen.features(Place("train", 0), "a"),
        frozen.features(Place("train", 0), "a", per_image=True),
    ]
    assert len({key.name for key in every}) == len(every)
    assert ["repeat" in key.parts for key in every[:9]] == [True, False, False] * 2 + [True] * 3
    mixed = replace(KEYS, run=replace(RUN, **BOTH, augment="none"))
    assert "repeat" in mixed.logits(Place("train", 1), "a").parts


@pytest.mark.parametrize(
    ("version", "changed"),
    [
        ("torch.__version__", ALL),
        ("PIL.__version__", ALL),
        ("kdtune.streams.cache.version_of", ALL),  # torchvision; timm in logits and features
        ("torch.get_num_threads", ["logits", "features"]),
        ("torch.backends.cpu.get_cpu_capability", ALL),
        ("kdtune.streams.cache._FORMAT", ALL),
        ("numpy.__version__", []),
    ],
)
def test_versions_and_machine_change_the_key(
    version: str, changed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = replace(KEYS, run=replace(RUN, **BOTH, **FROZEN))
    before = {kind: MAKERS[kind](KEYS).name for kind in ALL}
    of_mixed = MAKERS["logits"](mixed).name
    text = version.endswith("__version__")
    monkeypatch.setattr(version, "99" if text else 99 if "FORMAT" in version else lambda *_: 99)
    fresh = Keys(RUN, "data", 28, CPU, 32)  # the key's parts are computed once
    assert [kind for kind in ALL if MAKERS[kind](fresh).name != before[kind]] == changed
    if version.startswith("numpy"):  # which draws the mixtures
        assert MAKERS["logits"](replace(fresh, run=mixed.run)).name != of_mixed


def test_the_version_of_transformers_is_in_the_keys_of_its_models_alone() -> None:
    for model, kinds in (("teacher", ["logits"]), ("student", ["features"])):
        keys = replace(KEYS, run=replace(RUN, **{model: "resnet50+hf:a"}))
        assert [kind for kind in ALL if "transformers" in MAKERS[kind](keys).parts] == kinds


def test_a_gpu_is_in_the_key_by_name_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(device: str) -> Key:
        return replace(KEYS, device=torch.device(device)).logits(Place("val", 0), "teacher")

    for device, ask in (
        ("cuda", "torch.cuda.get_device_name"),
        ("mps", "torch.backends.mps.get_name"),
    ):
        monkeypatch.setattr(ask, lambda: "fast")
        made = key(device)
        assert (made.parts["device"], made.parts["threads"]) == ("fast", None)
        monkeypatch.setattr(ask, lambda: "faster")
        assert len({made.name, key(device).name, key("cpu").name}) == 3

"""The cache against one law: the numbers are equal with it, without it and after any fault.

Builders that die (SIGKILL) or hang (SIGSTOP) are real processes.
"""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open

import kdtune.streams.cache
from kdtune.streams.cache import Cache, Key, read

KEY = {"data": "abc", "epoch": 3, "train_images": None}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["kdtune.streams.cache"])  # torch is imported once


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


def test_a_hit_returns_equal_tensors_without_building(tmp_path):
    cache = Cache(tmp_path)
    assert get(cache)[1] == 1
    for again in (cache, Cache(tmp_path)):
        tensors, built = get(again, dict(reversed(KEY.items())), 5)
        assert built == 0 and equal(tensors, make())
    assert len(entries(tmp_path)) == 1 and clean(tmp_path)


def test_another_key_or_kind_is_another_entry(tmp_path):
    cache = Cache(tmp_path)
    keys = [KEY, KEY | {"epoch": 4}, KEY | {"epoch": "3"}, KEY | {"more": 1}, {"data": "abc"}]
    cases = [(KEY, "views"), *((key, "logits") for key in keys)]
    for number, (key, kind) in enumerate(cases):
        assert get(cache, key, number, kind)[1] == 1
    for number, (key, kind) in enumerate(cases):
        tensors, built = get(cache, key, 99, kind)
        assert built == 0 and equal(tensors, make(number))


@pytest.mark.parametrize(("keep", "filled"), [(0, False), (0.5, False), (0.99, True)])
def test_a_damaged_entry_is_built_again(tmp_path, keep, filled):
    get(Cache(tmp_path))
    content = (file := entries(tmp_path)[0]).read_bytes()
    kept = content[: int(keep * len(content))]
    file.write_bytes(kept.ljust(len(content), b"\0") if filled else kept)  # a crash leaves either
    assert rebuilt(Cache(tmp_path))


def test_an_entry_of_another_key_is_built_again(tmp_path):
    get(Cache(tmp_path / "other"), {"data": "foreign"}, 7)
    get(Cache(tmp_path / "own"))
    os.replace(*entries(tmp_path / "other"), *entries(tmp_path / "own"))
    assert rebuilt(Cache(tmp_path / "own"))


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


def test_a_builder_with_a_heartbeat_is_waited_for(tmp_path, start, monkeypatch):
    """Also if the clock of the waiter jumps by a day meanwhile."""
    monkeypatch.setattr(kdtune.streams.cache, "HANG_SECONDS", 1.0)
    start(1)
    before, real = time.monotonic(), time.time
    jump = lambda: real() + 86_400 * (time.monotonic() > before + 0.5)  # noqa: E731
    monkeypatch.setattr(time, "time", jump)
    cache = Cache(tmp_path / "c")
    hanging = cache._heartbeat(Key("logits", {"another": 1}))  # is none of this waiter's business
    hanging.parent.mkdir(exist_ok=True)
    hanging.write_text("{}")
    os.utime(hanging, (1e9, 1e9))
    threading.Timer(1.5, (tmp_path / "hold").unlink).start()
    tensors, built = get(cache)
    hanging.unlink()
    assert built == 0 and equal(tensors, make()) and clean(tmp_path)


def test_a_waiter_replaces_a_killed_builder(tmp_path, start):
    (process,) = start(1)
    threading.Timer(0.3, process.kill).start()
    tensors, built = get(Cache(tmp_path / "c"))
    process.join(0.5)  # if it had not waited, the builder would live on
    assert process.exitcode == -signal.SIGKILL and (tmp_path / "hold").exists()
    assert built == 1 and equal(tensors, make())
    assert get(Cache(tmp_path / "c"))[1] == 0 and clean(tmp_path)


def test_a_waiter_does_not_wait_for_a_builder_that_hangs(tmp_path, start, monkeypatch):
    monkeypatch.setattr(kdtune.streams.cache, "HANG_SECONDS", 1.0)
    (process,) = start(1)
    os.kill(process.pid, signal.SIGSTOP)
    assert rebuilt(Cache(tmp_path / "c"))
    (tmp_path / "hold").unlink()
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0 and clean(tmp_path)
    assert get(Cache(tmp_path / "c"))[1] == 0


def test_lock_files_are_deleted_when_they_are_old_and_free(tmp_path):
    cache = Cache(tmp_path)
    keys = [Key("logits", {"n": number}) for number in range(3)]
    for number, key in enumerate(keys):
        cache.get(key, "what", lambda progress, n=number: make(n))
    free, held, new = (next(tmp_path.glob(f"locks/*{key.name}.lock")) for key in keys)
    for file in (free, held):
        os.utime(file, (1e9, 1e9))
    with FileLock(held):
        os.utime(held, (1e9, 1e9))
        cache._delete_old_locks()
        assert not free.exists() and held.exists() and new.exists()
    assert get(cache, {"n": 0})[1] == 0


def test_what_is_being_built_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(kdtune.streams.cache, "HEARTBEAT_SECONDS", 0.0)
    cache, seen = Cache(tmp_path), []

    def build(progress):
        progress(3, 8)
        seen.extend(Cache(tmp_path).building())
        return make()

    cache.get(Key("logits", KEY), "logits, repeat 3, epoch 7", build)
    assert seen == [("logits, repeat 3, epoch 7", 3, 8)]
    assert list(cache.building()) == []


def test_eviction_leaves_the_users_own_files_alone(tmp_path):
    own = tmp_path / "train" / "ants" / "holiday.jpg"
    for file in (own, tmp_path / "views" / "of" / "rome.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 10_000)
    cache = Cache(tmp_path, gigabytes=2500e-9)
    for number in range(6):
        get(cache, {"n": number}, number)
    assert own.exists() and (tmp_path / "views" / "of" / "rome.jpg").exists()

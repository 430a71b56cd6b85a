"""What the cache takes from others: nothing.

Whoever may write an entry decides the logits of a study. Real users write in test_two_users.py.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.streams.cache import Cache, Key
from kdtune.streams.views import Resources

KEY = Key("logits", {"data": "abc"})
STRANGER = 54322
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def entry(cache: Cache) -> tuple[Path, dict[str, Tensor]]:
    made = cache.get(KEY, "logits", lambda progress: {"logits": torch.ones(2, 3)})
    (file,) = cache.folder.glob("*/*/*.safetensors")
    return file, made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1)


def test_a_folder_and_an_entry_of_ones_own_are_trusted(cache: Cache) -> None:
    cache.check()  # it does not exist
    entry(cache)
    cache.check()
    assert cache.find(KEY) is not None and not cache.warnings


def test_a_folder_that_all_may_write_is_refused(cache: Cache) -> None:
    entry(cache)
    cache.folder.chmod(0o777)
    with pytest.raises(InputError) as refused:
        Resources.of(Study(cache=str(cache.folder)))
    assert str(refused.value) == (
        f"the cache must be a folder that only you may write, but {cache.folder} may be written by "
        f"every user, who could change the logits that runs read; name another one (--cache "
        f"FOLDER), or close it to others (chmod go-w, chown)"
    )
    Resources.of(Study(cache=str(cache.folder), cache_gb=0))  # no cache is used


def give_away(path: Path, user: int = STRANGER, group: int = 0) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    os.chown(path, user, group, follow_symlinks=False)


def linked(folder: Path) -> Path:
    """Put a link in the folder's place; return where it is now."""
    folder.symlink_to(folder.rename(folder.with_name("elsewhere")))
    return folder.with_name("elsewhere")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
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
def test_a_folder_that_others_may_change_is_refused(
    tmp_path: Path, change: Callable[[Path], object], sentence: str | None
) -> None:
    cache = Cache(tmp_path / "parent" / "cache", 1)
    entry(cache)
    change(cache.folder)
    with nullcontext() if sentence is None else pytest.raises(InputError, match=sentence):
        cache.check()


def test_a_folder_to_be_made_where_all_may_rename_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match=rf"{tmp_path / 'new'} is inside {tmp_path}, which may be"):
        Cache(tmp_path / "new", 1).check()


def as_a_link(file: Path) -> None:
    file.symlink_to(file.rename(file.with_name("elsewhere")))


@pytest.mark.parametrize(
    ("change", "is_said"),
    [
        (lambda file: give_away(file, STRANGER, STRANGER), True),
        (lambda file: file.chmod(0o666), True),
        (as_a_link, False),
        (lambda file: file.unlink() or os.mkfifo(file), False),
    ],
    ids=["given away", "open to all", "a link", "a pipe"],
)
def test_an_entry_that_others_could_have_made_is_built_again(
    cache: Cache, change: Callable[[Path], object], is_said: bool
) -> None:
    file, _ = entry(cache)
    change(file)
    assert cache.find(KEY) is None
    if is_said:
        (sentence,) = cache.warnings.values()
        assert str(file) in sentence and sentence.endswith(", so it is computed again")
    other = cache.get(KEY, "logits", lambda progress: {"logits": torch.zeros(2, 3)})
    found = cache.find(KEY)
    assert found is not None and torch.equal(other["logits"], torch.zeros(2, 3))
    assert torch.equal(found["logits"], torch.zeros(2, 3)) and file.lstat().st_mode & 0o022 == 0


def test_nothing_is_written_through_a_link_among_the_folders(cache: Cache, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    cache.folder.mkdir()
    for name in ("logits", "locks", "building"):
        (cache.folder / name).symlink_to(victim)
    made = cache.get(KEY, "logits", lambda progress: {"logits": torch.ones(1)})
    assert torch.equal(made["logits"], torch.ones(1))
    assert list(victim.iterdir()) == []


@as_root
def test_nothing_is_written_into_a_subfolder_of_another_user(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = entry(cache)
    file.unlink()
    os.chown(file.parent, STRANGER, STRANGER)
    cache.get(KEY, "logits", lambda progress: {"logits": torch.ones(1)})
    assert list(file.parent.iterdir()) == []
    assert f"{file.parent} belongs to user {STRANGER}" in capsys.readouterr().err


def test_a_cache_is_its_owners_to_write_whatever_the_umask(cache: Cache) -> None:
    before = os.umask(0)
    try:
        entry(cache)
    finally:
        os.umask(before)
    cache.check()
    assert {p for p in cache.folder.rglob("*") if p.lstat().st_mode & 0o002} == set()

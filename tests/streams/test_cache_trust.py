"""What the cache takes from others: nothing.

Whoever may write an entry decides the logits of a study. Real users write in test_two_users.py.
"""

import os
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


@pytest.mark.parametrize(("mode", "who"), [(0o777, "every user"), (0o1777, "every user")])
def test_a_folder_that_all_may_write_is_refused(cache: Cache, mode: int, who: str) -> None:
    entry(cache)
    cache.folder.chmod(mode)
    with pytest.raises(InputError) as refused:
        Resources.of(Study(cache=str(cache.folder)))
    assert str(refused.value) == (
        f"the cache must be a folder that only you may write, but {cache.folder} may be written by "
        f"{who}, who could change the logits that runs read; name another one (--cache FOLDER), or "
        "close it to others (chmod go-w, chown)"
    )
    Resources.of(Study(cache=str(cache.folder), cache_gb=0))  # no cache is used


@as_root
def test_a_folder_of_another_user_is_refused(cache: Cache, tmp_path: Path) -> None:
    entry(cache)
    os.chown(cache.folder, STRANGER, 0)
    with pytest.raises(InputError, match=rf"but {cache.folder} belongs to user {STRANGER}, who"):
        cache.check()
    linked = Cache(tmp_path / "link", 1)
    linked.folder.symlink_to(cache.folder)
    with pytest.raises(InputError, match=f"belongs to user {STRANGER}"):
        linked.check()


@as_root
def test_a_link_of_another_user_is_refused(cache: Cache, tmp_path: Path) -> None:
    """Who owns the link may turn it to another folder of the victim's at any time."""
    entry(cache)
    linked = Cache(tmp_path / "link", 1)
    linked.folder.symlink_to(cache.folder)
    linked.check()
    os.chown(linked.folder, STRANGER, 0, follow_symlinks=False)
    with pytest.raises(InputError, match=f"{linked.folder} belongs to user {STRANGER}"):
        linked.check()


@as_root
def test_a_group_may_write_only_if_it_is_the_users_own(cache: Cache) -> None:
    entry(cache)
    cache.folder.chmod(0o775)
    cache.check()  # root's
    os.chown(cache.folder, 0, 54323)
    with pytest.raises(InputError, match="may be written by group 54323"):
        cache.check()


def test_a_folder_where_all_may_rename_what_others_own_is_refused(tmp_path: Path) -> None:
    open_, sticky = tmp_path / "open", tmp_path / "sticky"
    open_.mkdir()
    open_.chmod(0o777)
    sticky.mkdir()
    sticky.chmod(0o1777)  # as /tmp
    for name in ("new", "there"):
        Cache(sticky / name, 1).check()
        with pytest.raises(InputError, match=rf"{open_ / name} is inside {open_}, which may be"):
            Cache(open_ / name, 1).check()
        (open_ / "there").mkdir(exist_ok=True)
        (sticky / "there").mkdir(exist_ok=True)


@pytest.mark.parametrize("change", ["given away", "open to all", "a link", "a pipe"])
def test_an_entry_that_others_could_have_made_is_built_again(cache: Cache, change: str) -> None:
    if change == "given away" and os.geteuid() != 0:
        pytest.skip("only root may give files away")
    file, _ = entry(cache)
    if change == "given away":
        os.chown(file, STRANGER, STRANGER)
    elif change == "open to all":
        file.chmod(0o666)
    elif change == "a link":
        file.rename(cache.folder / "elsewhere")
        file.symlink_to(cache.folder / "elsewhere")
    else:
        file.unlink()
        os.mkfifo(file)
    assert cache.find(KEY) is None
    if change in ("given away", "open to all"):
        (sentence,) = cache.warnings.values()
        assert str(file) in sentence and sentence.endswith(", so it is computed again")
    other = cache.get(KEY, "logits", lambda progress: {"logits": torch.zeros(2, 3)})
    assert torch.equal(other["logits"], torch.zeros(2, 3))
    found = cache.find(KEY)
    assert found is not None and torch.equal(found["logits"], torch.zeros(2, 3))
    assert file.lstat().st_mode & 0o022 == 0


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

"""The store against moto's S3 service over HTTP: whole objects, outages."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from s3_service import ENVIRONMENT, S3

from kdtune.config.errors import InputError
from kdtune.storage import object_store as storage
from kdtune.storage.fetch import fetch
from kdtune.storage.object_store import Store, reach


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> Store:
    return Store(f"s3://kdtune/{tmp_path.name}")


def test_what_is_put_is_got_and_listed(store: Store, tmp_path: Path) -> None:
    data = os.urandom(6_000_000)  # more than one part of an upload
    (tmp_path / "a").write_bytes(data)
    store.put(tmp_path / "a", "trials/x/a")
    assert store.get("trials/x/a", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == data
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["b"]  # nothing left aside
    assert store.names() == ["trials/x/a"] == store.names("trials")
    assert store.names("epochs") == []
    (tmp_path / "a").write_bytes(b"short")
    store.put(tmp_path / "a", "trials/x/a")
    store.get("trials/x/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"short"


def test_what_is_not_there_is_no_fault(store: Store, tmp_path: Path) -> None:
    assert not store.get("gone", tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    store.delete("gone")


def test_an_outage_of_seconds_is_ridden_out(
    store: Store, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("before")
    store.put(tmp_path / "a", "a")
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 1.0)
    store = Store(store.uri)
    s3.process.send_signal(signal.SIGSTOP)
    waker = subprocess.Popen(["sh", "-c", f"sleep 5; kill -CONT {s3.process.pid}"])
    try:
        began = time.monotonic()
        assert store.get("a", tmp_path / "b")
        assert time.monotonic() - began > 4
    finally:
        waker.wait()
    assert (tmp_path / "b").read_text() == "before"


def test_what_may_be_written_no_more_is_not_written_when_an_outage_ends(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 1.0)
    store, tries = Store(f"s3://kdtune/{tmp_path.name}"), 0

    def guard() -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            s3.process.send_signal(signal.SIGCONT)
            raise InputError("another's")

    store.guard = guard
    (tmp_path / "a").write_text("a")
    s3.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(InputError, match="another's"):
            store.put(tmp_path / "a", "a")
    finally:
        s3.process.send_signal(signal.SIGCONT)
    assert store.names() == []
    tries = 1
    with pytest.raises(InputError, match="another's"):
        store.delete("a")


def test_patience_ends(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 1.0)
    impatient = Store(f"s3://kdtune/{tmp_path.name}", retry_timeout=1.0)
    s3.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(OSError, match=r"GET http://127\.0\.0\.1:\d+/kdtune/.*: no answer"):
            impatient.get("a", tmp_path / "a")
    finally:
        s3.process.send_signal(signal.SIGCONT)
    assert list(tmp_path.glob("*.part")) == []


def test_a_service_that_is_down_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(InputError, match="s3://kdtune/x cannot be reached"):
        reach("s3://kdtune/x")
    assert time.monotonic() - began < 30


def test_a_place_that_is_none_is_said(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be one of s3, .* but got nowhere://kdtune"):
        Store("nowhere://kdtune", retry_timeout=1.0)
    (tmp_path / "a").write_text("a")
    began = time.monotonic()
    with pytest.raises(OSError, match="NoSuchBucket"):
        Store("s3://no-such-bucket/runs").put(tmp_path / "a", "a")
    assert time.monotonic() - began < 20  # no waiting where waiting mends nothing


def test_fetch_says_where_there_is_no_study(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold study\.json, but s3://kdtune/.*/gone"):
        fetch(f"s3://kdtune/{tmp_path.name}/gone")

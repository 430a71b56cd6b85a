"""The store against moto's S3 service over HTTP: whole objects, outages, conditional writes."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from s3_service import ENVIRONMENT, S3

from kdtune.config.text import InputError
from kdtune.storage import store as storage
from kdtune.storage.mirror import fetch
from kdtune.storage.store import ConflictError, PermanentError, Store, reach


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> Store:
    return Store(f"s3://kdtune/{tmp_path.name}")


def test_put_get_and_names_agree(store: Store, tmp_path: Path) -> None:
    data = os.urandom(6_000_000)  # more than one part of an upload
    (tmp_path / "a").write_bytes(data)
    store.put(tmp_path / "a", "trials/x/a")
    assert store.get("trials/x/a", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == data
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["b"]  # no temporary file is left
    assert store.names() == ["trials/x/a"] == store.names("trials")
    assert store.names("epochs") == []
    (tmp_path / "a").write_bytes(b"short")
    store.put(tmp_path / "a", "trials/x/a")
    store.get("trials/x/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"short"


def test_a_missing_object_is_no_error(store: Store, tmp_path: Path) -> None:
    assert not store.get("gone", tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    store.delete("gone")


def test_requests_are_retried_through_an_outage(
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


def test_the_guard_is_asked_before_each_retry(
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


def test_retries_end_after_the_timeout(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 1.0)
    briefly = Store(f"s3://kdtune/{tmp_path.name}", retry_timeout=1.0)
    s3.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(OSError, match=r"GET http://127\.0\.0\.1:\d+/kdtune/.*: no answer"):
            briefly.get("a", tmp_path / "a")
    finally:
        s3.process.send_signal(signal.SIGCONT)
    assert list(tmp_path.glob("*.part")) == []


def test_a_service_that_is_down_is_reported_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(InputError, match="s3://kdtune/x cannot be reached"):
        reach("s3://kdtune/x")
    assert time.monotonic() - began < 30


def test_an_unknown_scheme_or_bucket_is_reported_at_once(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be one of s3, .* but got nowhere://kdtune"):
        Store("nowhere://kdtune", retry_timeout=1.0)
    (tmp_path / "a").write_text("a")
    began = time.monotonic()
    with pytest.raises(OSError, match="NoSuchBucket"):
        Store("s3://no-such-bucket/runs").put(tmp_path / "a", "a")
    assert time.monotonic() - began < 20  # not retried


def test_fetch_reports_that_there_is_no_study(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold study\.json, but s3://kdtune/.*/gone"):
        fetch(f"s3://kdtune/{tmp_path.name}/gone")


def test_a_file_may_be_created_only_once(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    version = store.put(file, "a", version={})
    assert store.put(file, "a", version={}) == version  # an attempt that has landed is a success
    file.write_text("two")
    with pytest.raises(ConflictError):
        store.put(file, "a", version={})
    newer = store.put(file, "a", version=version)
    file.write_text("three")
    with pytest.raises(ConflictError):
        store.put(file, "a", version=version)
    found = store.read("a")
    assert found is not None and (found.content, found.version) == (b"two", newer)
    with pytest.raises(ConflictError):
        store.put(file, "gone", version=version)
    assert store.get("a", tmp_path / "b") == newer


def test_objects_that_stand_for_folders_are_not_listed(
    s3: S3, store: Store, tmp_path: Path
) -> None:
    """As the console of S3 makes them."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3.url)
    for name in ("", "epochs/"):
        client.put_object(Bucket="kdtune", Key=f"{tmp_path.name}/{name}", Body=b"")
    (tmp_path / "a").write_text("a")
    store.put(tmp_path / "a", "epochs/a")
    assert store.names("epochs") == ["epochs/a"]


class Proxy:
    """moto's S3 with a fault: a request whose method and path match gets a status of 500."""

    def __init__(self, url: str, method: str, words: str):
        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.command == method and words in self.path:
                    return self.answer(500, {}, b"")
                kept = {k: v for k, v in self.headers.items() if k.lower() != "content-length"}
                data = body if self.command in ("PUT", "POST") else None
                request = urllib.request.Request(url + self.path, data, kept, method=self.command)
                try:
                    with urllib.request.urlopen(request) as response:
                        self.answer(response.status, dict(response.headers), response.read())
                except urllib.error.HTTPError as error:
                    self.answer(error.code, dict(error.headers), error.read())

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign] # who hangs up
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.mark.parametrize(("method", "words"), [("PUT", "partNumber=2"), ("POST", "uploadId=")])
def test_an_upload_that_fails_leaves_nothing(
    s3: S3, tmp_path: Path, method: str, words: str
) -> None:
    """Neither an object nor parts of one, which cost money unseen."""
    import boto3

    proxy = Proxy(s3.url, method, words)
    options = f"endpoint_override=127.0.0.1:{proxy.server.server_port}&scheme=http"
    store = Store(f"s3://kdtune/{tmp_path.name}?{options}", retry_timeout=0.1)
    (tmp_path / "a").write_bytes(os.urandom(12_000_000))
    try:
        with pytest.raises(OSError, match="500"):
            store.put(tmp_path / "a", "a")
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
    client = boto3.client("s3", endpoint_url=s3.url)
    assert client.list_multipart_uploads(Bucket="kdtune").get("Uploads", []) == []
    assert Store(f"s3://kdtune/{tmp_path.name}").names() == []


def test_a_download_that_is_cut_off_leaves_the_old_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(os.urandom(100))
    store.put(tmp_path / "a", "a")
    real = store._store

    class Cut:
        def get(self, name: str) -> object:
            whole = real.get(name)

            class Result:
                meta = whole.meta

                def stream(self, min_chunk_size: int) -> list[bytes]:
                    return [b"half"]

            return Result()

    monkeypatch.setattr(store, "_store", Cut())
    store.retry_timeout = 0.1
    (tmp_path / "b").write_text("old")
    with pytest.raises(OSError, match="cut off"):
        store.get("a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "old"
    assert list(tmp_path.glob("*.part")) == []


STREAMED = """
import re, sys
from pathlib import Path
from kdtune.storage.store import Store

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

store, file = Store(sys.argv[1]), Path(sys.argv[2])
Path("small").write_text("small")
store.put(Path("small"), "small")
store.get("small", Path("small"))
before = peak()
store.put(file, "big")
store.get("big", Path("fetched"))
assert Path("fetched").stat().st_size == file.stat().st_size
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_large_files_are_streamed(s3: S3, tmp_path: Path) -> None:
    """Memory holds the parts that are sent at once, not the file of 96 MiB."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(96 * 2**20)
    uri = f"s3://kdtune/{tmp_path.name}"
    command = [sys.executable, "-c", STREAMED, uri, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60
    Store(uri).delete("big")


def test_a_denied_request_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def denied(*_: object) -> None:
        asked.append(1)
        raise storage.PermissionDeniedError("<Code>AccessDenied</Code>")

    store = Store(f"memory://{tmp_path.name}")
    monkeypatch.setattr(store._store, "head", denied, raising=False)
    (tmp_path / "a").write_text("a")
    with pytest.raises(PermanentError, match="AccessDenied"):
        store.put(tmp_path / "a", "a")
    assert len(asked) == 1


def test_a_store_in_a_folder_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x").write_text("x")
    store = Store((tmp_path / "a b").as_uri())
    assert store.names() == ["x"]
    assert store.get("x", tmp_path / "y") and (tmp_path / "y").read_text() == "x"
    assert store.get("gone", tmp_path / "z") is None

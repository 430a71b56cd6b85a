"""The store: moto's S3 over HTTP, outages, conditional writes, options, regions and credentials."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from obstore.exceptions import PermissionDeniedError
from s3_service import ENVIRONMENT, S3

from kdtune.config.text import InputError
from kdtune.storage import store as storage
from kdtune.storage.mirror import fetch
from kdtune.storage.store import ConflictError, PermanentError, Store, connect


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> Store:
    return Store(f"s3://kdtune/{tmp_path.name}")


def test_put_get_and_names_agree(s3: S3, store: Store, tmp_path: Path) -> None:
    """Objects that stand for folders, as S3's console makes them, are not listed."""
    import boto3

    data = os.urandom(6_000_000)  # more than one part of an upload
    (tmp_path / "a").write_bytes(data)
    store.put(tmp_path / "a", "trials/x/a")
    assert store.get("trials/x/a", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == data
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["b"]  # no temporary file is left
    assert store.names() == ["trials/x/a"] == store.names("trials")
    client = boto3.client("s3", endpoint_url=s3.url)
    for name in ("", "epochs/", "trials/", "trials/x/"):
        client.put_object(Bucket="kdtune", Key=f"{tmp_path.name}/{name}", Body=b"")
    assert store.names("epochs") == [] and store.names() == ["trials/x/a"]
    (tmp_path / "a").write_bytes(b"short")
    store.put(tmp_path / "a", "trials/x/a")
    store.get("trials/x/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"short"


def test_requests_are_retried_through_an_outage(
    store: Store, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("before")
    store.put(tmp_path / "a", "a")
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 0.5)
    store, briefly = Store(store.uri), Store(store.uri, retry_timeout=0.5)
    s3.process.send_signal(signal.SIGSTOP)
    with pytest.raises(OSError, match=r"GET http://127\.0\.0\.1:\d+/kdtune/.*: no answer"):
        briefly.get("a", tmp_path / "a")
    waker = subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {s3.process.pid}"])
    try:
        began = time.monotonic()
        assert store.get("a", tmp_path / "b")
        assert time.monotonic() - began > 0.5
    finally:
        waker.wait()
    assert (tmp_path / "b").read_text() == "before"
    assert list(tmp_path.glob("*.part")) == []


def test_the_guard_is_asked_before_each_try_and_a_denied_request_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, answers = Store(f"memory://{tmp_path.name}"), iter([None, InputError("another's")])
    asked = []

    def guard() -> None:
        if answer := next(answers):
            raise answer

    def head(*_: object) -> None:
        raise OSError("no answer")

    def denied(*_: object) -> None:
        asked.append(1)
        raise PermissionDeniedError("<Code>AccessDenied</Code>")

    store.guard = guard
    monkeypatch.setattr(store._store, "head", head, raising=False)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)
    (tmp_path / "a").write_text("a")
    with pytest.raises(InputError, match="another's"):
        store.put(tmp_path / "a", "a")
    assert next(answers, "asked twice") == "asked twice"
    answers = iter([InputError("another's")])
    with pytest.raises(InputError, match="another's"):
        store.delete("a")
    store.guard = lambda: None
    monkeypatch.setattr(store._store, "head", denied, raising=False)
    with pytest.raises(PermanentError, match="AccessDenied"):
        store.put(tmp_path / "a", "a")
    assert len(asked) == 1


def test_an_unknown_bucket_or_study_is_reported_at_once(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    began = time.monotonic()
    with pytest.raises(OSError, match="NoSuchBucket"):
        Store("s3://no-such-bucket/runs").put(tmp_path / "a", "a")
    assert time.monotonic() - began < 20  # not retried
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


def test_a_download_that_is_cut_off_leaves_the_old_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(os.urandom(100))
    store.put(tmp_path / "a", "a")
    whole = store._store.get("a")
    cut = SimpleNamespace(meta=whole.meta, stream=lambda min_chunk_size: [b"half"])
    monkeypatch.setattr(store, "_store", SimpleNamespace(get=lambda name: cut))
    store.retry_timeout = 0.1
    (tmp_path / "b").write_text("old")
    with pytest.raises(OSError, match="cut off"):
        store.get("a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "old"
    assert list(tmp_path.glob("*.part")) == []


VARIABLES = [*ENVIRONMENT, *storage.OBSTORE_CREDENTIALS]
VARIABLES += ["AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]
VARIABLES += ["AWS_CA_BUNDLE", "GOOGLE_BASE_URL"]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that says nothing about AWS; returns the home folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage._bucket_region.cache_clear()
    return tmp_path


class Amazon(BaseHTTPRequestHandler):
    """Amazon's S3, which refuses each request and names the region of the bucket."""

    requests: ClassVar[list[tuple[str, str, str]]] = []

    def do_HEAD(self) -> None:
        self.requests.append((self.command, self.path, self.headers.get("Authorization") or ""))
        self.send_response_only(403)
        self.send_header("x-amz-bucket-region", "eu-south-2")
        self.end_headers()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a fresh `Amazon`, which every bucket's region is asked of."""
    Amazon.requests.clear()
    with HTTPServer(("127.0.0.1", 0), Amazon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(storage, "GLOBAL_S3", f"http://127.0.0.1:{server.server_port}")
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_options_of_a_uri_arrive(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    host = s3.url.removeprefix("http://")
    options = f"region=us-west-2&endpoint_override={host}&scheme=http"
    store = Store(f"s3://kdtune/{tmp_path.name}/a%20b?{options}", retry_timeout=1.0)
    (tmp_path / "x").write_text("x")
    store.put(tmp_path / "x", "x")
    assert store.names() == ["x"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)  # goes before AWS_ENDPOINT_URL
    assert Store(f"s3://kdtune/{tmp_path.name}").names() == ["a b/x"]


UNUSABLE = {
    "nowhere://x": "scheme of s3, .* but got nowhere://x",
    "file:///x": "scheme of s3, .* but got file:///x",
    "s3://key:secret@bucket/x": "s3://bucket/x must not hold credentials.*AWS_ACCESS_KEY_ID",
    "s3://bucket/x?secret_access_key=a": "must not hold credentials",
    "s3://bucket/x?regoin=a&region=b": "'regoin' is not valid",
    "az://container/x": "Account must be specified",
}


def test_an_unusable_uri_is_reported_at_once(bare: Path) -> None:
    began = time.monotonic()
    for uri, message in UNUSABLE.items():
        with pytest.raises(InputError, match=message) as caught:
            Store(uri)
        assert "key:secret" not in str(caught.value)
    assert time.monotonic() - began < 5


def test_uris_of_google_and_azure_and_no_boto3(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    google = connect("gs://bucket/runs?skip_signature=true", 1.0)
    assert (type(google).__name__, google.prefix) == ("GCSStore", "runs")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
    azure = connect("az://container/runs", 1.0)
    assert (type(azure).__name__, azure.prefix) == ("AzureStore", "runs")
    azure = connect("abfss://container@other.dfs.core.windows.net/runs", 1.0)
    assert azure.config["account_name"] == "other"
    monkeypatch.setitem(sys.modules, "boto3", None)
    connect("s3://bucket/x?region=us-west-2", 1.0)  # perhaps the machine has a role
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(InputError, match=r"need boto3.*pip install 'kdtune\[cluster\]'"):
        connect("s3://bucket/x?region=us-west-2", 1.0)


def test_the_region_is_amazons(bare: Path, amazon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the environment, since requests to another region are refused."""
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    for _ in range(2):  # is asked for once
        store = connect("s3://bucket/runs", 1.0)
        assert store.config["region"] == "eu-south-2"
    assert Amazon.requests == [("HEAD", "/bucket", "")]
    assert connect("s3://bucket/runs?region=ap-east-1", 1.0).config["region"] == "ap-east-1"
    monkeypatch.setattr(storage, "GLOBAL_S3", "http://127.0.0.1:9")  # behind a firewall
    assert connect("s3://other/runs", 1.0).config["region"] == "us-west-2"
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(InputError, match="s3://other/runs cannot be reached"):
        Store("s3://other/runs", retry_timeout=0.1)


def test_credentials_of_a_profile(bare: Path, amazon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    (bare / ".aws").mkdir()
    keys = "[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = x\n"
    (bare / ".aws" / "credentials").write_text(keys)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(bare / ".aws" / "credentials"))
    uri = f"s3://bucket/runs?endpoint_override={amazon}&scheme=http"
    with pytest.raises(PermissionDeniedError):
        connect(uri, 1.0).head("x")
    ((_, path, signed),) = Amazon.requests
    assert path == "/bucket/runs/x" and "Credential=LABKEY/" in signed
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(InputError, match=r"AWS configuration cannot be used.*none"):
        connect(uri, 1.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OWN")  # goes before the profile, without boto3
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(PermissionDeniedError):
        connect(uri, 1.0).head("x")
    assert "Credential=OWN/" in Amazon.requests[-1][2]

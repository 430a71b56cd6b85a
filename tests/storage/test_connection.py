"""Options of a URI, regions and credentials of the stores behind it."""

import builtins
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import PermissionDeniedError
from s3_service import ENVIRONMENT, S3

from kdtune.config.files import join_uri
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.storage import store as connection
from kdtune.storage.store import Store, connect

VARIABLES = [*ENVIRONMENT, *connection.OBSTORE_CREDENTIALS]
VARIABLES += ["AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]
VARIABLES += ["AWS_CA_BUNDLE", "GOOGLE_BASE_URL"]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that says nothing about AWS; returns the home folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    connection._bucket_region.cache_clear()
    return tmp_path


class Service:
    """An HTTP service that answers each request with one status and these headers."""

    def __init__(self, status: int, headers: dict[str, str]):
        self.requests: list[tuple[str, str, str]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                signed = self.headers.get("Authorization") or ""
                service.requests.append((self.command, self.path, signed))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Amazon's S3, which refuses the request and names the region of the bucket."""
    service = Service(403, {"x-amz-bucket-region": "eu-south-2"})
    monkeypatch.setattr(connection, "GLOBAL_S3", service.url)
    yield service
    service.close()


def test_a_name_is_joined_before_the_options(tiny: Run) -> None:
    options = "region=us-west-2&endpoint_override=host:1&scheme=http"
    study = Study(name="a", out=f"s3://bucket/runs/?{options}", run=tiny)
    assert study.uri == f"s3://bucket/runs/a?{options}"
    assert join_uri("s3://bucket/runs", "b") == "s3://bucket/runs/b"


def test_options_of_a_uri_reach_the_store(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nowhere://x", "must be one of s3, .* but got nowhere://x"),
        ("s3://key:secret@bucket/x", "s3://bucket/x must not hold credentials.*AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?secret_access_key=a", "must not hold credentials"),
        ("s3://bucket/x?regoin=a&region=b", "'regoin' is not valid"),
        ("memory://x?a=b", "has no options"),
        ("az://container/x", "Account must be specified"),
    ],
)
def test_an_unusable_uri_is_reported_at_once(bare: Path, uri: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=said) as caught:
        Store(uri)
    assert time.monotonic() - began < 5
    assert "key:secret" not in str(caught.value)


def test_uris_of_google_and_azure(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    google = connect("gs://bucket/runs?skip_signature=true", 1.0)
    assert (type(google).__name__, google.prefix) == ("GCSStore", "runs")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
    azure = connect("az://container/runs", 1.0)
    assert (type(azure).__name__, azure.prefix) == ("AzureStore", "runs")
    azure = connect("abfss://container@other.dfs.core.windows.net/runs", 1.0)
    assert azure.config["account_name"] == "other"


def test_the_region_of_a_bucket_is_amazons(
    bare: Path, amazon: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the environment, since requests to another region are refused."""
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    for _ in range(2):  # is asked for once
        store = connect("s3://bucket/runs", 1.0)
        assert store.config["region"] == "eu-south-2"
    assert amazon.requests == [("HEAD", "/bucket", "")]
    assert connect("s3://bucket/runs?region=ap-east-1", 1.0).config["region"] == "ap-east-1"
    monkeypatch.setattr(connection, "GLOBAL_S3", "http://127.0.0.1:9")  # behind a firewall
    assert connect("s3://other/runs", 1.0).config["region"] == "us-west-2"
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(InputError, match="s3://other/runs cannot be reached"):
        Store("s3://other/runs", retry_timeout=0.1)


def test_credentials_of_a_profile_sign_the_requests(
    bare: Path, amazon: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    (bare / ".aws").mkdir()
    (bare / ".aws" / "credentials").write_text(
        "[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = x\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(bare / ".aws" / "credentials"))
    host = amazon.url.removeprefix("http://")
    uri = f"s3://bucket/runs?endpoint_override={host}&scheme=http"
    with pytest.raises(PermissionDeniedError):
        connect(uri, 1.0).head("x")
    ((_, path, signed),) = amazon.requests
    assert path == "/bucket/runs/x" and "Credential=LABKEY/" in signed
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(InputError, match=r"AWS configuration cannot be used.*none"):
        connect(uri, 1.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OWN")  # goes before the profile, without boto3
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(PermissionDeniedError):
        connect(uri, 1.0).head("x")
    assert "Credential=OWN/" in amazon.requests[-1][2]


def test_a_profile_without_boto3_is_reported(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_boto3(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "boto3":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_boto3)
    connect("s3://bucket/x?region=us-west-2", 1.0)  # perhaps the machine has a role
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(InputError, match=r"need boto3.*pip install 'kdtune\[cluster\]'"):
        connect("s3://bucket/x?region=us-west-2", 1.0)

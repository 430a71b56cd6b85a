"""Connection to an object store: options of its URI, credentials, region, timeouts."""

import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from os import environ
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from obstore.store import LocalStore, MemoryStore, from_url

from kdtune.config.errors import InputError
from kdtune.config.places import AZURE, S3, check_uri

GLOBAL_S3 = "https://s3.amazonaws.com"
"""Answers for each bucket of Amazon's, among other things with its region."""
CREDENTIALS_SECONDS = 600
"""Credentials of boto3 are asked for again after this time; boto3 renews them at least that long
before they expire."""
OWN_CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
"""Environment variables of credentials that obstore reads without boto3."""
SECRET = re.compile("secret|token|password|credential|(access|account|sas|customer|encryption)_key")

_environment = threading.Lock()


def connect(uri: str, answer_seconds: float) -> Any:
    """Return obstore's object for a URI; requests are not retried.

    Only the search for the region of an Amazon bucket makes a request.

    Args:
        uri: SCHEME://BUCKET/PREFIX?OPTION=VALUE&…. Options are the configuration keys of obstore's
            store of that scheme, and for S3 the names that Arrow has given three of them: region,
            endpoint_override, scheme (http or https).
        answer_seconds: time after which a connection or a request without progress fails.

    Raises:
        InputError: The scheme or an option is unknown, or the URI holds credentials.
        OSError: The region of the bucket cannot be found out.
        obstore.exceptions.BaseError: The configuration is incomplete.
    """
    place, _, query = uri.partition("?")
    options = _options(uri, query)
    scheme = urlsplit(place).scheme
    if scheme == "file":
        return LocalStore(unquote(urlsplit(place).path))
    if scheme == "memory":
        return _memory(place)
    hidden, credentials = None, None
    if scheme in S3:
        if options.keys() & {"endpoint", "endpoint_override"}:
            hidden = "AWS_ENDPOINT_URL_S3"  # obstore prefers it to the endpoint it is given
        options = _s3_options(options, urlsplit(place).netloc, answer_seconds)
        credentials = _aws_credentials(options)
    arguments: dict[str, Any] = {
        "client_options": _client_options(options, answer_seconds),
        "config": options,
        "credential_provider": credentials,
        "retry_config": {"max_retries": 0},
    }
    with _without(hidden):
        return from_url(place, **arguments)


def server_time(store: Any, answer_seconds: float) -> float | None:
    """Return a service's own time in seconds since 1970, UTC; None if the service does not tell.

    The time is in the Date header of every HTTP response, refusals included.
    """
    url = _service(store)
    if url is None:
        return None
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the store's own address
    headers: Any
    try:
        with urllib.request.urlopen(request, timeout=answer_seconds) as response:  # noqa: S310 - the store's own address
            headers = response.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except (OSError, ValueError):
        return None
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp()
    except (TypeError, ValueError):
        return None


def _service(store: Any) -> str | None:
    """Return the URL of the service of a store; None for files and memory."""
    config = getattr(store, "config", {})
    if type(store).__name__ == "S3Store":
        own = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        region = config.get("region")
        amazon = f"https://s3.{region}.amazonaws.com" if region else GLOBAL_S3
        return str(config.get("endpoint") or own or amazon)
    if type(store).__name__ == "GCSStore":
        return environ.get("GOOGLE_BASE_URL") or "https://storage.googleapis.com"
    if type(store).__name__ == "AzureStore":
        account = config.get("account_name") or environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        return f"https://{account}.blob.core.windows.net"
    return None


def _options(uri: str, query: str) -> dict[str, str]:
    """Return the options of a URI, checked."""
    check_uri(uri)
    parts = urlsplit(uri)
    options = dict(parse_qsl(query, keep_blank_values=True))
    secret = any(SECRET.search(name.lower()) for name in options)
    if secret or ("@" in parts.netloc and parts.scheme not in AZURE):
        place = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise InputError(
            f"the URI of {place} must not hold credentials, since it is kept in study.json. Set "
            f"them in the environment (for example AWS_ACCESS_KEY_ID)"
        )
    if options and parts.scheme in ("file", "memory"):
        raise InputError(f"a {parts.scheme}:// URI has no options, but got {uri}")
    return options


def _s3_options(options: dict[str, str], bucket: str, answer_seconds: float) -> dict[str, str]:
    """Return obstore's configuration for options that may have Arrow's names."""
    options = dict(options)
    scheme = options.pop("scheme", "https")
    endpoint = options.pop("endpoint_override", None) or options.pop("endpoint", None)
    endpoint = endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    if "region" not in options:
        own = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        region = own if endpoint else _bucket_region(bucket, own, answer_seconds)
        options |= {"region": region} if region else {}
    # the bulk request is Amazon's alone; other services may lack it
    return {"disable_bulk_delete": "true"} | options


@cache
def _bucket_region(bucket: str, own: str | None, answer_seconds: float) -> str | None:
    """Return the region that Amazon names for a bucket, or else the configured one.

    Raises OSError if Amazon does not answer and no region is configured.
    """
    request = urllib.request.Request(f"{GLOBAL_S3}/{bucket}", method="HEAD")  # noqa: S310 - the store's own address
    headers: Any = {}
    try:
        with urllib.request.urlopen(request, timeout=answer_seconds) as response:  # noqa: S310 - the store's own address
            headers = response.headers
    except urllib.error.HTTPError as error:  # also a refusal names the region
        headers = error.headers
    except OSError:
        if own is None:
            raise
    return headers.get("x-amz-bucket-region") or own


def _aws_credentials(options: dict[str, str]) -> Any:
    """Return boto3's credentials where obstore would find none: profiles, SSO, assumed roles.

    obstore itself reads keys from the environment, web identities, and the roles of containers and
    instances.
    """
    if "skip_signature" in options or any(environ.get(name) for name in OWN_CREDENTIALS):
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if environ.get("AWS_PROFILE") or (Path.home() / ".aws" / "credentials").exists():
            raise InputError(
                "profiles of AWS need boto3, which is not installed. "
                "Run: pip install 'kdtune[cluster]'"
            ) from None
        return None
    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            return None
    except BotoCoreError as error:
        raise InputError(f"the AWS configuration cannot be used ({error})") from None
    if session.region_name:
        options.setdefault("region", session.region_name)
    return Boto3CredentialProvider(session, ttl=timedelta(seconds=CREDENTIALS_SECONDS))


def _client_options(options: dict[str, str], answer_seconds: float) -> dict[str, Any]:
    """Return the options of the HTTP client, those of them in the URI taken out of it."""
    answer = timedelta(seconds=answer_seconds)
    services = (options.get("endpoint"), environ.get("GOOGLE_BASE_URL"))
    client: dict[str, Any] = {
        "allow_http": any((url or "").startswith("http://") for url in services),
        "connect_timeout": answer,
        "read_timeout": answer,
        "timeout": timedelta(days=1),  # by default a download may take 30 s, whatever its size
    }
    bundle = options.pop("tls_ca_file_path", None) or environ.get("AWS_CA_BUNDLE")
    if bundle:
        client["root_certificate"] = Path(bundle).read_bytes()
    return client


@contextmanager
def _without(name: str | None) -> Iterator[None]:
    """Hide an environment variable for a moment."""
    with _environment:
        value = os.environ.pop(name, None) if name else None
        try:
            yield
        finally:
            if name and value is not None:
                os.environ[name] = value


@cache
def _memory(place: str) -> MemoryStore:
    """Return the store of a memory:// URI, the same one for the whole process (for tests)."""
    return MemoryStore()

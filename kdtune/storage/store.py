"""Object stores: whole objects in and out, conditional writes, connections."""

import logging
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, cached_property, partial
from os import environ, utime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from obstore import exceptions as errors
from obstore.store import MemoryStore, from_url

from kdtune.config.files import AZURE, S3, atomic_write, check_uri
from kdtune.config.text import InputError, first_line

# Connection to an object store: options of its URI, credentials, region, timeouts.


GLOBAL_S3 = "https://s3.amazonaws.com"
"""Answers for each bucket of Amazon's, among other things with its region."""
CREDENTIALS_SECONDS = 600
"""Credentials of boto3 are asked for again after this time; boto3 renews them at least that long
before they expire."""
OBSTORE_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_SKIP_SIGNATURE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
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
    root = uri.partition("?")[0]
    options = _options(uri)
    parts = urlsplit(root)
    if parts.scheme == "memory":
        return _memory(root)
    credentials = None
    if parts.scheme in S3:
        options = _s3_options(options, parts.netloc, answer_seconds)
        credentials = _aws_credentials(options)
    arguments: dict[str, Any] = {
        "client_options": _client_options(options, answer_seconds),
        "config": options,
        "credential_provider": credentials,
        "retry_config": {"max_retries": 0},
    }
    with _environment:
        # obstore prefers this variable, which is among the options, to the endpoint it is given
        hidden = environ.pop("AWS_ENDPOINT_URL_S3", None)
        try:
            return from_url(root, **arguments)
        finally:
            if hidden is not None:
                environ["AWS_ENDPOINT_URL_S3"] = hidden


def _options(uri: str) -> dict[str, str]:
    """Return the options of a URI; raise InputError if it holds credentials."""
    check_uri(uri)
    parts = urlsplit(uri)
    options = dict(parse_qsl(uri.partition("?")[2], keep_blank_values=True))
    secret = any(SECRET.search(name.lower()) for name in options)
    if secret or ("@" in parts.netloc and parts.scheme not in AZURE):
        bare = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise InputError(
            f"the URI of {bare} must not hold credentials, since it is kept in study.json. Set "
            f"them in the environment (for example AWS_ACCESS_KEY_ID)"
        )
    return options


def _s3_options(options: dict[str, str], bucket: str, answer_seconds: float) -> dict[str, str]:
    """Return obstore's configuration for options that may have Arrow's names."""
    scheme = options.pop("scheme", "https")
    endpoint = options.pop("endpoint_override", None) or options.pop("endpoint", None)
    endpoint = endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    elif "region" not in options:
        region = _bucket_region(bucket, answer_seconds)
        options |= {"region": region} if region else {}
    # the bulk request is Amazon's alone; other services may lack it
    return {"disable_bulk_delete": "true"} | options


@cache
def _bucket_region(bucket: str, answer_seconds: float) -> str | None:
    """Return the region that Amazon names for a bucket, or else that of the environment.

    Raises OSError if Amazon does not answer and the environment names none.
    """
    configured = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    request = urllib.request.Request(f"{GLOBAL_S3}/{bucket}", method="HEAD")  # noqa: S310 - the store's own address
    try:
        with urllib.request.urlopen(request, timeout=answer_seconds) as response:  # noqa: S310 - the store's own address
            headers: Any = response.headers
    except urllib.error.HTTPError as error:  # also a refusal names the region
        headers = error.headers
    except OSError:
        if configured is None:
            raise
        return configured
    return headers.get("x-amz-bucket-region") or configured


def _aws_credentials(options: dict[str, str]) -> Any:
    """Return boto3's credentials where obstore would find none: profiles, SSO, assumed roles.

    obstore itself reads keys from the environment, web identities, and the roles of containers and
    instances.
    """
    if "skip_signature" in options or any(environ.get(name) for name in OBSTORE_CREDENTIALS):
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


@cache
def _memory(root: str) -> MemoryStore:
    """Return the store of a memory:// URI, the same one for the whole process (for tests)."""
    return MemoryStore()


# Object store: whole objects in and out, conditional writes, retries with backoff.


RETRY_TIMEOUT_SECONDS = 120.0
"""Failed requests are retried for this time."""
FIRST_WAIT = 0.5
"""Time before the first retry, in seconds; it doubles with each."""
ANSWER_SECONDS = 10.0
"""A store that does not answer for this time is taken to be down."""
BULK_BYTES = 1_000_000
"""Uploads of more bytes than this have more time: a request must send its part meanwhile."""
BULK_ANSWER_SECONDS = 90.0
"""Enough for the parts of an upload that are sent at once (20 MiB) at 250 kB/s."""
PART_BYTES, PARTS_AT_ONCE = 5 * 2**20, 4
"""Larger files are sent in parts of this size; memory holds at most so many of them."""
DOWNLOADS_AT_ONCE = 16
"""Files that are fetched at once: latency, not bandwidth, limits small objects."""
PERMANENT = ("NoSuchBucket", "ContainerNotFound", "AccessDenied", "InvalidAccessKeyId")
PERMANENT_KINDS = (errors.PermissionDeniedError, errors.UnauthenticatedError, NotImplementedError)

CAUSES = (
    (re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL), "{}: {}"),
    (re.compile(r"<Code>(.*?)</Code>"), "{}"),
    (re.compile(r"status code: ([^:\n]+)"), "{}"),
    (re.compile("kind: Timeout"), "no answer"),
    (re.compile("kind: Connect"), "no connection"),
)
"""Parts of the messages of obstore's errors that tell the cause, the best first."""

log = logging.getLogger(__name__)
T = TypeVar("T")
Version = dict[str, str]
"""What identifies the content of an object to a conditional write: ETag or generation."""


class PermanentError(OSError):
    """An error of a store that persists if retried: access denied, no such bucket."""


class ConflictError(OSError):
    """A conditional write was refused: the object exists, or was changed since it was read."""


class Object(NamedTuple):
    """A small object as it was read."""

    content: bytes
    version: Version
    modified: float
    """When it was written, by the clock of the store, in seconds since 1970, UTC."""


class Store:
    """A place on an object store, by its URI, for example s3://BUCKET/PREFIX (see `connect`).

    Names are paths below the place. `put`, `get`, `names` and `delete` retry failed requests with
    backoff, `read` and `write_if` do not. Errors are OSErrors.

    Args:
        uri: URI of the place.
        retry_timeout: time in seconds during which failed requests are retried.

    Raises:
        InputError: The URI cannot be used.
    """

    def __init__(self, uri: str, retry_timeout: float = RETRY_TIMEOUT_SECONDS):
        self.uri, self.retry_timeout = uri.rstrip("/"), retry_timeout
        self.guard: Callable[[], None] = lambda: None
        """Called before each attempt to write or delete. Its errors, except for OSError, are raised
        instead of writing."""
        try:
            self._store = self.retry(lambda: connect(self.uri, ANSWER_SECONDS))
        except (errors.BaseError, OSError) as error:
            raise InputError(f"{uri} cannot be reached ({first_line(error)})") from None

    def put(self, file: Path, name: str, version: Version | None = None) -> Version:
        """Upload a file; readers see the old object or the whole new one.

        Args:
            file: File to upload; one that is larger than a part is streamed.
            name: Name of the object.
            version: Overwrite only this version of the object; an empty one stands for no object.
                A file of any size is then one request, and is read into memory.

        Returns:
            The version of the object.

        Raises:
            ConflictError: The object has another version, and other content than the file.
        """
        size = file.stat().st_size
        arguments = {} if version is None else {"mode": version or "create"}

        def attempt() -> Version:
            self.guard()
            # a store that hangs may carry out a write late, so first wait for it to answer a read
            with suppress(FileNotFoundError), _os_errors():
                self._store.head(name)
            store = self._bulk if size > BULK_BYTES else self._store
            with _os_errors(bucket=True):
                sizes = {"chunk_size": PART_BYTES, "max_concurrency": PARTS_AT_ONCE}
                return _version(store.put(name, file, **sizes, **arguments))

        try:
            return self.retry(attempt)
        except ConflictError:
            present = self.retry(lambda: self.read(name))
            if present is None or present.content != file.read_bytes():
                raise
            return present.version  # an attempt whose answer was lost has written it

    def read(self, name: str) -> Object | None:
        """Return a small object, None if there is none; one attempt."""
        try:
            with _os_errors():
                result = self._store.get(name)
                content = bytes(result.bytes())
        except FileNotFoundError:
            return None
        meta = result.meta
        return Object(content, _version(meta), meta["last_modified"].timestamp())

    def write_if(self, version: Version | None, content: bytes, name: str) -> Version:
        """Write a small object if it still has a version, or is still missing (None); one attempt.

        Returns:
            The new version.

        Raises:
            ConflictError: The object exists or has another version.
        """
        with _os_errors(bucket=True):
            return _version(self._store.put(name, content, mode=version or "create"))

    def get(self, name: str, file: Path) -> Version | None:
        """Download an object by an atomic write; return its version, None if there is none."""
        file.parent.mkdir(parents=True, exist_ok=True)

        def attempt() -> Version:
            with atomic_write(file) as part, _os_errors():
                result = self._store.get(name)
                with part.open("wb") as out:
                    for chunk in result.stream(min_chunk_size=2**20):
                        out.write(chunk)
                if part.stat().st_size != result.meta["size"]:
                    raise OSError(f"{self.uri}/{name}: the download was cut off")
                return _version(result.meta)

        try:
            return self.retry(attempt)
        except FileNotFoundError:
            return None

    def get_all(self, names: Sequence[str], folder: Path) -> dict[str, Version | None]:
        """Download objects into a folder, many at once; return what `get` does for each."""
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            versions = pool.map(lambda name: self.get(name, folder / name), names)
            return dict(zip(names, versions, strict=True))

    def copy_changed(self, names: Sequence[str], folder: Path) -> None:
        """Download the objects of which a folder has no copy, or an older one; skip missing ones.

        A copy has the size of its object, and the time of its last change.
        """

        def list_one(prefix: str) -> Any:
            with _os_errors():
                return self._store.list_with_delimiter(prefix)["objects"]

        prefixes = {name.rpartition("/")[0] for name in names}
        listed = (self.retry(partial(list_one, prefix)) for prefix in sorted(prefixes))
        asked, changed = {*names}, dict[str, float]()
        for meta in (meta for objects in listed for meta in objects if meta["path"] in asked):
            file, when = folder / meta["path"], meta["last_modified"].timestamp()
            now = file.stat() if file.exists() else None
            if now is None or (now.st_size, now.st_mtime) != (meta["size"], when):
                changed[meta["path"]] = when
        self.get_all([*changed], folder)
        for name, when in changed.items():
            utime(folder / name, (when, when))

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects below a prefix, sorted."""

        def attempt() -> list[str]:
            with _os_errors():
                objects = [meta for page in self._store.list(prefix) for meta in page]
            # empty objects stand for folders, as S3's console makes them; kdtune writes none
            return sorted(meta["path"] for meta in objects if meta["size"])

        return self.retry(attempt)

    def delete(self, name: str) -> None:
        """Delete an object if it exists."""

        def attempt() -> None:
            self.guard()
            with suppress(FileNotFoundError), _os_errors():
                self._store.delete(name)

        self.retry(attempt)

    @cached_property
    def _bulk(self) -> Any:
        return connect(self.uri, BULK_ANSWER_SECONDS)

    def retry(self, attempt: Callable[[], T]) -> T:
        """Return what an attempt returns, retrying OSErrors with backoff until the timeout.

        Raises:
            OSError: The last error; missing objects, conflicts and permanent errors at once.
        """
        wait, deadline = FIRST_WAIT, None
        while True:
            try:
                return attempt()
            except (FileNotFoundError, ConflictError, PermanentError):
                raise
            except OSError as error:
                now = time.monotonic()
                deadline = now + self.retry_timeout if deadline is None else deadline
                if now + wait > deadline:
                    raise
                log.warning("%s: %s; retrying", self.uri, first_line(error))
            time.sleep(wait)
            wait = min(2 * wait, self.retry_timeout / 8)


@contextmanager
def _os_errors(bucket: bool = False) -> Iterator[None]:
    """Raise obstore's errors as OSErrors of one line.

    Args:
        bucket: Whether a "not found" can only mean the bucket.
    """
    try:
        yield
    except (errors.BaseError, FileNotFoundError, NotImplementedError) as error:
        text = str(error)
        kind: type[OSError] = OSError
        if isinstance(error, errors.AlreadyExistsError | errors.PreconditionError):
            kind = ConflictError
        elif isinstance(error, PERMANENT_KINDS) or any(code in text for code in PERMANENT):
            kind = PermanentError
        elif isinstance(error, FileNotFoundError):
            kind = PermanentError if bucket else FileNotFoundError
        raise kind(_reason(text)) from None


def _reason(text: str) -> str:
    """Return request and cause from the long message of an error of obstore."""
    request = re.search(r"Error performing (\w+ [^\s?]+)", text)
    cause = text.split("\n")[0]
    for pattern, form in CAUSES:
        if match := pattern.search(text):
            cause = form.format(*match.groups())
            break
    if request is None:
        return cause
    if "169.254.169.254" in request[1]:  # where instances of a cloud get their credentials
        return f"no credentials found: none in the environment, and {request[1]}: {cause}"
    return f"{request[1]}: {cause}"


def _version(meta: Any) -> Version:
    return {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}

"""From a URL to the engine and the blob store: the only place that imports adapters, when needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from nightcrew.blob import BlobStore
from nightcrew.engine import Engine
from nightcrew.errors import ConfigurationError
from nightcrew.health import Administrator, Doctor
from nightcrew.moving import Source, Target
from nightcrew.seal import Keys

if TYPE_CHECKING:
    from nightcrew.engines.remote_blobs import RemoteBlobStore
    from nightcrew.sealing import PrivateKey, PublicKey

SEAL, UNSEAL = "NIGHTCREW_SEAL", "NIGHTCREW_UNSEAL"
DEFAULT_URL = "sqlite:///nightcrew.db"

_EXISTING = "sqlite:///relative/path.db or sqlite:////absolute/path.db"
_SERVERS = "postgresql://user@host/database"
_SITES = "https://host/path of a site of Nightcrew's"
_POSTGRES = ("postgresql", "postgres")


def connect(url: str, blobs: BlobStore | None = None) -> Engine:
    """The engine that a URL names, not yet open; beside `blobs`, its app's. Raises `ConfigurationError`."""
    parts = _split(url)
    if is_remote(url):
        return _remote(parts, blobs)
    if parts.scheme == "sqlite":
        path = _sqlite_path(parts, url)
        from nightcrew.engines.sqlite import SqliteEngine

        return SqliteEngine(path)
    if parts.scheme in _POSTGRES:
        try:
            from nightcrew.engines.postgres import PostgresEngine
        except ImportError as error:
            raise _no_driver(parts, url, error) from error
        return PostgresEngine(url)
    raise _unknown(parts, url)


def connect_source(url: str) -> Source:
    """The store that a URL names, to move its jobs elsewhere. Raises `ConfigurationError` and `EngineError`."""
    parts = _split(url)
    if parts.scheme != "sqlite":
        raise ConfigurationError(
            f"jobs can be moved from a SQLite file, {_EXISTING}, and not from {_safe(parts, url)!r}"
        )
    from nightcrew.engines.sqlite_moving import SqliteSource

    return SqliteSource(_sqlite_path(parts, url))


def connect_target(url: str) -> Target:
    """The store that a URL names, to move jobs into. Raises `ConfigurationError`."""
    parts = _split(url)
    if parts.scheme not in _POSTGRES:
        raise ConfigurationError(
            f"jobs can be moved to a PostgreSQL server, {_SERVERS}, and not to {_safe(parts, url)!r}"
        )
    try:
        from nightcrew.engines.postgres_moving import PostgresTarget
    except ImportError as error:
        raise _no_driver(parts, url, error) from error
    return PostgresTarget(url)


def connect_administrator(url: str) -> Administrator:
    """Who makes the roles of the store that a URL names. Raises `ConfigurationError`."""
    parts = _split(url)
    if parts.scheme not in _POSTGRES:
        raise ConfigurationError(
            f"roles and SQL are for a PostgreSQL server, {_SERVERS}, and not for {_safe(parts, url)!r}: who may read "
            "a SQLite file may do everything with it"
        )
    try:
        from nightcrew.engines.postgres_roles import PostgresAdministrator
    except ImportError as error:
        raise _no_driver(parts, url, error) from error
    return PostgresAdministrator(url)


def connect_doctor(url: str) -> Doctor:
    """Who looks at the store, or the site, that a URL names. Raises `ConfigurationError`."""
    parts = _split(url)
    if is_remote(url):
        link = _remote_blobs(parts).link
        from nightcrew.engines.remote_doctor import RemoteDoctor

        return RemoteDoctor(link)
    if parts.scheme == "sqlite":
        path = _sqlite_path(parts, url)
        from nightcrew.engines.sqlite_doctor import SqliteDoctor

        return SqliteDoctor(path)
    if parts.scheme not in _POSTGRES:
        raise _unknown(parts, url)
    try:
        from nightcrew.engines.postgres_doctor import PostgresDoctor
    except ImportError as error:
        raise _no_driver(parts, url, error) from error
    return PostgresDoctor(url)


def safe_url(url: str) -> str:
    """A URL as it may be shown: without the password that it may hold."""
    return _safe(_split(url), url)


def connect_blobs(url: str, blobs: str | None = None) -> BlobStore:
    """The blob store that `blobs` names (a folder, or a ``file:`` URL), or that belongs to the engine of `url`."""
    if blobs is None and is_remote(url):
        return _remote_blobs(_split(url))
    if blobs is not None:
        folder = _folder(blobs)
    else:
        parts = _split(url)
        if parts.scheme in _POSTGRES:
            folder = Path("nightcrew-blobs").absolute()
        elif parts.scheme == "sqlite":
            path = _sqlite_path(parts, url)
            folder = path.with_name(f"{path.name}-blobs")
        else:
            raise _unknown(parts, url)
    from nightcrew.blobs.files import FileBlobStore

    return FileBlobStore(folder)


def connect_keys(
    seal: PublicKey | str | os.PathLike[str] | None, unseal: Sequence[PrivateKey | str | os.PathLike[str]]
) -> Keys | None:
    """The keys that an app was given, by itself or by the environment; None for none. Raises `ConfigurationError`."""
    seal = seal if seal is not None else os.environ.get(SEAL) or None
    unseal = unseal or [value for value in (os.environ.get(UNSEAL),) if value]
    if seal is None and not unseal:
        return None
    if isinstance(unseal, (str, os.PathLike)):
        raise ConfigurationError("expected `unseal` as a list of private keys, got one; write unseal=[key]")
    try:
        from nightcrew.sealing import Keyring, private_keys, public_key
    except ImportError as error:
        raise ConfigurationError(
            f"sealed arguments need the package cryptography, which is not installed ({error}); "
            "install `nightcrew[sealed]`"
        ) from error
    return Keyring(None if seal is None else public_key(seal), private_keys(unseal))


def full_url(url: str) -> str:
    """The same URL with an absolute path, if it names an engine that exists; imports nothing.

    So that a later change of directory, or another process, does not make a second store. Raises
    `ConfigurationError`.
    """
    parts = _split(url)
    if parts.scheme in _POSTGRES:
        return url
    if is_remote(url):
        base, token_file = _site(parts)
        return base if token_file is None else f"{base}?token_file={quote(str(token_file))}"
    if parts.scheme != "sqlite":
        raise _unknown(parts, url)
    return f"sqlite:///{quote(str(_sqlite_path(parts, url)))}"


def is_remote(url: str) -> bool:
    """Whether a URL names a site, and not a store."""
    return url.startswith(("https:", "http:"))


def _site(parts: SplitResult) -> tuple[str, Path | None]:
    """The address of a site, and the file with its token. Raises `ConfigurationError`; then says no secret back."""
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.fragment:
        raise ConfigurationError(
            f"expected the address of a site such as https://jobs.example.org/nightcrew, got {shown!r}"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"expected no user and no password in the address of a site, got some before {host!r}; tokens go into "
            "NIGHTCREW_TOKEN, or into a file: add ?token_file=/path"
        )
    if parts.scheme == "http" and not _is_this_machine(host):
        raise ConfigurationError(
            f"expected https, got {shown!r}: without encryption everybody on the way could read the token; http is for "
            "this machine only"
        )
    token_file: Path | None = None
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "token_file" or not value:
            raise ConfigurationError(
                f"the address of a site takes the option `token_file`, got `{name}`; leave it away"
            )
        token_file = Path(value).absolute()
    address = f"[{host}]" if ":" in host else host
    return (
        f"{parts.scheme}://{address}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}",
        token_file,
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _remote_blobs(parts: SplitResult) -> RemoteBlobStore:
    base, token_file = _site(parts)
    try:
        from nightcrew.engines.remote_blobs import RemoteBlobStore
        from nightcrew.engines.remote_link import Link
    except ImportError as error:
        raise ConfigurationError(
            f"{base!r} needs the package httpx2, which is not installed ({error}); install `nightcrew[remote]`"
        ) from error
    return RemoteBlobStore(Link(base, token_file))


def _remote(parts: SplitResult, blobs: BlobStore | None) -> Engine:
    # Beside its own blob store: one token, one pool of connections, and what is known of whose files are whose.
    ours = _remote_blobs(parts)
    from nightcrew.engines.remote import RemoteEngine

    store = blobs if isinstance(blobs, type(ours)) else ours
    return RemoteEngine(store.link, store.owners)


def _split(url: str) -> SplitResult:
    if type(url) is not str or not url:
        raise ConfigurationError(f"expected the URL of an engine, such as {_EXISTING}, got {url!r}")
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(
            f"expected a URL such as {_EXISTING}, got one that is none: {error}"
        ) from None


def _sqlite_path(parts: SplitResult, url: str) -> Path:
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or parts.fragment:
        raise ConfigurationError(
            f"expected {_EXISTING}, got {url!r}; mind the number of slashes, and write # and ? of a "
            "file name as %23 and %3F"
        )
    if path in ("/", "/:memory:") or path.endswith("/") or "\0" in path:
        raise ConfigurationError(
            f"expected the path of a file, got {url!r}; jobs outlive the process, so they need a file: "
            f"{_EXISTING}"
        )
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        raise ConfigurationError(f"a sqlite URL takes no option `{name}`; leave away `?{parts.query}`")
    return Path(path[1:]).absolute()


def _folder(blobs: str) -> Path:
    if "://" not in blobs:
        return Path(blobs).absolute()
    parts = _split(blobs)
    if parts.scheme != "file" or parts.netloc or not parts.path.strip("/"):
        raise ConfigurationError(
            f"expected `blobs` as a folder or file:///absolute/folder, got {_safe(parts, blobs)!r}"
        )
    return Path(unquote(parts.path)).absolute()


def _unknown(parts: SplitResult, url: str) -> ConfigurationError:
    return ConfigurationError(
        f"there is no engine for {parts.scheme or 'no scheme'!r} URLs, got {_safe(parts, url)!r}; "
        f"what exists is {_EXISTING}, {_SERVERS}, and {_SITES}"
    )


def _no_driver(parts: SplitResult, url: str, error: ImportError) -> ConfigurationError:
    return ConfigurationError(
        f"{_safe(parts, url)!r} needs the PostgreSQL driver, which is not installed ({error}); "
        "install `nightcrew[postgres]`"
    )


def _safe(parts: SplitResult, url: str) -> str:
    """A URL without the password that it may hold."""
    return url if parts.password is None else url.replace(parts.password, "***")

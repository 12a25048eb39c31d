"""Arguments that only workers can read: sealed with a public key where jobs are enqueued, opened with the private one.

HPKE (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305, all of it the library's. What is sealed is bound
to its job: id, task, queue, codec and key go into the encryption, so it opens for that job and for no other.
Anybody who has the public key can seal; a seal says nothing about who did.
"""

from __future__ import annotations

import hashlib
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from msgspec import Struct

from nightcrew.errors import CannotUnseal, ConfigurationError
from nightcrew.job import Grant, JobRecord, NewJob
from nightcrew.seal import SEALED, is_sealed

VERSION = 1
"""Of the form in which arguments are sealed; another suite would be another version."""
PUBLIC, PRIVATE = "ncpub_", "ncsec_"
"""How the keys begin as text: so that people, and scanners for secrets, tell them apart."""
MAX_KEY_FILE = 65_536

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_encode = msgspec.json.Encoder().encode

K = TypeVar("K", "PublicKey", "PrivateKey")


class PublicKey:
    """Seals arguments. Known to whoever enqueues; it opens nothing. Made from its text."""

    __slots__ = ("_key", "_raw", "id")

    def __init__(self, text: str) -> None:
        self._raw = _raw(text, PUBLIC, "public", PRIVATE)
        self._key = X25519PublicKey.from_public_bytes(self._raw)
        self.id = hashlib.sha256(self._raw).hexdigest()[:16]
        """What it is called in what it sealed: made from the key."""

    def __str__(self) -> str:
        return PUBLIC + _text(self._raw)

    def __repr__(self) -> str:
        return f"<PublicKey {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def encrypt(self, data: bytes, bound: bytes) -> bytes:
        """Encrypt so that only who has the private key can read it, and only with the same `bound`."""
        return _SUITE.encrypt(data, self._key, bound)


class PrivateKey:
    """Opens what was sealed with its public key. For workers only. Made from its text, or by `new`.

    Neither its `repr` nor any error shows it.
    """

    __slots__ = ("_key", "public")

    def __init__(self, text: str) -> None:
        self._key = X25519PrivateKey.from_private_bytes(_raw(text, PRIVATE, "private", PUBLIC))
        self.public = PublicKey(PUBLIC + _text(self._key.public_key().public_bytes_raw()))
        """The key to seal with."""

    @classmethod
    def new(cls) -> PrivateKey:
        """Make a key that nobody has."""
        return cls(PRIVATE + _text(X25519PrivateKey.generate().private_bytes_raw()))

    def __repr__(self) -> str:
        return f"<PrivateKey {self.id}>"

    @property
    def id(self) -> str:
        """That of its public key."""
        return self.public.id

    def reveal(self) -> str:
        """Return the key as text, to be kept where only workers can read it."""
        return PRIVATE + _text(self._key.private_bytes_raw())

    def decrypt(self, box: bytes, bound: bytes) -> bytes:
        """Decrypt what was encrypted with the public key and the same `bound`. Raises `InvalidTag`."""
        return _SUITE.decrypt(box, self._key, bound)


class _Box(Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    key: str
    box: bytes


class _Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    sealed: _Box = msgspec.field(name="$sealed")


_decode = msgspec.json.Decoder(_Envelope).decode


class Keyring:
    """The keys of one app: at most one to seal with, and any number to open with, while old ones are still in use."""

    def __init__(self, seal: PublicKey | None = None, unseal: Iterable[PrivateKey] = ()) -> None:
        self._seal = seal
        self._unseal = {key.id: key for key in unseal}

    def __repr__(self) -> str:
        return f"<Keyring seal={self._seal!r} unseal=[{', '.join(self._unseal)}]>"

    @property
    def can_seal(self) -> bool:
        """Whether it has a public key."""
        return self._seal is not None

    @property
    def can_open(self) -> bool:
        """Whether it has a private key."""
        return bool(self._unseal)

    @property
    def public_text(self) -> str | None:
        """The public key as text."""
        return None if self._seal is None else str(self._seal)

    def seal(self, job: NewJob) -> NewJob:
        """The job with its arguments sealed for it alone; one that is sealed already, or no public key: as it is."""
        key = self._seal
        if key is None or is_sealed(job.args):
            return job
        box = key.encrypt(job.args, _bound(key.id, job.id, job.task, job.queue, job.codec))
        args = _encode(_Envelope(_Box(VERSION, key.id, box)))
        assert args.startswith(SEALED)
        return msgspec.structs.replace(job, args=args)

    def open(self, job: Grant | JobRecord, data: bytes) -> bytes:
        """The arguments of a job, from what is stored for it. Raises `CannotUnseal`."""
        try:
            sealed = _decode(data).sealed
        except (msgspec.MsgspecError, RecursionError):
            raise CannotUnseal(
                job.id,
                "what is stored for it looks sealed and is not; somebody has changed it: enqueue it again",
            ) from None
        if sealed.version != VERSION:
            raise CannotUnseal(
                job.id,
                f"they are sealed in version {sealed.version}, which this version of Nightcrew does not know; "
                "update Nightcrew here, then retry the job",
            )
        key = self._unseal.get(sealed.key)
        if key is None:
            there = ", ".join(self._unseal) or "none"
            raise CannotUnseal(
                job.id,
                f"they are sealed for the key {sealed.key[:16]!r}, and this worker has {there}; give it that key "
                "(unseal=[...] or NIGHTCREW_UNSEAL), then retry the job",
            )
        try:
            return key.decrypt(sealed.box, _bound(sealed.key, job.id, job.task, job.queue, job.codec))
        except InvalidTag:
            raise CannotUnseal(
                job.id,
                f"they were sealed for the key {sealed.key}, but not for this job, or were changed since; somebody has "
                "written to the store: enqueue it again",
            ) from None


def public_key(given: PublicKey | str | os.PathLike[str]) -> PublicKey:
    """A public key from what an app was given: the key, its text, or a file with it. Raises `ConfigurationError`."""
    if isinstance(given, PublicKey):
        return given
    found = [PublicKey(text) for text in _texts(given)]
    if len(found) != 1:
        raise ConfigurationError(
            f"expected one public key to seal with, got {len(found)}; old keys are needed by workers only, to open"
        )
    return found[0]


def private_keys(given: Iterable[PrivateKey | str | os.PathLike[str]]) -> list[PrivateKey]:
    """Private keys from what an app was given: keys, their texts, or files with some. Raises `ConfigurationError`."""
    found: list[PrivateKey] = []
    for one in given:
        found += [one] if isinstance(one, PrivateKey) else [PrivateKey(text) for text in _texts(one)]
    return found


def _texts(given: str | os.PathLike[str]) -> list[str]:
    """The keys in a text: separated by commas, each itself or the path of a file with one a line."""
    if not isinstance(given, (str, os.PathLike)):
        raise ConfigurationError(f"expected a key, its text or a file with it, got {type(given).__name__}")
    if isinstance(given, os.PathLike):
        return _in_file(Path(given))
    found: list[str] = []
    for part in filter(None, (part.strip() for part in given.split(","))):
        found += [part] if part.startswith((PUBLIC, PRIVATE)) else _in_file(Path(part))
    return found


def _in_file(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_FILE).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        # Not the value: it may be a key that was cut off at its beginning.
        raise ConfigurationError(
            f"expected a key that begins with {PUBLIC} or {PRIVATE}, or a file with one, and the file cannot be read "
            f"({type(error).__name__}); make a key with `nightcrew keys new`"
        ) from None
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigurationError(f"there is no key in {path}; make one with `nightcrew keys new`")
    return found


def _raw(text: str, prefix: str, kind: str, other: str) -> bytes:
    if isinstance(text, str) and text.startswith(other):
        raise ConfigurationError(
            f"expected a {kind} key, which begins with {prefix}, got one that begins with {other}; "
            "the public key is for whoever enqueues, the private key for workers"
        )
    raw = b""
    if isinstance(text, str) and text.startswith(prefix):
        try:
            raw = urlsafe_b64decode(text.removeprefix(prefix) + "=")
        except ValueError:
            raw = b""
    if len(raw) != 32 or _text(raw) != text.removeprefix(prefix):
        raise ConfigurationError(
            f"expected a {kind} key: {prefix} and 43 letters, digits, - and _; what was given is none; "
            "make one with `nightcrew keys new`"
        )
    return raw


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def _bound(key: str, job_id: str, task: str, queue: str, codec: int) -> bytes:
    """What the encryption is bound to, so written that no two different jobs give the same."""
    said: Sequence[str | int] = ("nightcrew: sealed arguments", VERSION, key, job_id, task, queue, codec)
    return _encode(said)

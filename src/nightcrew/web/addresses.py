"""Addresses: which are of this machine only, which names a Host header may say, and what a stated proxy may add."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from nightcrew.errors import ConfigurationError

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d{1,5})?")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_loopback(host: str) -> bool:
    """Whether a listening address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str | None:
    """Return the name or address in a Host header, without its port; None when it is no such header."""
    match = _HOST.fullmatch(header.lower())
    return None if match is None else match["name"].strip("[]")


def known_host(header: str, *, remote: bool) -> bool:
    """Whether a Host header names this machine in a way that no foreign name server can.

    A page of another site that makes its name point here (DNS rebinding) still sends that name. Ports are
    left alone, so that a tunnel may use another. With `remote`, any numeric address and this machine's own
    name are known too.
    """
    name = host_name(header)
    if name is None:
        return False
    if name in _LOOPBACK:
        return True
    if not remote:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in (socket.gethostname().lower(), socket.getfqdn().lower())
    return True


class Hosts:
    """The names by which a site may be called: those of this machine itself, and those that it was told."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {_checked_name(name) for name in names}

    def knows(self, header: str) -> bool:
        """Whether a Host header says one of them; its port is left alone."""
        name = host_name(header)
        return name is not None and (name in _LOOPBACK or name in self._names)


def _checked_name(name: str) -> str:
    plain = name.lower().strip("[]")
    try:
        ipaddress.ip_address(plain)
    except ValueError:
        if not _NAME.fullmatch(plain):
            raise ConfigurationError(
                f"expected a host name such as jobs.example.org, got {name!r}; leave scheme, port and path away, "
                "and name each one"
            ) from None
    return plain


@dataclass(frozen=True)
class Proxy:
    """The proxy before the site: it adds TLS, and says in ``X-Forwarded-For`` who asked.

    trusted: the addresses or networks that it connects from; others may only ask for the site's health.
    hops: how many proxies in a row add to that header; what stands before theirs, anybody may have written.
    """

    trusted: Sequence[str] = ("127.0.0.1", "::1")
    hops: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.hops, int) or not 1 <= self.hops <= 10:
            raise ConfigurationError(f"expected `hops` from 1 to 10, got {self.hops!r}")
        if isinstance(self.trusted, str) or not self.trusted:
            raise ConfigurationError(
                f'expected `trusted` as a list such as ["10.0.0.7"], got {self.trusted!r}'
            )
        networks = [_network(text) for text in self.trusted]
        object.__setattr__(self, "_networks", networks)

    def is_trusted(self, connection: HTTPConnection) -> bool:
        """Whether a request came through it."""
        try:
            peer = ipaddress.ip_address(connection.client.host if connection.client else "")
        except ValueError:
            return False
        networks: list[Network] = self._networks  # type: ignore[attr-defined]
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in network for network in networks)

    def client(self, connection: HTTPConnection) -> str:
        """The address that asked, as the proxies say; for a request that came through them."""
        said = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")
        hops = [text.strip() for text in said if text.strip()]
        if not hops:
            return _peer(connection)
        found = hops[-min(self.hops, len(hops))]
        try:
            return str(ipaddress.ip_address(found))
        except ValueError:
            return _peer(connection)


def client_address(connection: HTTPConnection, proxy: Proxy | None) -> str:
    """Where a request came from, for the audit; never to decide what somebody may do."""
    if proxy is not None and proxy.is_trusted(connection):
        return proxy.client(connection)
    return _peer(connection)


def _peer(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else ""


def _network(text: Any) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ConfigurationError(
            f"expected an address or network such as 10.0.0.7 or 10.0.0.0/24, got {text!r}"
        ) from None

"""The way to the server, encrypted and verified: a server that cannot show who it is gets nothing from us.

Not every build of PostgreSQL that the tests find speaks TLS, so a front before it ends the encryption, as the
proxies of hosted databases do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from nightcrew.engines.postgres import PostgresEngine
from nightcrew.errors import EngineError
from nightcrew.testing.conformance.stage import Hand, put, won
from tests.servers.certificates import Authority, pem

pytestmark = pytest.mark.postgres


class Front:
    """Ends the encryption of clients that ask for it, and passes the rest on to the server."""

    def __init__(self, context: ssl.SSLContext, target: dict[str, Any]) -> None:
        self._context = context
        self._target = target
        self.encrypted = 0
        """Connections."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Look after one client."""
        downstream: asyncio.StreamWriter | None = None
        try:
            asked = await reader.readexactly(8)
            assert asked[4:] == (80877103).to_bytes(4), "a client that does not ask for encryption"
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self._context)
            self.encrypted += 1
            path = f"{self._target['host']}/.s.PGSQL.{self._target.get('port', 5432)}"
            upstream, downstream = await asyncio.open_unix_connection(path)
            await asyncio.wait(
                [
                    asyncio.create_task(passed(reader, downstream)),
                    asyncio.create_task(passed(upstream, writer)),
                ]
            )
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # it was refused, or has gone
        finally:
            for way in (downstream, writer):
                if way is not None:
                    way.close()
                    with contextlib.suppress(ConnectionError, ssl.SSLError):
                        await way.wait_closed()


async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until its end."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Store(NamedTuple):
    """A store behind a front."""

    front: Front
    port: int
    schema: str
    folder: Path

    def url(self, host: str = "127.0.0.1", authority: str = "ours", sslmode: str = "verify-full") -> str:
        """Return its address, and whom to trust."""
        root = quote(str(self.folder / f"{authority}.pem"))
        return (
            f"postgresql://postgres@{host}:{self.port}/postgres"
            f"?{self.schema}&sslmode={sslmode}&sslrootcert={root}"
        )


@pytest.fixture
async def store(postgres_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """Return a store behind a front with a certificate for 127.0.0.1."""
    ours, others = Authority("ours"), Authority("others")
    for name, authority in (("ours", ours), ("others", others)):
        (tmp_path / f"{name}.pem").write_bytes(pem(authority.certificate))
    certificate, private = ours.serve(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    base, _, schema = postgres_url.rpartition("&")
    target = conninfo_to_dict(base)
    if not str(target.get("host", "")).startswith("/"):
        pytest.skip("the front reaches servers by their socket")
    front = Front(context, target)
    listening = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    async with listening:
        yield Store(front, listening.sockets[0].getsockname()[1], schema, tmp_path)


async def test_jobs_pass_over_a_verified_connection(store: Store) -> None:
    engine = PostgresEngine(store.url())
    await engine.open()
    hand = Hand(engine)
    await hand.beat()
    await put(engine)
    await hand.applied(won(await hand.one()))
    await engine.close()
    assert store.front.encrypted >= 2  # that of the migration, and of the pool


async def test_a_server_of_another_authority_is_refused(store: Store) -> None:
    with pytest.raises(EngineError, match="certificate verify failed"):
        await PostgresEngine(store.url(authority="others")).open()
    assert not store.front.encrypted


async def test_a_server_of_another_name_is_refused(store: Store) -> None:
    """With `verify-full` it must be the one that was asked for, and not any that the authority knows."""
    with pytest.raises(EngineError, match="does not match host name"):
        await PostgresEngine(store.url(host="localhost")).open()
    engine = PostgresEngine(store.url(host="localhost", sslmode="verify-ca"))
    await engine.open()
    await engine.close()

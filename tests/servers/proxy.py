"""A bad network between PostgreSQL and its clients, on demand: a proxy that delays, swallows, stalls and cuts.

It reads both sides' messages, so that it can cut a connection at the one moment that matters most: a commit has
been sent, and its answer has not come. What the client then knows is nothing, and what is true is up to the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from enum import Enum
from random import Random
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

PATIENCE = 10.0
CHUNK = 1 << 16
NO_WAY_BACK = struct.pack("ii", 1, 0)
"""SO_LINGER, so that closing resets: the peer gets an error and no orderly end."""
ASKS_ENCRYPTION = (80877103, 80877104)
"""The codes of requests that come instead of a start, and are answered by one letter."""
ASKS_CANCEL = 80877102


class Way(Enum):
    """The two directions."""

    UP = "to the server"
    DOWN = "to the client"


class Cut(Enum):
    """When the connection of an unlucky commit is cut."""

    DONE = "when the server has answered: it is committed"
    SENT = "as soon as it is sent: it may be committed, or not"


class Proxy:
    """Stands between clients and one server; a context manager with a thread of its own.

    All faults may be switched at any time, from any thread, and hold for what passes from then on.
    """

    def __init__(self, url: str, seed: int = 1) -> None:
        self._target = conninfo_to_dict(url)
        self._random = Random(seed)
        self.delay = 0.0
        """Seconds that everything takes in each direction."""
        self.swallows: frozenset[Way] = frozenset()
        """Directions in which everything gets lost, and nobody is told."""
        self.refuses = False
        """Whether who connects is turned away."""
        self.commits = 0
        """Ends of transactions that were sent."""
        self.lost: list[str] = []
        """The statements whose commit was not answered."""
        self._share = 0.0
        self._cut = Cut.DONE
        self._chosen: Callable[[str], bool] = _all
        self._ways: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, name="proxy before the server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def url(self, url: str) -> str:
        """Return the same address, but through this proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        port = self._listener.getsockname()[1]
        options = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("host", "port")]
        return urlunsplit(
            (parts.scheme, f"{user}{at}127.0.0.1:{port}", parts.path, urlencode(options, safe="/"), "")
        )

    def lose(self, share: float, cut: Cut = Cut.DONE, chosen: Callable[[str], bool] | None = None) -> None:
        """From now on cut a share of the connections that commit; `chosen` sees the statement."""
        self._cut, self._chosen, self._share = cut, chosen or _all, share

    def stall(self) -> None:
        """Let nothing pass, in neither direction, and keep every connection."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def go_on(self) -> None:
        """Let everything pass that was held back."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def reset(self) -> int:
        """Cut every connection at once; return how many there were."""

        async def cut() -> int:
            there = list(self._ways)
            for connection in there:
                connection.cut()
            return len(there)

        return self._ask(cut())

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._ways)

    def _ask(self, question: Coroutine[Any, Any, int]) -> int:
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(PATIENCE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()
        server.close()
        for connection in list(self._ways):
            connection.cut()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self._ways.add(connection)
        try:
            # asyncio does so itself only where it has made the socket that listens.
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self.refuses:
                await connection.carry(self._target)
        except (OSError, asyncio.CancelledError):
            pass  # somebody went away, or it is the end
        finally:
            connection.cut()
            self._ways.discard(connection)

    # What a connection asks of its proxy.

    async def passing(self) -> None:
        """Wait as long as what passes has to."""
        if self.delay:
            await asyncio.sleep(self.delay)  # sleeps: the fault itself
        await self._flows.wait()

    def cuts(self, statement: str) -> Cut | None:
        """Note a commit that is being sent; return whether and when it is to be cut."""
        self.commits += 1
        if self._share and self._chosen(statement) and self._random.random() < self._share:
            self.lost.append(statement)
            return self._cut
        return None


def _all(statement: str) -> bool:
    return True


class Connection:
    """One client's connection, and the one behind it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._has_begun = False
        self._letters_due = 0
        """Answers of one letter that the server owes."""
        self._is_greeted = False
        self._in_transaction = False
        self._prepared: dict[bytes, str] = {}
        self._statements: list[str] = []
        """Those since the last request for an answer."""
        self._asked = 0
        self._answered = 0
        self._cut_at: int | None = None
        """The number of the request whose answer must not pass."""

    def cut(self) -> None:
        """Reset both sides."""
        for side in (self._client, self._server):
            if side is not None:
                transport = side[1].transport
                sock = transport.get_extra_info("socket")
                if sock is not None and sock.family == socket.AF_INET:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_WAY_BACK)
                transport.abort()

    async def carry(self, target: dict[str, Any]) -> None:
        """Carry messages in both directions until one side ends, or fate cuts them."""
        host, port = str(target.get("host", "127.0.0.1")), str(target.get("port", "5432"))
        if host.startswith("/"):
            self._server = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            self._server = await asyncio.open_connection(host, int(port))
        ways = [asyncio.create_task(self._up(*self._server)), asyncio.create_task(self._down(*self._server))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self, _: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        reader, held = self._client[0], b""
        while chunk := await reader.read(CHUNK):
            held += chunk
            passing, cut = b"", None
            while cut is None and (message := self._next_asked(held)):
                held = held[len(message) :]
                passing += message
                cut = self._reads(message)
            await self._proxy.passing()
            if Way.UP not in self._proxy.swallows:
                server.write(passing)
                await server.drain()
            if cut is Cut.SENT:
                return

    def _next_asked(self, held: bytes) -> bytes:
        """The client's first whole message; empty while there is none."""
        if self._has_begun:
            return first_message(held)
        if len(held) < 8:
            return b""
        length, code = struct.unpack("!ii", held[:8])
        if len(held) < length:
            return b""
        if code in ASKS_ENCRYPTION:
            self._letters_due += 1
        elif code != ASKS_CANCEL:
            self._has_begun = True
        return held[:length]

    def _reads(self, message: bytes) -> Cut | None:
        """See what the client asks for; return when to cut it."""
        kind, body = message[:1], message[5:]
        if kind == b"\0":
            return None  # the beginning, which has no letter
        if kind == b"P":
            name, statement, *_ = body.split(b"\0", 2)
            self._prepared[name] = statement.decode(errors="replace")
        elif kind == b"B":
            _, name, *_ = body.split(b"\0", 2)
            self._statements.append(self._prepared.get(name, ""))
        elif kind == b"Q":
            self._statements.append(body.rstrip(b"\0").decode(errors="replace"))
        if kind not in (b"Q", b"S"):
            return None
        self._asked += 1
        statements, self._statements = self._statements, []
        ends = any(statement.upper().startswith(("COMMIT", "END")) for statement in statements)
        begins = any(statement.upper().startswith(("BEGIN", "START")) for statement in statements)
        if not statements or not (ends or not (self._in_transaction or begins)):
            return None
        cut = self._proxy.cuts("; ".join(statements))
        if cut is not None:
            self._cut_at = self._asked
        return cut

    async def _down(self, server: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        writer, held = self._client[1], b""
        while chunk := await server.read(CHUNK):
            held += chunk
            passing, is_cut = b"", False
            while not is_cut and (message := self._next_answer(held)):
                held = held[len(message) :]
                if self._cut_at is None or self._answered + 1 < self._cut_at:
                    passing += message
                    self._answers(message)
                else:
                    is_cut = message[:1] == b"Z"
            if passing:
                await self._proxy.passing()
                if Way.DOWN not in self._proxy.swallows:
                    writer.write(passing)
                    await writer.drain()
            if is_cut:
                return

    def _next_answer(self, held: bytes) -> bytes:
        """The server's first whole message; empty while there is none."""
        if held and self._letters_due:
            self._letters_due -= 1
            assert held[:1] == b"N", "the proxy cannot read what is encrypted"
            return held[:1]
        return first_message(held)

    def _answers(self, message: bytes) -> None:
        """Note that the server is ready for the next: it says so at the end of each answer, and at its start."""
        if message[:1] == b"Z" and len(message) > 1:
            self._in_transaction = message[5:6] != b"I"
            self._answered += self._is_greeted
            self._is_greeted = True


def first_message(held: bytes) -> bytes:
    """The first whole message (a letter, its length, its content) of what has come; empty while there is none."""
    if len(held) < 5:
        return b""
    (length,) = struct.unpack("!i", held[1:5])
    return held[: length + 1] if len(held) > length else b""

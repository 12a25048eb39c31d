"""How rows are written, and who writes: one thread a process, group commit, a fair turn, a bell.

Callers hand over closures and await them. The thread takes all that waits, runs it in one
transaction, commits, and answers. A closure may be run twice (when a neighbour failed and the group
is taken apart), so it must do nothing but database work until it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import socket
import stat
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import apsw
import msgspec

from nightcrew.engine import Topic
from nightcrew.engines.sqlite_file import BUSY_TIMEOUT, Connection, engine_error
from nightcrew.errors import EngineBusy, EngineClosed
from nightcrew.job import Grant

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("nightcrew.engine")

Db = apsw.Connection
Run = Any
"""What is written for one caller: a function of the connection, or what `run_group` knows better."""

SYNCED = "PRAGMA synchronous = FULL"
GROUP = 256
"""Most calls in one commit: a bound on how long the first waits for the last."""


# --- rows, many to a statement ------------------------------------------------------------------


def rows(db: Db, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
    """All rows of a query."""
    return db.execute(sql, bindings).fetchall()


_TEXT = 16_000
"""Most characters of one statement: the driver keeps no longer one prepared."""
_MATCHES = 100
"""Most answers of `Lanes.matching` that are kept."""


@cache
def _values(head: str, row: str, rows: int) -> str:
    return f"{head} VALUES {','.join([f'({row})'] * rows)}"


def insert(db: Db, head: str, columns: int, flat: list[Any], row: str = "") -> int:
    """Insert rows given as one flat list; `head` is "INSERT INTO t(...)". Return how many went in.

    Powers of two, so that a few prepared statements serve every number of rows. `row` says what becomes
    of a row's values where they are not stored as they are given.
    """
    row = row or ",".join("?" * columns)
    most = _TEXT // (len(row) + 3)
    done, written, rows = 0, 0, len(flat) // columns
    while done < rows:
        size = 1 << min(rows - done, most).bit_length() - 1
        db.execute(_values(head, row, size), flat[done * columns : (done + size) * columns])
        written += db.changes()
        done += size
    return written


Member = tuple[int, int, int, int, int]
"""seq, fence, attempts, crashes, losses of an open grant."""


_members = msgspec.msgpack.Decoder(list[Member])


def pack_members(members: Iterable[Member]) -> bytes:
    """The open grants of a claim, as stored."""
    return msgspec.msgpack.encode(list(members))


def unpack_members(data: bytes) -> dict[int, Member]:
    """The open grants of a claim by seq."""
    return {member[0]: member for member in _members.decode(data)}


_OPEN = "SELECT origin, members, {cancelling} FROM claim WHERE id = ?"
_FIRST = _OPEN.format(cancelling="(SELECT group_concat(seq) FROM cancel)")
_OTHER = _OPEN.format(cancelling="NULL")


class OpenGrants:
    """The claims that a call is about, and which of their grants are still open."""

    def __init__(self, db: Db, claims: set[int]) -> None:
        self._db = db
        self.workers: dict[int, int] = {}
        """Who ran the jobs of a claim: not the sweeper that may hold it now."""
        self.members: dict[int, dict[int, Member]] = {}
        self.cancelling: set[int] = set()
        """Jobs that somebody asked to cancel."""
        self._sizes: dict[int, int] = {}
        for claim_id in claims:
            row = db.execute(_OTHER if self.workers else _FIRST, (claim_id,)).get
            self.members[claim_id] = {}
            if row is not None:
                self.workers[claim_id] = row[0]
                self.members[claim_id] = members = unpack_members(row[1])
                self._sizes[claim_id] = len(members)
                if row[2] is not None:
                    self.cancelling.update(map(int, str(row[2]).split(",")))

    def holds(self, grant: Grant) -> bool:
        """Whether this grant is still open: the fence."""
        member = self.members[grant.claim].get(grant.seq)
        return member is not None and member[1] == grant.fence

    def store(self) -> None:
        """Write what is left of the claims of which something was settled."""
        for claim_id, left in self.members.items():
            if len(left) == self._sizes.get(claim_id, 0):
                continue
            if left:
                self._db.execute(
                    "UPDATE claim SET members = ? WHERE id = ?", (pack_members(left.values()), claim_id)
                )
            else:
                self._db.execute("DELETE FROM claim WHERE id = ?", (claim_id,))


def stream_of(lane: int, priority: int) -> int:
    """A lane at one priority; streams sort by lane, then higher priority first."""
    return lane << 8 | 100 - priority


class Lanes:
    """The (queue, task) pairs of the file, as far as this process has seen them."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], int] = {}
        self._newest = 0
        self._matching: dict[tuple[tuple[str, ...], ...], tuple[int, frozenset[int]]] = {}

    def forget(self) -> None:
        """After a rollback: the newest may never have been made."""
        self.__init__()  # type: ignore[misc]

    def load(self, db: Db) -> None:
        """Read those that have come since."""
        for lane, queue, task in db.execute(
            "SELECT id, queue, task FROM lane WHERE id > ? ORDER BY id", (self._newest,)
        ):
            self._ids[queue, task] = lane
            self._newest = lane

    def id(self, db: Db, queue: str, task: str) -> int:
        """The lane of a pair, made if there is none."""
        lane = self._ids.get((queue, task))
        if lane is None:
            db.execute(
                "INSERT OR IGNORE INTO lane(queue, task, label)"
                " VALUES (?1, ?2, json_quote(?2) || ',' || json_quote(?1))",
                (queue, task),
            )
            self.load(db)
            lane = self._ids[queue, task]
        return lane

    def names(self) -> dict[int, tuple[str, str]]:
        """Lane to (queue, task)."""
        return {lane: pair for pair, lane in self._ids.items()}

    def matching(
        self, db: Db, queues: tuple[str, ...], tasks: tuple[str, ...], paused: tuple[str, ...], newest: int
    ) -> frozenset[int]:
        """The lanes of these tasks in queues of these patterns; `newest` is the file's newest lane."""
        key = (queues, tasks, paused)
        known = self._matching.get(key)
        if known is None or known[0] != newest:
            self.load(db)
            wanted = set(tasks)
            if known is None and len(self._matching) >= _MATCHES:
                self._matching.clear()  # queues were paused again and again
            lanes = frozenset(
                lane
                for (queue, task), lane in self._ids.items()
                if task in wanted
                and queue not in paused
                and any(fnmatchcase(queue, pattern) for pattern in queues)
            )
            known = self._matching[key] = (newest, lanes)
        return known[1]


# --- the writer ---------------------------------------------------------------------------------


class WriteLock:
    """A fair lock before SQLite's own, which starves waiters: they sleep while others slip in.

    Two file locks in a row. Whoever holds the first is next for the second, so a process that
    has just written cannot take its turn again before it.
    """

    def __init__(self, path: Path) -> None:
        names = (f"{path}-turn", f"{path}-lock")
        self._fds = [os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in names]

    def __enter__(self) -> None:
        if sys.platform == "win32":  # SQLite's own lock alone
            return
        turn, lock = self._fds
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32":
            fcntl.flock(self._fds[1], fcntl.LOCK_UN)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


def begin(db: Db) -> None:
    """Begin to write; wait for others in small uneven steps, for `BUSY_TIMEOUT` at most.

    Ours wait at the `WriteLock`; here is only somebody else's open transaction or a checkpoint.
    """
    give_up = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            if time.monotonic() > give_up:
                raise
            time.sleep(random.uniform(0.0002, 0.002))  # noqa: S311
        else:
            return


class BearsLoss(ABC):
    """What is written for one caller, and may be undone by a power cut without harm, as it says."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, db: Db) -> Any: ...

    @abstractmethod
    def bears_loss(self, result: Any) -> bool:
        """Whether this result is such that the disk need not be waited for."""
        ...


def _bears_loss(run: BearsLoss, result: Any) -> bool:
    return run.bears_loss(result)


class _Call(msgspec.Struct):
    """One thing to write, and who waits for it."""

    run: Run
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Writer:
    """The thread that owns the write connection."""

    def __init__(self, path: Path, run_group: Callable[[Db, Bell, list[Run]], list[Any]]) -> None:
        self._path = path
        self._run_group = run_group
        self._connection = Connection(path)
        self.db = self._connection.db
        # Ours wait at the lock; SQLite's own handler would sleep in coarse steps (130 ms seen).
        self._lock = WriteLock(path)
        self._gate = threading.Lock()
        """Held to change the four that follow: nothing comes behind the last word."""
        self._calls: list[_Call] = []
        self._asked_at = 0.0
        """When the first of them was asked for."""
        self._closing = False
        self._wanted: SimpleQueue[None] = SimpleQueue()
        """What the thread waits for: a word when there are calls, and when there will be none."""
        self._busy_since: float | None = None
        """When the first of the group that is being written was asked for."""
        self._rolled_back: list[Callable[[], None]] = []
        self._synced = True
        """As `Connection` opens it."""
        self.bell = Bell(path)
        self._thread = threading.Thread(target=self._work, name="nightcrew-writer", daemon=True)

    def start(self) -> None:
        """Begin to take calls."""
        self.db.set_busy_timeout(0)
        self._thread.start()

    def on_rollback(self, forget: Callable[[], None]) -> None:
        """Call `forget` after a rollback: what was learnt in that transaction is not true."""
        self._rolled_back.append(forget)

    def call(self, run: Run) -> asyncio.Future[Any]:
        """Have `run` executed in the next transaction; the future is answered after its commit."""
        busy_since = self._busy_since
        if busy_since is not None and time.monotonic() - busy_since > BUSY_TIMEOUT:
            raise EngineBusy(
                f"{self._path} has been locked by another process for more than "
                f"{BUSY_TIMEOUT:.0f} s: nothing was written; look for a stopped or hanging process"
            )
        loop = asyncio.get_running_loop()
        call = _Call(run, loop, loop.create_future())
        with self._gate:
            if self._closing:
                raise EngineClosed(f"the engine on {self._path} is closed; open it before use")
            if not self._calls:
                self._asked_at = time.monotonic()
                self._wanted.put(None)
            self._calls.append(call)
        return call.answer

    def close(self) -> None:
        """Write what was accepted, then end the thread, if it has begun, and let the file go."""
        with self._gate:
            self._closing = True
            self._wanted.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._lock.close()
        self.bell.close()
        self._connection.close()

    def _taken(self) -> list[_Call]:
        """Wait for calls, and take them up: `GROUP` at most."""
        self._wanted.get()
        with self._gate:
            taken, self._calls = self._calls[:GROUP], self._calls[GROUP:]
            self._busy_since = self._asked_at if taken else None
            if self._calls:
                self._wanted.put(None)
        return taken

    def _work(self) -> None:
        while not self._closing or self._calls:  # in this order: nothing comes once we close
            taken = self._taken()
            # Whoever gave up waiting has been told nothing, so nothing is owed.
            group = [call for call in taken if not call.answer.cancelled()]
            if group:
                self._write(group)
                # First the answer, which takes no system call but one: to look who listens takes longer.
                self._answer(group)
                self._tell(self.bell.send)
            self._busy_since = None
            del taken, group

    def _write(self, group: list[_Call]) -> None:
        try:
            self._commit(group)
        except Exception as error:
            if len(group) == 1:
                # (The lock's own file may fail as well.)
                group[0].error = engine_error(error, self._path) if isinstance(error, OSError) else error
                return
            # One of them may be at fault: each on its own, so that it does not fail its neighbours.
            for call in group:
                self._write([call])
                self._tell(self.bell.send)  # now: the next may fail, and what was to be told is forgotten

    def _commit(self, group: list[_Call]) -> None:
        db = self.db
        runs = [call.run for call in group]
        relaxed = all(isinstance(run, BearsLoss) for run in runs)
        self._wait_for_disk(not relaxed)
        with self._lock:
            try:
                begin(db)
                results = self._run_group(db, self.bell, runs)
                if relaxed and not all(map(_bears_loss, runs, results)):
                    # Only now is it known; and within a transaction it cannot be changed.
                    db.execute("ROLLBACK")
                    self._wait_for_disk(True)
                    begin(db)
                    results = self._run_group(db, self.bell, runs)
                self._tell(self.bell.announce)
                db.execute("COMMIT")
            except BaseException as error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                for forget in self._rolled_back:
                    forget()
                self.bell.forget()
                if isinstance(error, (apsw.Error, UnicodeError)):
                    raise engine_error(error, self._path) from error
                raise
        for call, result in zip(group, results, strict=True):
            call.result = result

    def _wait_for_disk(self, wanted: bool) -> None:
        """Whether commits wait for the disk, from now on. Not while others wait for us, as far as we know before."""
        if wanted is self._synced:
            return
        self._synced = False
        try:
            self.db.execute(SYNCED if wanted else "PRAGMA synchronous = NORMAL")
        except apsw.Error as error:
            raise engine_error(error, self._path) from error
        self._synced = wanted

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:  # a hint less must neither look like a failure nor be one
            logger.warning("could not wake the listeners of %s", self._path, exc_info=True)

    def _answer(self, group: list[_Call]) -> None:
        # One call into each loop for all its callers.
        for loop in {call.loop for call in group}:
            # A loop closed meanwhile has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, [call for call in group if call.loop is loop])


def _settle(calls: list[_Call]) -> None:
    for call in calls:
        if call.answer.done():  # given up while it was being written
            continue
        if call.error is not None:
            call.answer.set_exception(call.error)
        else:
            call.answer.set_result(call.result)


# --- the bell: hints over local sockets ---------------------------------------------------------


def wake_folder(path: Path) -> Path:
    """The folder of the sockets for one database: beside it, or in a private place if that is too long.

    A socket's path may have about 100 characters.
    """
    real = path.resolve()
    beside = real.with_name(real.name + "-wake")
    if len(os.fsencode(beside)) <= 70:
        return beside
    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"nightcrew-{os.getuid() if hasattr(os, 'getuid') else 0}-{name}"


def _private_folder(folder: Path) -> bool:
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError:  # a full disk, say: hints are not worth failing for
        return False
    # Somebody else's folder in a shared place could be there to listen.
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def _leave_folder(folder: Path | str) -> None:
    """Remove it if it is empty: whoever comes later makes it again."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)


_TRIES = 20
_LETTERS = {Topic.READY: "r", Topic.COMING: "a", Topic.DONE: "d", Topic.CONTROL: "c"}


class Bell:
    """Tells the listeners of all processes what a commit was about. A hint: it may get lost."""

    def __init__(self, path: Path) -> None:
        folder = wake_folder(path)
        self._folder = str(folder)
        self._topics: set[Topic] = set()
        self._listed_at = -1
        self._names: list[str] = []
        self._socket: socket.socket | None = None
        if hasattr(socket, "AF_UNIX") and _private_folder(folder):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ring(self, topic: Topic) -> None:
        """Remember what to tell of this transaction."""
        self._topics.add(topic)

    def forget(self) -> None:
        """Tell no more of it: it was rolled back."""
        self._topics.clear()

    def announce(self) -> None:
        """Tell of jobs those who claim, before the commit: a claim waits for the lock that we hold.

        So they are awake by the time that it is on the disk.
        """
        if Topic.READY in self._topics:
            self._tell({_LETTERS[Topic.COMING]})

    def send(self) -> None:
        """Tell all others what was remembered, after the commit: they look, and are to find it."""
        letters = {_LETTERS[topic] for topic in self._topics}
        self._topics.clear()
        if letters:
            self._tell(letters)

    def _tell(self, letters: set[str]) -> None:
        if self._socket is not None:
            for name in self._listeners():
                if not letters.isdisjoint(name.partition("-")[0]):
                    self._send_to(name)

    def _listeners(self) -> list[str]:
        try:
            changed = os.stat(self._folder).st_mtime_ns
            if changed != self._listed_at:
                self._names = [name for name in os.listdir(self._folder) if name.endswith(".sock")]
                # Two changes within one tick of the file system's clock look like one: read a young
                # folder again next time.
                self._listed_at = changed if time.time_ns() - changed > 20_000_000 else -1
        except OSError:
            self._names = []
        return self._names

    def _send_to(self, name: str) -> None:
        assert self._socket is not None
        try:
            self._socket.sendto(b"!", f"{self._folder}/{name}")
        except BlockingIOError:
            pass  # its queue is full of hints already
        except ConnectionRefusedError:
            # Its process has gone without closing.
            with contextlib.suppress(OSError):
                os.unlink(f"{self._folder}/{name}")
        except OSError:
            self._listed_at = -1

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            _leave_folder(self._folder)


class Listener:
    """One receiver of hints, on the loop that made it."""

    def __init__(self, path: Path, topics: Sequence[Topic]) -> None:
        self._hint = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        if not hasattr(socket, "AF_UNIX"):
            return  # polling alone
        folder = wake_folder(path)
        letters = "".join(sorted(_LETTERS[topic] for topic in topics))
        self._path = folder / f"{letters}-{os.urandom(6).hex()}.sock"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.setblocking(False)
        for _ in range(_TRIES):
            # As above; or the last of the others has just removed the folder.
            with contextlib.suppress(OSError):
                if _private_folder(folder):
                    listening.bind(str(self._path))
                    self._socket = listening
                    self._loop.add_reader(listening.fileno(), self._receive)
                    return
        listening.close()

    def _receive(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            for _ in range(64):
                self._socket.recv(16)
        self._hint.set()

    @property
    def heard(self) -> bool:
        """Whether there is a socket to hear by."""
        return self._socket is not None

    async def wait(self, timeout: float) -> bool:
        """Return True at the next hint (or one since the last `wait`), False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._hint.wait()
        except TimeoutError:
            return False
        self._hint.clear()
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._socket.close()
            _leave_folder(self._path.parent)

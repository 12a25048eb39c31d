"""The raw limit of a pick-up: one process commits a job and sends a datagram, another claims it durably."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

import apsw
import msgspec

from benchmarks.pickup import pauses
from benchmarks.raw import Arguments, claim, commit_one, open_raw

_decode = msgspec.json.Decoder(Arguments).decode


def _socket(path: Path) -> socket.socket:
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.bind(str(path))
    return bell


def run(path: Path) -> None:
    """Claim whatever comes, and note when the body of each job would begin; end at a datagram that says so."""
    with _socket(path.with_suffix(".sock")) as bell:
        db = open_raw(path)
        db.set_busy_timeout(10_000)
        began: dict[int, float] = {}
        path.with_suffix(".ready").touch()
        while bell.recv(8) != b"end":
            for _, payload in claim(db, 100):
                began[_decode(payload).number] = time.monotonic()
        db.close()
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps([began[n] for n in sorted(began)]))
        draft.rename(path.with_suffix(".json"))


def enqueue(path: Path, seconds: float) -> list[float]:
    """Store jobs one by one, and tell the other process; return when each was begun to be stored."""
    db = apsw.Connection(str(path))
    db.pragma("synchronous", "full")
    db.set_busy_timeout(10_000)
    to = str(path.with_suffix(".sock"))
    called = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        for n, pause in enumerate(pauses(seconds)):
            time.sleep(pause)
            called.append(time.monotonic())
            commit_one(db, n)
            bell.sendto(b"job", to)
        time.sleep(0.5)  # the last one is claimed by then
        bell.sendto(b"end", to)
    db.close()
    return called


if __name__ == "__main__":
    place = Path(sys.argv[2])
    os.chdir(place.parent)  # a socket's path may have about 100 characters, so it is named from here
    if sys.argv[1] == "run":
        run(Path(place.name))
    else:
        print(json.dumps(enqueue(Path(place.name), float(sys.argv[3]))))

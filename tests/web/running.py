"""The sample application as a real process, and as a site without one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx2

from nightcrew.app import Nightcrew
from nightcrew.demo.app import make_app
from nightcrew.demo.security import Gate, Keys
from nightcrew.demo.server import site as whole
from nightcrew.demo.web import Sample
from nightcrew.worker import Worker
from tests.waiting import wait_until

HOME = "http://127.0.0.1:8000"
MAX_UPLOAD = 5_000_000


class Demo:
    """`nightcrew demo` in a process of its own; a context manager that ends it."""

    def __init__(self, data: Path, *options: str, port: int = 0, env: dict[str, str] | None = None) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "nightcrew",
                "demo",
                "--data",
                str(data),
                f"--port={port}",
                "--poll=0.2",
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        try:
            wait_until(lambda: "Press Ctrl+C for exit" in self.output or self.process.poll() is not None)
            assert self.process.poll() is None, self.output
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._reader.join(10)
        assert self.process.stdout
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line

    @property
    def link(self) -> str:
        """The one-time link that was printed."""
        found = re.search(r"http://\S+/\?token=\S+", self.output)
        assert found, self.output
        return found[0]

    @property
    def base(self) -> str:
        return self.link.partition("/?")[0]

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def client(self) -> httpx2.Client:
        """A script's client, with the token from its file."""
        token = (self.data / "token").read_text().strip()
        # Shorter than the server keeps one: it must not close a connection just when that is used again.
        limits = httpx2.Limits(keepalive_expiry=2)
        return httpx2.Client(
            base_url=self.base, headers={"authorization": f"Bearer {token}"}, timeout=30, limits=limits
        )

    def stop(self, timeout: float = 40) -> int:
        """Ask it to end as a service manager does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait(10)


def send(client: httpx2.Client, name: str, content: bytes) -> str:
    """Upload a file; return the job's id."""
    answer = client.post("/Upload", files={"Upload": (name, content)})
    assert answer.status_code == 302, answer.text
    return answer.headers["location"].removeprefix("/Progress?jobId=")


def status(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    answer = client.get(f"/api/status/{job_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(client: httpx2.Client, job_id: str, timeout: float = 60) -> dict[str, Any]:
    """The job's status once it is ok or failed."""
    seen: dict[str, Any] = {}

    def final() -> bool:
        seen.update(status(client, job_id))
        return seen["status"] in ("ok", "failed")

    wait_until(final, timeout, every=0.1)
    return seen


class Site:
    """The sample in this process: no sockets, a worker only on request."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.app: Nightcrew = make_app(data)
        self.sample = Sample(self.app, poll=2.0, max_upload=MAX_UPLOAD)
        self.keys = Keys(data)
        self.gate = Gate(self.sample.site, self.keys, self.sample.pages.refusal)
        self.whole = whole(self.sample, self.gate)

    def client(self, *, signed_in: bool = True, **headers: str) -> httpx2.AsyncClient:
        """A browser or script; an underscore in the name of a header stands for a hyphen."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if signed_in:
            headers = {"authorization": f"Bearer {self.keys.token}", **headers}
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.whole, raise_app_exceptions=False),
            base_url=HOME,
            headers=headers,
        )

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker on this loop."""
        worker = Worker(self.app)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            await running

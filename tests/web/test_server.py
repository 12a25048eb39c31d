"""`nightcrew demo` as a process: where it listens, what it prints, how it stops, and its parts apart."""

from __future__ import annotations

import contextlib
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from nightcrew.demo.server import run_demo
from nightcrew.errors import ConfigurationError
from nightcrew.web import serving
from nightcrew.web.serving import listen
from tests.waiting import wait_until
from tests.web.decks import picture
from tests.web.running import Demo, ended, send, status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "example.com"])
def test_it_refuses_an_address_that_others_reach(tmp_path: Path, host: str) -> None:
    """S1."""
    with pytest.raises(ConfigurationError, match=r"loopback.*ssh -L.*--allow-remote"):
        run_demo(host=host, data=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_it_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nightcrew", "demo", "--host", "0.0.0.0", "--data", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "ssh -L" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"poll": 0.0}, "poll"),
        ({"max_upload": 0}, "max_upload"),
        ({"worker": False, "worker_only": True}, "leave one away"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, float | bool], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        run_demo(data=tmp_path, **options)  # type: ignore[arg-type]


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1:{port}.*--port"):
            listen("127.0.0.1", port)
        monkeypatch.setattr(serving, "PORT", port)
        with listen("127.0.0.1", None) as second:
            assert port < second.getsockname()[1] < port + 20


def test_from_start_to_stop(tmp_path: Path) -> None:
    with Demo(tmp_path / "data") as demo:
        # Only this machine reaches what it listens on, side doors included.
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(demo.process.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {"127.0.0.1"}
        for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
        with httpx2.Client() as browser:
            assert browser.get(demo.base).status_code == 401
            assert browser.get(demo.link).status_code == 303
            assert browser.get(demo.base).status_code == 200
        with httpx2.Client() as other:
            assert other.get(demo.link).status_code == 401
        with demo.client() as client:
            job = send(client, "photo.png", picture())
            assert ended(client, job)["status"] == "ok"
        wait_until(lambda: demo.output.count("Queue is empty") == 2)  # before the job, and after it
        assert demo.stop() == 0
    assert "Worker service was started" in demo.output
    assert "Job was processed" in demo.output.partition("Queue is empty")[2].partition("Queue is empty")[0]
    assert "Exiting..." in demo.output
    link = demo.link.partition("token=")[2]
    assert demo.output.count(link) == 1, "the link is printed, never logged"
    assert (tmp_path / "data" / "token").read_text().strip() not in demo.output
    assert "Traceback" not in demo.output


def test_a_session_outlives_the_server(tmp_path: Path) -> None:
    with httpx2.Client() as browser:
        with Demo(tmp_path / "data") as first:
            assert browser.get(first.link).status_code == 303
        with Demo(tmp_path / "data", port=first.port) as second:
            assert browser.get(second.base).status_code == 200
            assert second.link != first.link


def test_the_parts_apart(tmp_path: Path) -> None:
    """ASP-021: the web process without a worker, and a worker without the web."""
    with Demo(tmp_path / "data", "--no-worker") as web, web.client() as client:
        job = send(client, "photo.png", picture())
        assert status(client, job)["status"] == "waiting"
        assert "No worker is running" in status(client, job)["text"]
        with Demo(tmp_path / "data", "--worker-only") as worker:
            assert "Worker was started" in worker.output
            assert ended(client, job)["status"] == "ok"
            assert worker.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_soon_with_pages_open(tmp_path: Path, number: int) -> None:
    with Demo(tmp_path / "data") as demo:
        # A connection that stays open, one that is in the middle of a request, and a page that is followed live.
        with (
            demo.client() as client,
            socket.create_connection(("127.0.0.1", demo.port)) as slow,
            client.stream("GET", f"/api/events?jobId={send(client, 'photo.png', picture())}") as live,
        ):
            assert live.status_code == 200
            client.get("/")
            slow.sendall(b"GET / HTTP/1.1\r\nHost: 127")
            demo.process.send_signal(number)
            wait_until(lambda: demo.process.poll() is not None, timeout=20)
        assert demo.process.returncode == 0, demo.output


def test_slow_clients_do_not_stop_others(tmp_path: Path) -> None:
    with Demo(tmp_path / "data", "--no-worker") as demo, demo.client() as client:
        sleepers = [socket.create_connection(("127.0.0.1", demo.port)) for _ in range(100)]
        try:
            for sleeper in sleepers:
                sleeper.sendall(b"POST /Upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-")
            assert client.get("/").status_code == 200
        finally:
            for sleeper in sleepers:
                sleeper.close()


def test_oversize_requests_are_refused(tmp_path: Path) -> None:
    with Demo(tmp_path / "data", "--no-worker") as demo, demo.client() as client:
        for request in (b"GET / HTTP/1.1\r\nX-Large: ", b"GET /?"):
            with socket.create_connection(("127.0.0.1", demo.port), timeout=10) as large:
                with contextlib.suppress(ConnectionError):
                    large.sendall(request + b"x" * 2_000_000)
                with contextlib.suppress(ConnectionError):
                    assert not large.recv(1000).startswith(b"HTTP/1.1 2")
        answer = client.post(
            "/Upload", content=iter([b"x" * 65_536] * 10), headers={"content-type": "text/plain"}
        )
        assert answer.status_code == 415


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak of a process's memory is told by /proc"
)
def test_an_upload_is_never_whole_in_memory(tmp_path: Path) -> None:
    def peak(pid: int) -> int:
        text = Path(f"/proc/{pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024

    def body() -> Iterator[bytes]:
        yield b'--XX\r\nContent-Disposition: form-data; name="Upload"; filename="a.pptx"\r\n\r\n'
        for _ in range(100):
            yield bytes(1_000_000)
        yield b"\r\n--XX--\r\n"

    with Demo(tmp_path / "data", "--no-worker") as demo, demo.client() as client:
        client.get("/")
        before = peak(demo.process.pid)
        headers = {"content-type": "multipart/form-data; boundary=XX"}
        assert client.post("/Upload", content=body(), headers=headers).status_code == 302
        assert peak(demo.process.pid) - before < 30_000_000

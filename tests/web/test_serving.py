"""The site on real sockets: where it may listen, TLS, slow clients, and processes that are killed under open streams."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx2
import psutil
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nightcrew import ConfigurationError
from nightcrew.cli.main import main
from nightcrew.web import Limits, make_site, serving
from nightcrew.web.serving import WebSettings, address_of, check_settings, public_address
from tests.parts import ROOT
from tests.waiting import await_until, wait_until
from tests.web.sites import Shop
from tests.web.streams import served

pytestmark = pytest.mark.engine("sqlite")

SHOP = """
import asyncio
from pathlib import Path
from nightcrew import Context, Nightcrew

app = Nightcrew()

@app.task
async def until(ctx: Context, path: str) -> str:
    ctx.progress(0.5, "half way")
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "it is there"
"""


# where it may listen


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "2001:db8::1", "example.org", ""])
def test_an_address_that_others_reach_needs_encryption(host: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"expected a loopback address.*--certificate.*--behind-proxy"
    ):
        check_settings(WebSettings(host=host))
    with pytest.raises(ConfigurationError, match="--allow-host"):
        check_settings(WebSettings(host=host, behind_proxy=True))
    check_settings(WebSettings(host=host, behind_proxy=True, hosts=("jobs.example.org",)))
    check_settings(WebSettings(host=host, certificate="a", key="b"))


def test_what_contradicts_itself_is_refused() -> None:
    for wrong in (
        WebSettings(certificate="a"),
        WebSettings(key="b"),
        WebSettings(trusted=("10.0.0.1",)),
        WebSettings(hops=2),
        WebSettings(root_path="jobs"),
        WebSettings(root_path="/jobs/"),
        WebSettings(behind_proxy=True, hosts=("x.org",), trusted=("proxy",)),
    ):
        with pytest.raises(ConfigurationError):
            check_settings(wrong)
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        check_settings(WebSettings(host=host))


@pytest.mark.parametrize("command", ["web", "serve"])
def test_the_commands_refuse_before_anything_is_open(command: str, tmp_path: Path) -> None:
    asked = [command, "nowhere:app", "--host", "0.0.0.0"]
    refused = CliRunner().invoke(main, asked)
    assert refused.exit_code == 2
    assert "without encryption" in refused.stderr


async def test_it_listens_where_it_says_and_nowhere_else(shop: Shop) -> None:
    before = listening()
    async with served(shop) as site:
        assert listening() - before == {("127.0.0.1", int(site.base.rpartition(":")[2]))}
    assert listening() == before


def listening() -> set[tuple[str, int]]:
    """The addresses that this process listens on."""
    return {
        (entry.laddr.ip, entry.laddr.port)
        for entry in psutil.Process().net_connections("inet")
        if entry.status == psutil.CONN_LISTEN
    }


# TLS


def make_certificate(folder: Path, name: str) -> tuple[str, str, int]:
    """Write a certificate for this machine, and its key; return their paths and the serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(paths[0]), str(paths[1]), made.serial_number


def trusting(certificate: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


async def test_with_a_certificate_everything_is_encrypted(shop: Shop, tmp_path: Path) -> None:
    certificate, key, _ = make_certificate(tmp_path, "one")
    async with served(shop, certificate=certificate, key=key) as site:
        assert site.base.startswith("https://127.0.0.1:")
        token = await shop.token("admin")
        async with site.client(token, verify=trusting(certificate)) as client:
            answer = await client.get("/api/jobs")
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"]
            origin = {"origin": site.base.replace("https", "http")}
            assert (await client.post("/api/jobs", headers=origin, json={})).status_code == 403
            opened = await client.get(await site.site.new_link(), headers={"authorization": ""})
            assert "; secure" in opened.headers["set-cookie"].lower()
        async with httpx2.AsyncClient() as client:
            with pytest.raises(httpx2.HTTPError):
                await client.get(site.base.replace("https", "http"))
        # A new certificate is used from the signal on.
        replaced, _, serial = make_certificate(tmp_path, "two")
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10):
            while await shown_serial(site.base) != serial:
                pass
        async with site.client(token, verify=trusting(replaced)) as client:
            assert (await client.get("/api/jobs")).status_code == 200


async def shown_serial(base: str) -> int:
    """The serial number of the certificate that a site shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return int(x509.load_der_x509_certificate(shown).serial_number)


async def test_a_certificate_that_cannot_be_used_is_told(shop: Shop, tmp_path: Path) -> None:
    certificate, _, _ = make_certificate(tmp_path, "one")
    for key in (certificate, str(tmp_path / "nothing.pem")):
        with pytest.raises(ConfigurationError, match="cannot use the certificate"):
            async with served(shop, certificate=certificate, key=key):
                pass


# slow clients


async def connect(base: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))


async def test_a_thousand_that_say_nothing_keep_nobody_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(serving, "IDLE_SECONDS", 1)
    async with served(shop) as site, site.client(await shop.token("read")) as client:
        mute = [await connect(site.base) for _ in range(1_000)]
        for number, (_, writer) in enumerate(mute):
            # Some say nothing, some begin, some have asked before and then begin again.
            writer.write(
                (b"", b"GET /api/jobs HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET ")[
                    number % 3
                ]
            )
        # On a connection of its own: one kept from here would be closed for its idleness just when it is used below.
        alone = {"Connection": "close"}
        assert (await client.get("/api/jobs", headers=alone)).status_code == 200
        async with asyncio.timeout(60):
            for reader, writer in mute:
                with suppress(ConnectionError):  # an end or a reset
                    await reader.read(-1)
                writer.close()
        assert (await client.get("/api/jobs", headers=alone)).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "make", lambda app, _: make_site(app, limits=Limits(patience=0.3)))
    token = await shop.token("enqueue")
    async with served(shop) as site:
        for path in ("/api/jobs", "/api/blobs"):
            reader, writer = await connect(site.base)
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
                "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
            )
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
            writer.close()


async def test_a_body_with_two_lengths_ends_the_connection(shop: Shop) -> None:
    """What a proxy may take for a body must not be a request here, nor the reverse."""
    token = await shop.token("enqueue")
    async with served(shop) as site:
        reader, writer = await connect(site.base)
        writer.write(
            f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n"
            "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        writer.close()


async def test_who_does_not_read_is_left(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "STALLED_SECONDS", 0.5)
    token = await shop.token("admin")
    async with served(shop) as site:
        blob = await shop.app.blobs.aput(b"x" * 30_000_000, "large")
        _, writer = await connect(site.base)
        writer.write(
            f"GET /api/blobs/{blob.id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        ours = writer.get_extra_info("sockname")[1]

        def is_there() -> bool:
            return any(
                entry.raddr and entry.raddr.port == ours for entry in psutil.Process().net_connections("tcp")
            )

        await await_until(is_there)
        await await_until(lambda: not is_there())
        writer.close()


# processes that end


class Process:
    """`nightcrew serve` or `web` in a process of its own."""

    def __init__(self, folder: Path, *command: str, port: int = 0) -> None:
        self.folder = folder
        (folder / "shop_app.py").write_text(SHOP)
        self.log = folder / "log.txt"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nightcrew", *command, f"--port={port}"],
                cwd=folder,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(folder)])},
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def base(self) -> str:
        wait_until(lambda: "site     http://" in self.said or self.process.poll() is not None)
        found = re.search(r"site +(http://\S+)", self.said)
        assert found, self.said
        wait_until(lambda: self.answers(found[1]) or self.process.poll() is not None, 60)
        return found[1]

    def answers(self, base: str) -> bool:
        try:
            return httpx2.get(f"{base}/readyz", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def child(self, module: str) -> psutil.Process | None:
        """The living process below it that runs a module."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if module in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child
            except psutil.Error:
                pass
        return None

    def token(self, *scopes: str) -> str:
        """Make a token, as one does it on the command line."""
        url = f"sqlite:///{self.folder / 'nightcrew.db'}"
        wanted = [part for scope in scopes for part in ("--scope", scope)]
        made = CliRunner().invoke(main, ["tokens", "create", "-".join(scopes), *wanted, "--url", url])
        assert made.exit_code == 0, made.stderr
        return made.stdout.strip()

    def end(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            psutil.wait_procs(family, 10)


@contextmanager
def running(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.end()


def test_a_site_that_is_killed_comes_back_and_streams_go_on(tmp_path: Path) -> None:
    with running(Process(tmp_path, "serve", "shop_app:app")) as process:
        headers = {"authorization": f"Bearer {process.token('admin')}"}
        with httpx2.Client(base_url=process.base, headers=headers, timeout=60) as client:
            go = tmp_path / "go"
            asked = {"task": "shop_app.until", "args": {"path": str(go)}}
            job = client.post("/api/jobs", json=asked).json()["id"]
            wait_until(lambda: client.get(f"/api/jobs/{job}").json()["progress"] == 0.5)
            path = f"/api/jobs/{job}/events"
            with client.stream("GET", path) as stream:
                lines = stream.iter_lines()
                seen = next(line for line in lines if line.startswith("id: ")).removeprefix("id: ")
                killed = process.child("nightcrew.web.main")
                assert killed
                killed.kill()
                with pytest.raises(httpx2.HTTPError):
                    list(lines)
            # The socket stayed open: the next request waits for the new process, and is answered.
            with client.stream("GET", path, headers={"last-event-id": seen}) as stream:
                assert stream.status_code == 200
                go.touch()
                told = [line for line in stream.iter_lines() if line.startswith(("event: ", "data: "))]
            assert told[-2] == "event: end"
            last = json.loads(told[-1].removeprefix("data: "))
            assert (last["state"], last["attempts"], last["losses"]) == ("succeeded", 1, 0)
            fresh = process.child("nightcrew.web.main")
            assert fresh
            assert fresh.pid != killed.pid
            # A stream is open, and it stops all the same, in good order and in time.
            with client.stream("GET", "/api/events") as stream:
                process.process.send_signal(signal.SIGTERM)
                list(stream.iter_lines())
            assert process.process.wait(20) == 0


def test_nothing_of_it_outlives_its_supervisor(tmp_path: Path) -> None:
    with running(Process(tmp_path, "serve", "shop_app:app")) as process:
        assert process.base
        wait_until(lambda: process.child("nightcrew.worker_main"))
        family = psutil.Process(process.process.pid).children(recursive=True)
        assert len(family) >= 2
        process.process.kill()
        process.process.wait(10)
        _, alive = psutil.wait_procs(family, 20)
        assert not alive


def test_a_site_without_an_app_shows_the_store_and_takes_no_jobs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nightcrew.db'}"
    with running(Process(tmp_path, "web", "--url", url, "--link")) as process:
        headers = {"authorization": f"Bearer {process.token('admin')}"}
        base = process.base
        with httpx2.Client(base_url=base, headers=headers, timeout=30) as client:
            assert client.get("/api/jobs").json()["jobs"] == []
            assert client.get("/api/health").json()["ok"] is True
            assert client.post("/api/jobs", json={"task": "x"}).status_code == 422
        wait_until(lambda: "open http" in process.said)
        [link] = re.findall(r"open (\S+)", process.said)
        with httpx2.Client(timeout=30) as browser:
            assert browser.get(link).status_code == 303
            assert browser.get(f"{base}/api/jobs").status_code == 200
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(20) == 0
        assert "Traceback" not in process.said


def test_site_and_worker_in_one_process(tmp_path: Path) -> None:
    with running(Process(tmp_path, "serve", "shop_app:app", "--embedded", "--no-link")) as process:
        headers = {"authorization": f"Bearer {process.token('enqueue')}"}
        (tmp_path / "go").touch()
        with httpx2.Client(base_url=process.base, headers=headers, timeout=30) as client:
            asked = {"task": "shop_app.until", "args": {"path": str(tmp_path / "go")}}
            place = client.post("/api/jobs", json=asked).headers["location"]
            wait_until(lambda: client.get(place).json()["state"] == "succeeded")
        assert not psutil.Process(process.process.pid).children()
        assert "ncl_" not in process.said
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(40) == 0


# tokens on the command line


def test_tokens_are_made_listed_and_revoked_on_the_command_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nightcrew.db'}"

    def run(*words: str, code: int = 0) -> str:
        ended = CliRunner().invoke(main, ["tokens", *words, "--url", url])
        assert ended.exit_code == code, ended.stderr
        return ended.stdout

    assert run("list", code=3) == ""
    secret = run("create", "web", "--scope", "enqueue").strip()
    assert re.fullmatch(r"nct_[\w-]{43}", secret)
    assert run("create", "web", "--scope", "read", code=2) == ""
    assert run("create", "x", "--scope", "everything", code=2) == ""
    made = json.loads(
        run("create", "ops", "--scope", "read", "--scope", "operate", "--lifetime", "never", "--json")
    )
    assert made["token"]["expires_at"] is None
    listed = json.loads(run("list", "--json"))["tokens"]
    assert [(token["name"], token["scopes"]) for token in listed] == [
        ("ops", ["read", "operate"]),
        ("web", ["enqueue"]),
    ]
    assert secret not in run("list")
    assert run("revoke", "nobody", code=4) == ""
    run("revoke", made["token"]["id"])
    assert [token["name"] for token in json.loads(run("list", "--json"))["tokens"]] == ["web"]
    link = run("link", "--site", "https://jobs.example.org/", "--scope", "read").strip()
    assert re.fullmatch(r"https://jobs\.example\.org/session\?link=ncl_[\w-]{43}", link)
    [unopened] = json.loads(run("list", "--json"))["sessions"]
    assert (unopened["kind"], unopened["scopes"]) == ("link", ["read"])
    run("revoke", unopened["id"])
    assert json.loads(run("list", "--json"))["sessions"] == []


def test_an_address_to_open_is_one_that_can_be_opened() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener, WebSettings()) == f"http://127.0.0.1:{port}"
        for settings, expected in (
            (WebSettings(), f"http://127.0.0.1:{port}"),
            (WebSettings(hosts=("shop.test",)), f"http://127.0.0.1:{port}"),
            (WebSettings(hosts=("shop.test",), certificate="c", key="k"), f"https://shop.test:{port}"),
            (WebSettings(hosts=("shop.test", "b.test"), behind_proxy=True), "https://shop.test"),
            (
                WebSettings(hosts=("shop.test",), behind_proxy=True, root_path="/jobs"),
                "https://shop.test/jobs",
            ),
        ):
            assert public_address(listener, settings) == expected

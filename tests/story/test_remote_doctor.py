"""What `nightcrew doctor` finds on the way to a site: each fault is made, found, and not found where it is not."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nightcrew.cli.main import main
from nightcrew.connect import connect_doctor
from nightcrew.engines.remote_doctor import RemoteDoctor
from nightcrew.engines.remote_link import Link
from nightcrew.health import Examination, Severity
from tests.servers.proxy import Proxy
from tests.story.desks import plain_url
from tests.story.houses import House, open_house
from tests.web.test_serving import make_certificate

DAY = 86_400.0
FROM_OUTSIDE = ["reach", "clock", "ready", "token", "version"]


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(database_url, tmp_path) as house:
        yield house


async def examined(url: str, now: Callable[[], float] = time.time) -> Examination:
    base, _, file = url.partition("?token_file=")
    return await RemoteDoctor(Link(base, Path(file)), now).examine()


def told(found: Examination) -> list[tuple[str, Severity]]:
    return [(finding.check, finding.severity) for finding in found.findings]


async def test_of_a_healthy_site_it_tells_what_the_token_may_know(house: House) -> None:
    enqueuer = await connect_doctor(await house.url("enqueue")).examine()
    assert (enqueuer.checks, enqueuer.findings, enqueuer.usable) == (FROM_OUTSIDE, [], False)
    assert enqueuer.facts["token"]["scopes"] == ["enqueue"]

    reader = await connect_doctor(await house.url("read")).examine()
    assert reader.checks == [*FROM_OUTSIDE, "health"]
    assert reader.usable
    assert told(reader) == [("health", Severity.NOTE)]
    assert "0 alive" in reader.findings[0].what
    async with house.shop.worker():
        assert told(await connect_doctor(await house.url("read")).examine()) == []

    operator = await connect_doctor(await house.url("operate")).examine()
    assert "store.schema" in operator.checks
    assert operator.facts["store"]["name"]


@pytest.mark.engine("sqlite")
async def test_on_the_command_line_it_exits_with_whether_something_is_wrong(house: House) -> None:
    url = await house.url("operate")
    run = CliRunner().invoke
    well = await asyncio.to_thread(run, main, ["doctor", "--url", url, "--json"])
    assert well.exit_code == 0, well.output
    answer = json.loads(well.stdout)
    assert answer["healthy"]
    assert {"reach", "token", "store.schema", "workers", "oldest_ready"} <= set(answer["checks"])
    unknown = house.folder / "unknown"
    await asyncio.to_thread(unknown.write_text, "nct_" + "x" * 43)
    ill = await asyncio.to_thread(run, main, ["doctor", "--url", f"{house.base}?token_file={unknown}"])
    assert ill.exit_code == 1
    assert "does not know this token" in ill.stdout


@pytest.mark.engine("sqlite")
async def test_what_is_wrong_with_the_store_of_the_site_is_told_through_it(house: House) -> None:
    path = Path(house.shop.app.url.removeprefix("sqlite:///"))
    await asyncio.to_thread(os.chmod, path, 0o644)
    assert ("store.permissions", Severity.WRONG) in told(await examined(await house.url("operate")))
    assert ("store.permissions", Severity.WRONG) not in told(await examined(await house.url("read")))


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:1", "cannot be reached: ConnectError"),
        ("{base}/nowhere", "it answers 401"),
    ],
)
async def test_where_no_site_is_nothing_more_is_asked(house: House, address: str, said: str) -> None:
    found = await examined(await house.url("operate", base=address.format(base=house.base)))
    assert (found.checks, told(found), found.usable) == (["reach"], [("reach", Severity.WRONG)], False)
    assert said in found.findings[0].what


@pytest.mark.engine("sqlite")
async def test_tokens_that_end_and_clocks_that_differ_are_told(house: House) -> None:
    secret = await house.shop.token("read", lifetime=3 * DAY)
    file = house.folder / "soon"
    await asyncio.to_thread(file.write_text, secret)
    url = f"{house.base}?token_file={file}"
    for ahead, findings in (
        (0.0, [("token", Severity.NOTE)]),
        (10.0, [("clock", Severity.NOTE), ("token", Severity.NOTE)]),
        (-400.0, [("clock", Severity.WRONG), ("token", Severity.NOTE)]),
    ):
        found = await examined(url, lambda ahead=ahead: time.time() + ahead)  # type: ignore[misc]
        assert [one for one in told(found) if one[0] != "health"] == findings
    assert found.facts["clock"] == pytest.approx(400, abs=3)
    await house.shop.site.desk.tokens.revoke(found.facts["token"]["name"])

    async def is_refused() -> Examination:
        while ("token", Severity.WRONG) not in told(found := await examined(url)):
            pass
        return found

    assert "does not know this token" in str((await asyncio.wait_for(is_refused(), 10)).findings)
    assert told(await examined(f"{house.base}?token_file={house.folder / 'none'}")) == [
        ("token", Severity.WRONG)
    ]


@pytest.mark.engine("sqlite")
async def test_certificates_that_are_not_trusted_or_end_are_told(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key, _ = make_certificate(tmp_path, "one")
    async with open_house(database_url, tmp_path, certificate=certificate, key=key) as house:
        assert house.base.startswith("https:")
        url = await house.url("read")
        found = await examined(url)
        assert (found.checks, told(found)) == (["reach", "tls"], [("tls", Severity.WRONG)])
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        found = await examined(url)
        assert ("tls", Severity.NOTE) in told(found), "it ends tomorrow"
        assert str(found.facts["tls"]).startswith("TLS")
        assert ("tls", Severity.NOTE) not in told(await examined(url, lambda: time.time() - 60 * DAY))


@pytest.mark.postgres
async def test_a_site_that_cannot_use_its_store_is_told(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(plain_url(postgres_url)) as proxy:
        async with open_house(proxy.url(postgres_url), tmp_path) as house:
            url = await house.url("operate")
            assert "ready" not in dict(told(await examined(url)))
            monkeypatch.setattr("nightcrew.web.health.PATIENCE", 0.5)
            proxy.refuses = True
            proxy.reset()
            found = await examined(url)
            proxy.refuses = False
    assert told(found) == [("ready", Severity.WRONG)]
    assert found.checks == ["reach", "clock", "ready"]

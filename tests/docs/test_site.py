"""The pages on the site are true: what they mount runs, and each test that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nightcrew import Nightcrew
from nightcrew.web import make_site
from tests.docs.pages import Project, blocks
from tests.parts import ROOT

DRIVER = """
import asyncio, sys
import httpx2, uvicorn
from nightcrew.web import Scope
import shop

async def main(with_worker: bool) -> None:
    server = uvicorn.Server(uvicorn.Config(shop.app, port=0, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    token, _ = await shop.site.desk.tokens.create("test", [Scope.ADMIN])
    link = await shop.site.new_link()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/jobs/api/jobs")).status_code == 401
        assert (await client.get("/jobs/healthz")).status_code == 200
        opened = await client.get("/jobs" + link)
        assert (opened.status_code, opened.headers["location"]) == (303, "/jobs/"), opened.headers
        assert "path=/jobs;" in opened.headers["set-cookie"].lower()
        assert (await client.get("/jobs/api/jobs")).status_code == 200
        client.cookies.clear()
        client.headers["authorization"] = f"Bearer {token}"
        if with_worker:
            made = (await client.post("/greetings?name=Ada")).json()["job"]
            async with client.stream("GET", f"/jobs/api/jobs/{made}/events") as stream:
                lines = [line async for line in stream.aiter_lines()]
            assert "event: end" in lines, lines
            print((await client.get(f"/jobs/api/jobs/{made}/result")).json())
        else:
            asked = await client.post("/jobs/api/jobs", json={"task": "nothing"})
            print(asked.status_code)
    server.should_exit = True
    await serving

asyncio.run(main(sys.argv[1] == "worker"))
"""


@pytest.mark.parametrize(("number", "worker", "said"), [(0, "worker", "Hello, Ada"), (1, "", "422")])
def test_the_page_on_embedding_does_what_it_says(number: int, worker: str, said: str, tmp_path: Path) -> None:
    page = [block for block in blocks(ROOT / "docs" / "embedding.md") if block.language == "python"]
    project = Project(tmp_path)
    (tmp_path / "shop.py").write_text(page[number].text)
    (tmp_path / "driver.py").write_text(DRIVER)
    done = project.run("python", "driver.py", worker)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said


def test_every_test_that_the_threat_table_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 40
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert not missing, "\n".join(missing)


def test_the_page_on_the_api_names_every_route(sqlite_url: str) -> None:
    page = (ROOT / "docs" / "http-api.md").read_text() + (ROOT / "docs" / "deploying.md").read_text()
    for route in make_site(Nightcrew(sqlite_url)).table:
        if route.page:
            continue
        last = route.path.replace("{worker}", "{id}").replace("{token}", "{id}").replace("{blob}", "{id}")
        words = (last, "/" + last.rpartition("/")[2])
        assert any(word in page for word in words), f"{route} is not in docs/http-api.md"

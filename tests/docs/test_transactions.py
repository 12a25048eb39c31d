"""The page on transactions is true: its module is written, checked and run on a server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from tests.docs.pages import Project, blocks
from tests.parts import ROOT
from tests.story.desks import plain_url

PAGE = blocks(ROOT / "docs" / "transactions.md")

SALE = """
import asyncio
from nightcrew import Worker
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
import shop

def plain():
    shop.sell(1)
    engine = create_engine(shop.DATABASE.replace("postgresql:", "postgresql+psycopg:"))
    with Session(engine) as session:
        shop.sell_in_session(session, [2, 3])

async def main():
    async with shop.app:
        worker = Worker(shop.app)
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(plain)
        await shop.sell_awaited(4)
        assert await (await shop.bill.aenqueue(1)).aresult(30) == 1
        for job in await shop.app.asearch(task="shop.send_receipt"):
            print(await job.aresult(30))
        worker.stop()
        await running

asyncio.run(main())
"""


@pytest.mark.postgres
def test_the_page_does_what_it_says(postgres_url: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(PAGE)
    (tmp_path / "sale.py").write_text(SALE)
    schema, plain = postgres_url.rpartition("schema=")[2], plain_url(postgres_url)
    ours = f"{plain}{'&' if '?' in plain else '?'}options={quote(f'-csearch_path={schema}')}"
    with psycopg.connect(ours) as db:
        db.execute(f"CREATE SCHEMA {schema}".encode())
        db.execute("CREATE TABLE orders (id integer)")
        db.execute("CREATE TABLE bills (id integer)")
    project.env |= {"NIGHTCREW_URL": postgres_url, "DATABASE": ours}
    done = project.run("python", "sale.py")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"order {n}, thank you" for n in (1, 2, 3, 4)]
    with psycopg.connect(ours) as db:
        assert sorted(db.execute("SELECT id FROM orders")) == [(1,), (2,), (3,), (4,)]
        assert list(db.execute("SELECT id FROM bills")) == [(1,)]


def test_its_code_passes_the_type_checker(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(PAGE)
    done = project.run("mypy", "--strict", "--disable-error-code=import-untyped", "shop.py")
    assert done.returncode == 0, done.stdout


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    for block in PAGE:
        assert block.file == "shop.py" or block.language == "text", block.place

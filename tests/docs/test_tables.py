"""What `docs/tables.md` says to ask the tables works, and it names every table that there is."""

from __future__ import annotations

import re

import psycopg
import pytest

from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
from nightcrew.testing.conformance.stage import Hand, failed, put, won
from tests.docs.pages import Block, blocks
from tests.parts import ROOT

pytestmark = pytest.mark.postgres

PAGE = ROOT / "docs" / "tables.md"
QUERIES = [block for block in blocks(PAGE) if block.language == "sql"]


@pytest.fixture
async def address(postgres_url: str) -> Address:
    """Return the address of a store with a job in every place."""
    engine = PostgresEngine(postgres_url)
    await engine.open()
    hand = Hand(engine)
    await hand.beat()
    await put(engine, 3, max_attempts=1)
    ran, broke, _ = await hand.claim()
    await hand.applied(won(ran), failed(broke))
    await put(engine)
    await put(engine, delay=60.0)
    await engine.close()
    return Address(postgres_url)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
async def test_the_statement_answers(address: Address, query: Block) -> None:
    async with await psycopg.AsyncConnection.connect(address.conninfo) as db:
        cursor = await db.execute(re.sub(r"\bnightcrew\b", address.quoted, query.text).encode())
        assert await cursor.fetchall()


async def test_the_page_names_every_table(address: Address) -> None:
    async with await psycopg.AsyncConnection.connect(address.conninfo) as db:
        cursor = await db.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition",
            (address.schema,),
        )
        tables = {name for (name,) in await cursor.fetchall()}
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert named == tables

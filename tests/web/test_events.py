"""Event streams: a job is followed live, from where one left off, by a thousand at once, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from nightcrew.web.serving import LEAVING_SECONDS
from tests.servers.proxy import Proxy
from tests.story.desks import plain_url
from tests.waiting import await_until
from tests.web.sites import Shop
from tests.web.streams import Served, all_events, events, rest_of_a_stream, served


@pytest.fixture
async def site(shop: Shop) -> AsyncIterator[Served]:
    async with served(shop) as site:
        yield site


@pytest.fixture
async def client(shop: Shop, site: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with site.client(await shop.token("admin")) as client:
        yield client


async def test_a_job_is_followed_to_its_end(shop: Shop, client: httpx2.AsyncClient) -> None:
    job = await shop.app.tasks["shop.count"].aenqueue(3)
    async with client.stream("GET", f"/api/jobs/{job.id}/events?log=true") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        stream = events(answer)
        first = await anext(stream)
        assert (first.name, first.data["state"]) == ("job", "ready")
        async with shop.worker():
            rest = [event async for event in stream]
    assert rest[-1].name == "end"
    assert rest[-1].data["state"] == "succeeded"
    lines = [line["text"] for event in rest if event.name == "log" for line in event.data["lines"]]
    assert lines == ["counted 0", "counted 1", "counted 2"]


async def test_a_client_that_comes_again_goes_on_where_it_was(shop: Shop, client: httpx2.AsyncClient) -> None:
    job = await shop.app.tasks["shop.count"].aenqueue(3)
    path = f"/api/jobs/{job.id}/events?log=true"
    async with shop.worker():
        await job.afinished(20)
    told = await all_events(client, path)
    assert [event.name for event in told] == ["job", "log", "end"]
    # It lost the stream: what it had is not told again.
    for seen, rest in enumerate((["log", "end"], ["end"])):
        again = await all_events(client, path, **{"last-event-id": told[seen].id})
        assert [event.name for event in again] == rest
    # It has been told all: this status tells a browser not to come again.
    assert (await client.get(path, headers={"last-event-id": told[-1].id})).status_code == 204
    for strange in ("0", "x" * 200, "0123456789abcdef-999999999"):
        assert (await all_events(client, path, **{"last-event-id": strange}))[-1].name == "end"


async def test_a_thousand_followers_of_one_job_share_one_look(shop: Shop, site: Served) -> None:
    job = await shop.app.tasks["shop.count"].aenqueue(2)
    path, token = f"/api/jobs/{job.id}/events", await shop.token("read")
    async with asyncio.TaskGroup() as group:
        following = [group.create_task(rest_of_a_stream(site.base, path, token)) for _ in range(1_000)]
        await await_until(lambda: site.site.following.followers == 1_000, 60)
        before, began = site.site.following.looks, asyncio.get_running_loop().time()
        async with shop.worker():
            told = [await task for task in following]
    assert all(b"event: end\n" in text and b'"state":"succeeded"' in text for text in told)
    seconds = asyncio.get_running_loop().time() - began
    assert site.site.following.looks - before <= 10 * seconds + 10, "each look is for all of them"
    assert site.site.following.followers == 0


async def test_who_follows_many_jobs_in_one_stream_is_one_follower(shop: Shop, site: Served) -> None:
    jobs = [await shop.app.tasks["shop.count"].aenqueue(number) for number in range(3)]
    ids = [job.id for job in (*jobs, jobs[0])]
    headers = {"content-type": "application/json"}
    async with (
        site.client(await shop.token("read")) as client,
        client.stream("POST", "/api/remote/events", json={"ids": ids}, headers=headers) as answer,
    ):
        await await_until(lambda: site.site.following.followers == 1)
        async with shop.worker():
            ended = [job_id async for event in events(answer) for job_id in event.data["ids"]]
    assert sorted(ended) == sorted(job.id for job in jobs), "each is told once"
    assert site.site.following.followers == 0


async def test_a_stream_ends_when_its_token_is_taken_away(shop: Shop, site: Served) -> None:
    job = await shop.app.tasks["shop.count"].aenqueue(1)
    async with site.client(await shop.token("read", name="watcher")) as client:
        following = [
            asyncio.create_task(all_events(client, path))
            for path in (f"/api/jobs/{job.id}/events", "/api/events")
        ]
        await await_until(lambda: site.site.following.followers == 2)
        # By another process: this one is not told.
        await shop.site.desk.tokens.revoke("watcher")
        async with asyncio.timeout(20):
            await asyncio.gather(*following)


async def test_pages_are_told_that_something_changed(shop: Shop, client: httpx2.AsyncClient) -> None:
    async with client.stream("GET", "/api/events") as answer:
        stream = events(answer)
        await shop.app.tasks["shop.add"].aenqueue(1)
        assert (await anext(stream)).data["topics"] == ["ready"]
        async with shop.worker():
            async for event in stream:
                if "done" in event.data["topics"]:
                    break


@pytest.mark.postgres
async def test_streams_outlast_a_store_that_is_away_for_a_while(postgres_url: str) -> None:
    direct = Shop(postgres_url)
    with Proxy(plain_url(postgres_url)) as proxy:
        shop = Shop(proxy.url(postgres_url))
        async with (
            direct.app,
            shop.app,
            served(shop) as site,
            site.client(await direct.token("read")) as client,
        ):
            job = await direct.app.tasks["shop.count"].aenqueue(1)
            async with client.stream("GET", f"/api/jobs/{job.id}/events") as answer:
                stream = events(answer)
                assert (await anext(stream)).name == "job"
                proxy.refuses = True
                proxy.reset()
                assert (await client.get("/readyz")).status_code == 503
                async with direct.worker():
                    await job.afinished(20)
                proxy.refuses = False
                assert [event.name async for event in stream][-1] == "end"


@pytest.mark.engine("sqlite")
async def test_streams_end_when_the_site_stops(shop: Shop) -> None:
    token = await shop.token("read")
    job = await shop.app.tasks["shop.count"].aenqueue(1)
    async with served(shop) as site, site.client(token) as client:
        following = asyncio.create_task(all_events(client, f"/api/jobs/{job.id}/events"))
        await await_until(lambda: site.site.following.followers == 1)
        began = asyncio.get_running_loop().time()
        site.site.stop()
        assert [event.name for event in await following] == ["job"]
    assert asyncio.get_running_loop().time() - began < LEAVING_SECONDS


@pytest.mark.engine("sqlite")
async def test_streams_have_a_limit(shop: Shop) -> None:
    token = await shop.token("read")
    async with served(shop, connections=5) as site, site.client(token) as client:
        following = [asyncio.create_task(all_events(client, "/api/events")) for _ in range(3)]
        await await_until(lambda: site.site.following.followers == 3)
        async with client.stream("GET", "/api/events") as fourth:
            refused = await client.get("/api/events")
            assert (fourth.status_code, refused.status_code) == (200, 503)
        site.site.stop()
        await asyncio.gather(*following)

"""The HTTP API: jobs are asked for, followed, cancelled and run again, on every engine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from nightcrew.client import new_id
from nightcrew.errors import EngineError
from nightcrew.job import NewJob
from nightcrew.tallies import Tally
from tests.waiting import await_until
from tests.web.sites import Shop


@pytest.fixture
async def admin(shop: Shop) -> AsyncIterator[httpx2.AsyncClient]:
    async with shop.client(await shop.token("admin")) as client:
        yield client


async def enqueue(client: httpx2.AsyncClient, task: str, **more: Any) -> str:
    answer = await client.post("/api/jobs", json={"task": task, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_a_job_is_asked_for_followed_and_answered(shop: Shop, admin: httpx2.AsyncClient) -> None:
    answer = await admin.post("/api/jobs", json={"task": "shop.add", "args": {"a": 2, "b": 3}})
    assert answer.status_code == 202
    assert answer.json()["created"] is True
    place = answer.headers["location"]
    assert place == f"/api/jobs/{answer.json()['id']}"
    assert int(answer.headers["retry-after"]) > 0
    waiting = await admin.get(place)
    assert waiting.status_code == 200
    assert waiting.json()["state"] == "ready"
    assert int(waiting.headers["retry-after"]) > 0
    early = await admin.get(f"{place}/result")
    assert early.status_code == 409
    assert early.headers["content-type"] == "application/problem+json"
    async with shop.worker():
        await await_until(lambda: is_done(admin, place))
    done = await admin.get(f"{place}?redirect=1")
    assert done.status_code == 303
    assert (await admin.get(done.headers["location"])).json() == 5
    assert "retry-after" not in (await admin.get(place)).headers


async def is_done(client: httpx2.AsyncClient, place: str) -> bool:
    return (await client.get(place)).json()["state"] in ("succeeded", "failed", "cancelled")


async def test_a_repeated_request_answers_the_same_job(shop: Shop, admin: httpx2.AsyncClient) -> None:
    body = {"task": "shop.add", "args": {"b": 2, "a": 1}}
    key = {"idempotency-key": str(uuid.uuid4())}
    first = await admin.post("/api/jobs", json=body, headers=key)
    again = await admin.post("/api/jobs", json={"args": {"a": 1, "b": 2}, "task": "shop.add"}, headers=key)
    assert (first.json()["created"], again.json()["created"]) == (True, False)
    assert again.json()["id"] == first.json()["id"]
    other = await admin.post("/api/jobs", json={"task": "shop.add", "args": {"a": 7}}, headers=key)
    assert other.status_code == 422
    assert other.json()["value"] == key["idempotency-key"]
    async with shop.client(await shop.token("enqueue")) as stranger:
        its_own = await stranger.post("/api/jobs", json=body, headers=key)
        assert its_own.json()["id"] != first.json()["id"]
    assert len((await admin.get("/api/jobs")).json()["jobs"]) == 2


async def test_of_requests_with_one_key_at_once_or_broken_off_there_is_one_job(
    shop: Shop, admin: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, key = {"task": "shop.add", "args": {"a": 1}}, {"idempotency-key": "one"}
    with monkeypatch.context() as broken:
        # As if the process had died after the key was written down, and before the job was.
        broken.setattr(shop.app.client, "astore", store_is_away)
        assert (await admin.post("/api/jobs", json=body, headers=key)).status_code == 503
    assert (await admin.get("/api/jobs")).json()["jobs"] == []
    answers = await asyncio.gather(*(admin.post("/api/jobs", json=body, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await admin.get("/api/jobs")).json()["jobs"]) == 1


async def store_is_away(_: Any) -> Any:
    raise EngineError("the disk was pulled out")


async def test_a_job_that_was_removed_is_not_run_again_for_its_key(
    shop: Shop, admin: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(ids: Sequence[str]) -> list[None]:
        return [None for _ in ids]

    async def stored(_: Any) -> Any:
        raise AssertionError("stored once more")

    body = {"task": "shop.add", "args": {"a": 1}, "keep_result": "1h"}
    for path, asked in (("/api/jobs", body), ("/api/batches", {"jobs": [body]})):
        key = {"idempotency-key": f"short {path}"}
        made = (await admin.post(path, json=asked, headers=key)).json()
        job = made.get("id") or made["jobs"][0]["id"]
        with monkeypatch.context() as later:
            later.setattr(shop.app.engine, "get", nothing)
            later.setattr(shop.app.engine, "enqueue", stored)
            again = await admin.post(path, json=asked, headers=key)
        if path == "/api/jobs":
            assert again.status_code == 409
            assert again.json()["value"] == job
        else:
            assert again.json()["jobs"] == [{"id": job, "created": False}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"task": "shop.nothing"}, "no task 'shop.nothing'"),
        ({"task": "shop.add"}, "missing a required argument"),
        ({"task": "shop.add", "args": {"a": "two"}}, "args.a: expected int"),
        ({"task": "shop.add", "args": {"a": 1, "c": 2}}, "unexpected"),
        ({"task": "shop.add", "args": {"a": 1}, "queue": "no queue"}, "`queue`"),
        ({"task": "shop.add", "args": {"a": 1}, "run_after": "soon"}, "`run_after`"),
        ({"task": "shop.add", "args": {"a": 1}, "run_after": "0001-01-01T00:00:00+14:00"}, "1970 and 9999"),
        ({"task": "shop.add", "args": {"a": 1}, "run_after": "9999-12-31T23:59:59-14:00"}, "1970 and 9999"),
        ({"task": "shop.add", "args": {"a": 1}, "run_after": "nan"}, "`run_after`"),
        ({"task": "shop.add", "args": {"a": 1}, "colour": "red"}, "colour"),
        ({"task": "shop.add", "args": [1]}, "args"),
        ({"task": "shop.add", "args": {"a": 1}, "id": "1"}, "id"),
        ({"args": {}}, "task"),
        ([], "object"),
    ],
)
@pytest.mark.engine("sqlite")
async def test_what_does_not_fit_is_refused(admin: httpx2.AsyncClient, body: Any, said: str) -> None:
    answer = await admin.post("/api/jobs", json=body)
    assert answer.status_code == 422
    problem = answer.json()
    assert said in f"{problem.get('value')} {problem.get('detail')}"
    assert (await admin.get("/api/jobs")).json()["jobs"] == []


async def test_jobs_are_listed_by_what_they_are(shop: Shop, admin: httpx2.AsyncClient) -> None:
    ids = [
        await enqueue(admin, "shop.add", args={"a": n}, tags=["odd" if n % 2 else "even"]) for n in range(5)
    ]
    await enqueue(admin, "shop.fail", args={"why": "so"}, queue="other")
    page = (await admin.get("/api/jobs?task=shop.add&limit=3")).json()
    rest = (await admin.get("/api/jobs", params={"task": "shop.add", "after": page["next"]})).json()
    assert [job["id"] for job in page["jobs"] + rest["jobs"]] == ids[::-1]
    odd = (await admin.get("/api/jobs?tag=odd")).json()["jobs"]
    assert {job["id"] for job in odd} == {ids[1], ids[3]}
    assert [job["task"] for job in (await admin.get("/api/jobs?queue=other")).json()["jobs"]] == ["shop.fail"]
    for wrong in ("limit=501", "limit=0", "limit=x", "state=odd", "colour=red", "limit=1&limit=2", "task="):
        assert (await admin.get(f"/api/jobs?{wrong}")).status_code == 422, wrong
    queues = (await admin.get("/api/queues")).json()
    assert {(entry["queue"], entry["ready"]) for entry in queues["queues"]} == {("default", 5), ("other", 1)}


async def test_failures_are_told_by_kind(shop: Shop, admin: httpx2.AsyncClient) -> None:
    before = datetime.now(UTC)
    jobs = [await enqueue(admin, "shop.fail", args={"why": f"reason {n}"}) for n in range(3)]
    async with shop.worker():
        for job in jobs:
            await await_until(lambda place=f"/api/jobs/{job}": is_done(admin, place))  # type: ignore[misc]
    [group] = (await admin.get("/api/failures")).json()["failures"]
    assert (group["task"], group["count"], group["type"]) == ("shop.fail", 3, "builtins.ValueError")
    same = (await admin.get("/api/jobs", params={"fingerprint": group["fingerprint"]})).json()["jobs"]
    assert {job["id"] for job in same} == set(jobs)
    then = {"since": (before - timedelta(hours=1)).isoformat(), "until": datetime.now(UTC).isoformat()}
    assert len((await admin.get("/api/jobs", params=then)).json()["jobs"]) == 3
    assert (await admin.get("/api/jobs", params={"until": then["since"]})).json()["jobs"] == []
    later = {"since": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    assert (await admin.get("/api/failures", params=later)).json()["failures"] == []
    worker = same[0]["worker"]
    assert len((await admin.get("/api/jobs", params={"worker": worker})).json()["jobs"]) == 3
    for wrong in ("since=2026-01-01T00:00:00", "since=yesterday", "fingerprint=x"):
        assert (await admin.get(f"/api/jobs?{wrong}")).status_code == 422, wrong


async def test_what_has_ended_is_told_by_time_queue_and_task(shop: Shop, admin: httpx2.AsyncClient) -> None:
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    jobs = [await enqueue(admin, "shop.add", args={"a": n}) for n in range(3)]
    jobs.append(await enqueue(admin, "shop.fail", args={"why": "so"}))
    async with shop.worker():
        for job in jobs:
            await await_until(lambda place=f"/api/jobs/{job}": is_done(admin, place))  # type: ignore[misc]
    asked = {"since": since, "step": "86400"}
    found = (await admin.get("/api/tallies", params=asked)).json()
    counts = {task: [0, 0] for task in ("shop.add", "shop.fail")}
    for entry in found["tallies"]:
        counts[entry["task"]][0] += entry["succeeded"]
        counts[entry["task"]][1] += entry["failed"]
        assert entry["queue"] == "default"
        assert 0 < entry["run_seconds"]["p95"] <= found["bounds"][len(entry["runs"]) - 1]
    assert counts == {"shop.add": [3, 0], "shop.fail": [0, 1]}
    assert (await admin.get("/api/tallies", params={"until": since})).json()["tallies"] == []
    for wrong in (
        "step=61",
        "step=59",
        "since=2020-01-01T00:00:00Z",
        "since=2999-01-01T00:00:00Z",
        "since=x",
    ):
        assert (await admin.get(f"/api/tallies?{wrong}")).status_code == 422, wrong


async def test_a_failed_job_is_run_again_as_it_was_or_with_other_arguments(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    job = await enqueue(admin, "shop.fail", args={"why": "the first"})
    async with shop.worker():
        await await_until(lambda: is_done(admin, f"/api/jobs/{job}"))
        result = await admin.get(f"/api/jobs/{job}/result")
        assert result.status_code == 409
        assert "the first" in result.json()["detail"]
        detail = (await admin.get(f"/api/jobs/{job}/detail")).json()
        assert detail["args"] == {"why": "the first"}
        assert detail["attempts"][0]["error"]["type"] == "builtins.ValueError"
        other = await admin.post(f"/api/jobs/{job}/retry", json={"args": {"why": "the second"}})
        assert other.json()["created"] is True
        place = other.headers["location"]
        await await_until(lambda: is_done(admin, place))
        assert "the second" in (await admin.get(place)).json()["error"]["message"]
    again = await admin.post(f"/api/jobs/{job}/retry")
    assert again.json()["job"]["state"] == "ready"
    refused = await admin.post(f"/api/jobs/{job}/retry")
    assert refused.status_code == 409
    copied = await admin.post(f"/api/jobs/{job}/copy")
    assert copied.json()["id"] != job
    wrong = await admin.post(f"/api/jobs/{job}/copy", json={"args": {"what": 1}})
    assert wrong.status_code == 422


async def test_a_job_is_cancelled(admin: httpx2.AsyncClient) -> None:
    job = await enqueue(admin, "shop.add", args={"a": 1}, run_after="1h")
    answer = await admin.delete(f"/api/jobs/{job}")
    assert answer.json() == {"id": job, "changed": "done"}
    assert (await admin.get(f"/api/jobs/{job}")).json()["state"] == "cancelled"
    assert (await admin.post(f"/api/jobs/{job}/cancel")).json()["changed"] == "unchanged"


async def test_who_may_only_enqueue_sees_jobs_of_their_own(shop: Shop, admin: httpx2.AsyncClient) -> None:
    theirs = await enqueue(admin, "shop.add", args={"a": 1})
    async with shop.client(await shop.token("enqueue")) as client:
        own = await enqueue(client, "shop.add", args={"a": 1}, run_after=60)
        assert (await client.get(f"/api/jobs/{own}")).status_code == 200
        for what in ("", "/result", "/detail"):
            hidden = await client.get(f"/api/jobs/{theirs}{what}")
            missing = await client.get(f"/api/jobs/{uuid.uuid4()}{what}")
            assert hidden.status_code == missing.status_code == 404
            assert hidden.json()["title"] == missing.json()["title"]
        taken = await client.post("/api/jobs", json={"task": "shop.add", "args": {"a": 2}, "id": theirs})
        assert taken.status_code == 409
        assert theirs not in str(taken.json().get("job"))
        assert (await client.delete(f"/api/jobs/{theirs}")).status_code == 404
        assert (await client.delete(f"/api/jobs/{own}")).status_code == 200
    async with shop.client(await shop.token("enqueue", "read")) as client:
        assert (await client.get(f"/api/jobs/{theirs}")).status_code == 200
        assert (await client.delete(f"/api/jobs/{theirs}")).status_code == 403
    assert (await admin.get(f"/api/jobs/{theirs}")).json()["state"] == "ready"


async def test_marked_values_are_shown_to_nobody_else(shop: Shop) -> None:
    card = "4111-1111"
    async with (
        shop.client(await shop.token("enqueue")) as owner,
        shop.client(await shop.token("admin")) as other,
    ):
        job = await enqueue(owner, "shop.charge", args={"card": card, "amount": 5})
        async with shop.worker():
            await await_until(lambda: is_done(owner, f"/api/jobs/{job}"))
        assert (await owner.get(f"/api/jobs/{job}/result")).json() == f"paid 5 with {card}"
        for what in ("", "/result", "/detail"):
            assert card not in (await other.get(f"/api/jobs/{job}{what}")).text
        again = await other.post(f"/api/jobs/{job}/copy", json={"args": {"card": "••••••", "amount": 6}})
        async with shop.worker():
            await await_until(lambda: is_done(other, again.headers["location"]))
        for what in ("", "/result", "/detail"):
            assert card not in (await other.get(again.headers["location"] + what)).text, (
                "who copies learns nothing"
            )
        record = await shop.app.aget(again.json()["id"])
        assert await record.aresult(5) == f"paid 6 with {card}"


async def test_marked_values_that_are_kept_elsewhere_are_not_to_be_found_there(shop: Shop) -> None:
    card = "4111-1111 " * 10_000
    async with (
        shop.client(await shop.token("enqueue")) as owner,
        shop.client(await shop.token("read")) as reader,
    ):
        job = await enqueue(owner, "shop.charge", args={"card": card, "amount": 5})
        kept = (await shop.app.aget(job)).record.args
        assert kept.startswith(b'{"$blob"'), "too large to be kept with the job"
        place = json.loads(kept)["$blob"]["id"]
        for path in (f"/api/jobs/{job}/detail", f"/jobs/{job}"):
            seen = await reader.get(path)
            assert seen.status_code == 200
            assert place not in seen.text
            assert "4111" not in seen.text
        one = await reader.get(f"/api/remote/jobs/{job}")
        looks = await reader.post("/api/remote/looks", json={"ids": [job]})
        found = await reader.post("/api/remote/searches", json={})
        shown = (one.json()["detail"]["job"], looks.json()["jobs"][0], found.json()["jobs"][0])
        assert [json.loads(base64.b64decode(record["args"])) for record in shown] == ["••••••"] * 3


async def test_what_no_calendar_and_no_stack_can_hold_is_shown_all_the_same(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    """One odd job must not take the list of all others away."""
    odd = [NewJob(new_id(), "shop.add", "default", b'{"a":1}', run_at=at) for at in (-1e11, 1e12)]
    await shop.app.engine.enqueue(odd)
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    blob = (await admin.post("/api/blobs", content=deep)).json()
    nested = [{"id": new_id(), "task": task, "queue": "default", "args": {"$blob": blob}} for task in TASKS]
    assert (await admin.post("/api/remote/jobs", json={"jobs": nested})).status_code == 200
    listed = (await admin.get("/api/jobs")).json()["jobs"]
    assert {job["due_at"][:4] for job in listed} >= {"1970", "9999"}
    for job in listed:
        assert (await admin.get(f"/api/jobs/{job['id']}/detail")).status_code == 200
        assert (await admin.get(f"/jobs/{job['id']}")).status_code == 200
    async with shop.client(await shop.token("enqueue")) as owner:
        assert (
            await owner.post("/api/remote/jobs", json={"jobs": [{**nested[0], "id": new_id()}]})
        ).is_success
    assert (
        await admin.post("/api/queues/default/pause", json={"until": "9999-12-31T23:59:59-12:00"})
    ).status_code == 422
    assert (await admin.get("/api/queues")).status_code == 200


TASKS = ("shop.add", "shop.charge")


async def test_an_id_of_a_day_to_come_is_refused(shop: Shop, admin: httpx2.AsyncClient) -> None:
    """Its job would stand before all others in every list."""
    now = time.time()
    for ahead, status in ((-400 * 86_400, 2), (3_600, 2), (2 * 86_400, 4), (1e11, 4)):
        made = f"{int((now + ahead) * 1000) & 0xFFFFFFFFFFFF:012x}"
        job = f"{made[:8]}-{made[8:]}{new_id()[13:]}"
        sent = {"task": "shop.add", "args": {"a": 1}, "id": job}
        remote = {**sent, "id": job[:-4] + "0000", "queue": "default"}
        for path, body in (
            ("/api/jobs", sent),
            ("/api/batches", {"jobs": [{**sent, "id": job[:-4] + "1111"}]}),
            ("/api/remote/jobs", {"jobs": [remote]}),
        ):
            assert (await admin.post(path, json=body)).status_code // 100 == status, (path, ahead)
    assert len((await admin.get("/api/jobs")).json()["jobs"]) == 6


async def test_an_id_of_a_file_is_used_once(admin: httpx2.AsyncClient) -> None:
    path = f"/api/blobs?id={uuid.uuid4()}"
    assert (await admin.post(path, content=b"abc")).status_code == 201
    for more in ("", f"&sha256={'0' * 64}"):
        again = await admin.post(path + more, content=b"abc")
        assert again.status_code == 409
    same = await admin.post(f"{path}&sha256={hashlib.sha256(b'abc').hexdigest()}", content=b"abc")
    assert same.status_code == 201
    assert (await admin.get(same.headers["location"])).content == b"abc"


async def test_a_large_file_that_is_said_to_be_arguments_is_not_read_into_memory(shop: Shop) -> None:
    async with shop.client(await shop.token("enqueue")) as client:
        blob = (await client.post("/api/blobs", content=b'{"a":' + b" " * 3_000_000 + b"1}")).json()
        for size, status in ((100 << 20, 413), (10, 404)):
            sent = {"id": new_id(), "task": "shop.add", "queue": "default"}
            args = {"$blob": {**blob, "size": size}}
            stored = await client.post("/api/remote/jobs", json={"jobs": [{**sent, "args": args}]})
            assert stored.status_code == 200
            assert (await client.get(f"/api/jobs/{sent['id']}/detail")).status_code == status


async def test_tasks_of_others_are_taken_only_where_that_is_allowed(database_url: str) -> None:
    shop = Shop(database_url, any_task=True)
    async with shop.app, shop.client(await shop.token("enqueue")) as client:
        job = await enqueue(client, "elsewhere.task", args={"anything": [1, {"x": None}]})
        assert (await client.get(f"/api/jobs/{job}/detail")).json()["args"] == {"anything": [1, {"x": None}]}
        wrong = await client.post("/api/jobs", json={"task": "os; system", "args": {}})
        assert wrong.status_code == 422


async def test_files_go_in_and_come_out(shop: Shop, admin: httpx2.AsyncClient) -> None:
    content = bytes(range(256)) * 4_000
    async with (
        shop.client(await shop.token("enqueue")) as client,
        shop.client(await shop.token("enqueue")) as other,
    ):
        sent = await client.post(
            "/api/blobs", params={"name": "Übung.bin"}, content=content, headers={"content-type": "image/x"}
        )
        assert sent.status_code == 201
        blob = sent.json()
        assert (blob["name"], blob["size"]) == ("Übung.bin", len(content))
        job = await enqueue(client, "shop.turn", args={"file": blob})
        async with shop.worker():
            await await_until(lambda: is_done(client, f"/api/jobs/{job}"))
        turned = (await client.get(f"/api/jobs/{job}/result")).json()
        for place in (sent.headers["location"], f"/api/blobs/{turned['id']}"):
            got = await client.get(place, params={"job": job})
            assert got.status_code == 200
            assert got.content == (content if place == sent.headers["location"] else content[::-1])
            assert got.headers["content-disposition"].startswith("attachment; ")
            assert "sandbox" in got.headers["content-security-policy"]
            assert got.headers["content-type"] == "application/octet-stream"
            assert (await other.get(place, params={"job": job})).status_code == 404
            assert (await other.get(place)).status_code == 422
            assert (await admin.get(place)).content == got.content
        of_another = await enqueue(client, "shop.add", args={"a": 1})
        assert (await client.get(f"/api/blobs/{blob['id']}", params={"job": of_another})).status_code == 404
        assert (await admin.get(f"/api/blobs/{uuid.uuid4()}")).status_code == 404


async def test_jobs_are_asked_for_and_looked_at_together(shop: Shop, admin: httpx2.AsyncClient) -> None:
    batch: dict[str, list[Any]] = {"jobs": [{"task": "shop.add", "args": {"a": n}} for n in range(3)]}
    key = {"idempotency-key": "a batch"}
    first = await admin.post("/api/batches", json=batch, headers=key)
    assert first.status_code == 202
    again = await admin.post("/api/batches", json=batch, headers=key)
    ids = [job["id"] for job in first.json()["jobs"]]
    assert [job["id"] for job in again.json()["jobs"]] == ids
    assert {job["created"] for job in again.json()["jobs"]} == {False}
    async with shop.client(await shop.token("enqueue")) as client:
        own = await enqueue(client, "shop.add", args={"a": 1})
        looked = (await client.post("/api/looks", json={"ids": [ids[0], own, str(uuid.uuid4())]})).json()
        assert [job and job["id"] for job in looked["jobs"]] == [None, own, None]
    looked = (await admin.post("/api/looks", json={"ids": ids})).json()
    assert [job["id"] for job in looked["jobs"]] == ids
    async with shop.client(await shop.token("enqueue")) as client:
        taken = {"jobs": [batch["jobs"][0], {**batch["jobs"][1], "id": ids[1]}]}
        assert (await client.post("/api/batches", json=taken)).status_code == 409
    batch["jobs"][1] = {"task": "shop.add", "args": {"a": "no number"}}
    assert (await admin.post("/api/batches", json=batch)).status_code == 422
    assert len((await admin.get("/api/jobs")).json()["jobs"]) == 4, "all or none"


def test_an_app_that_is_at_home_in_a_thread_is_served_too(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)

    async def use() -> None:
        async with shop.client(await shop.token("admin")) as client:
            sent = await client.post("/api/blobs", content=b"x" * 600_000)
            job = await enqueue(client, "shop.turn", args={"file": sent.json()})
            assert (
                await client.get(f"/api/blobs/{sent.json()['id']}", params={"job": job})
            ).status_code == 200

    with shop.app:
        asyncio.run(use())


async def test_queues_are_paused_and_workers_told(shop: Shop, admin: httpx2.AsyncClient) -> None:
    asked = {"reason": "the printer burns", "until": "1h"}
    assert (await admin.post("/api/queues/default/pause", json=asked)).json() == {"done": True}
    job = await enqueue(admin, "shop.add", args={"a": 1})
    shown = (await admin.get("/api/queues")).json()
    assert [(one["queue"], one["reason"]) for one in shown["paused"]] == [("default", "the printer burns")]
    assert shown["queues"][0]["problem"] == "this queue is paused"
    async with shop.worker() as worker:
        await await_until(lambda: one_worker(admin))
        assert (await admin.get(f"/api/jobs/{job}")).json()["state"] == "ready"
        assert (await admin.post("/api/queues/default/resume")).json() == {"done": True}
        await await_until(lambda: is_done(admin, f"/api/jobs/{job}"))
        assert (await admin.post(f"/api/workers/{worker.id}/quiet")).status_code == 200
        await await_until(lambda: is_quiet(admin))
    assert (await admin.post(f"/api/workers/{uuid.uuid4()}/stop")).status_code == 404
    assert (await admin.post("/api/queues/default/resume")).json() == {"done": False}
    for wrong in ({"until": "2020-01-01T00:00:00Z"}, {"until": "soon"}, {"reason": "x" * 2_000}):
        assert (await admin.post("/api/queues/default/pause", json=wrong)).status_code == 422
    # A name with a slash can be written with an escape.
    assert (await admin.post("/api/queues/mail%2Fbulk/pause")).status_code == 200
    assert {one["queue"] for one in (await admin.get("/api/queues")).json()["paused"]} == {"mail/bulk"}


async def one_worker(client: httpx2.AsyncClient) -> bool:
    return len((await client.get("/api/workers")).json()["workers"]) == 1


async def is_quiet(client: httpx2.AsyncClient) -> bool:
    return bool((await client.get("/api/workers")).json()["workers"][0]["state"] == "quiet")


async def test_health_and_figures_are_told(shop: Shop, admin: httpx2.AsyncClient) -> None:
    await enqueue(admin, "shop.add", args={"a": 1})
    await enqueue(admin, "shop.add", args={"a": 1}, run_after="1h")
    await admin.post("/api/queues/slow/pause")
    assert (await admin.get("/readyz")).text == "ok\n"
    async with shop.worker():
        await await_until(lambda: one_worker(admin))
        found = (await admin.get("/api/health")).json()
        assert found["ok"] is True
        assert {check["name"]: check["ok"] for check in found["checks"]} == {"store": True, "workers": True}
        before = time.time() // 60 * 60 - 60
        ended = Tally(before, "shop.add", "default", 7, 2, waits=(0,) * 11 + (9,), runs=(9,))
        [info] = await shop.app.aworkers()
        await shop.app.engine.renew(info.status, [ended])
        answer = await admin.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    figures = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"(nightcrew_\w+(?:\{[^}]*\})?) ([0-9.e+-]+)", line)
            assert match, line
            figures[match[1]] = float(match[2])
    assert figures['nightcrew_jobs_later{queue="default",task="shop.add"}'] == 1
    assert figures['nightcrew_jobs_ended{queue="default",task="shop.add",how="succeeded"}'] == 7
    assert figures['nightcrew_jobs_ended{queue="default",task="shop.add",how="failed"}'] == 2
    assert 1 <= figures['nightcrew_wait_seconds{queue="default",task="shop.add",quantile="0.95"}'] <= 2
    assert figures['nightcrew_run_seconds{queue="default",task="shop.add",quantile="0.5"}'] <= 0.001
    assert figures['nightcrew_queue_paused{queue="slow"}'] == 1
    assert figures['nightcrew_workers{state="running"}'] == 1
    families = re.findall(r"^# TYPE (\S+) (gauge|counter|histogram)$", answer.text, re.MULTILINE)
    assert len(families) == len(set(families)) == len(re.findall(r"^# HELP", answer.text, re.MULTILINE))


async def test_a_store_that_is_gone_is_told(database_url: str) -> None:
    shop = Shop(database_url)
    async with shop.app:
        secret = await shop.token("admin")
        async with shop.client(secret) as client:
            assert (await client.get("/readyz")).status_code == 200
            await shop.app.engine.close()
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503
            refused = await client.get("/api/jobs")
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert "no such" not in refused.text

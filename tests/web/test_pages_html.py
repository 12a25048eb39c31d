"""The operations pages over ASGI, without a browser: what each shows to whom, and that every action does what it says."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from nightcrew.engine import WorkerStatus
from nightcrew.job import JobState
from nightcrew.masking import MASK
from nightcrew.rescue import boot_id
from nightcrew.web.pages.look import Look
from tests.waiting import await_until
from tests.web.sites import HOME, Shop

PAGES = ["/", "/jobs", "/running", "/failures", "/queues", "/workers", "/audit", "/tokens"]

only_sqlite = pytest.mark.engine("sqlite")
"""For what does not depend on the store."""


@pytest.fixture
async def admin(shop: Shop) -> AsyncIterator[httpx2.AsyncClient]:
    async with shop.client(await shop.token("admin", name="anna")) as client:
        yield client


def text(answer: httpx2.Response) -> str:
    """The words of a page, without its markup."""
    main = answer.text.partition("<main")[2]
    words = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", "<main" + main)).split())
    return re.sub(r" ([:,.;])", r"\1", words)


async def post(client: httpx2.AsyncClient, path: str, **fields: Any) -> httpx2.Response:
    """Send a form as a browser does, and follow where it leads."""
    return await client.post(
        path, data=fields, headers={"sec-fetch-site": "same-origin"}, follow_redirects=True
    )


async def enqueue(shop: Shop, task: str, *args: Any, **options: Any) -> str:
    job = await shop.app.tasks[task].using(**options).aenqueue(*args)
    return str(job.id)


async def state(shop: Shop, job_id: str) -> JobState:
    return (await shop.app.aget(job_id)).state


async def ended(shop: Shop, *job_ids: str) -> None:
    """Let a worker run until these jobs have ended."""
    async with shop.worker():
        for job_id in job_ids:
            await (await shop.app.aget(job_id)).afinished(timeout=20)


async def failed(shop: Shop, count: int = 1, why: str = "no") -> list[str]:
    ids = [await enqueue(shop, "shop.fail", why) for _ in range(count)]
    await ended(shop, *ids)
    return ids


# --- who sees what ----------------------------------------------------------------------------------


@only_sqlite
@pytest.mark.parametrize("path", PAGES)
async def test_a_stranger_is_told_how_to_come_in(shop: Shop, path: str) -> None:
    async with shop.client() as client:
        answer = await client.get(path)
    assert answer.status_code == HTTPStatus.UNAUTHORIZED
    assert 'action="/session"' in answer.text
    assert "Who is there?" in answer.text
    assert shop.app.url not in answer.text


@only_sqlite
async def test_a_reader_reads_and_changes_nothing(shop: Shop) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    async with shop.client(await shop.token("read")) as client:
        for path in [*PAGES[:6], f"/jobs/{job_id}"]:
            answer = await client.get(path)
            assert answer.status_code == HTTPStatus.OK
            assert 'method="post"' not in answer.text.replace('method="post" action="/jobs/change"', ""), path
            assert "/tokens" not in answer.text
        for path in (f"/jobs/{job_id}/cancel", "/jobs/change", "/queues/pause", "/workers/stop", "/tokens"):
            answer = await post(client, path, job=job_id, act="cancel")
            assert answer.status_code == HTTPStatus.FORBIDDEN
            assert "That did not work" in answer.text
        for path in ("/audit", "/tokens", f"/jobs/{job_id}/edit"):
            assert (await client.get(path)).status_code == HTTPStatus.FORBIDDEN
    assert await state(shop, job_id) is JobState.READY


@only_sqlite
async def test_pages_are_for_people_also_when_they_fail(shop: Shop, admin: httpx2.AsyncClient) -> None:
    for path, status in (
        ("/jobs/0199f3c2-7d1e-7abc-8def-0123456789ab", 404),
        ("/failures/0123456789abcdef", 404),
        ("/jobs?nonsense=1", 422),
        ("/static/none.css", 404),
    ):
        assert (await admin.get(path, headers={"accept": "text/html"})).status_code == status
    answer = await admin.get("/nowhere", headers={"accept": "text/html"})
    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert answer.headers["content-type"].startswith("text/html")
    assert (await admin.get("/nowhere")).headers["content-type"] == "application/problem+json"


@only_sqlite
async def test_a_form_of_another_site_does_nothing(shop: Shop, admin: httpx2.AsyncClient) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    for site in ("cross-site", "same-site"):
        answer = await admin.post(f"/jobs/{job_id}/cancel", headers={"sec-fetch-site": site})
        assert answer.status_code == HTTPStatus.FORBIDDEN
    assert await state(shop, job_id) is JobState.READY


@only_sqlite
async def test_forms_are_bounded_and_only_forms(shop: Shop, admin: httpx2.AsyncClient) -> None:
    path = f"/jobs/{await enqueue(shop, 'shop.add', 1)}/edit"
    own = {"sec-fetch-site": "same-origin"}
    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = await admin.post(path, content=b"{}", headers={**own, "content-type": "application/json"})
    assert answer.status_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    answer = await admin.post(path, content=b"args=" + b"x" * 600_000, headers={**own, **kind})
    assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    answer = await admin.post(path, content=b"&".join([b"a=1"] * 700), headers={**own, **kind})
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    answer = await admin.post(path, content=b"args=%ff", headers={**own, **kind})
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY


@only_sqlite
async def test_it_works_below_another_app(shop: Shop) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    outer = Starlette(routes=[Mount("/ops", shop.site)])
    headers = {"authorization": f"Bearer {await shop.token('admin')}"}
    transport = httpx2.ASGITransport(app=outer)
    async with httpx2.AsyncClient(transport=transport, base_url=HOME, headers=headers) as client:
        page = await client.get(f"/ops/jobs/{job_id}")
        assert page.status_code == HTTPStatus.OK
        for name, address in re.findall(r'(href|action|src)="([^"]*)"', page.text):
            assert address.startswith(("/ops/", "#")), f"{name}={address}"
        [style] = re.findall(r'href="(/ops/static/pages[^"]*)"', page.text)
        assert (await client.get(style)).status_code == HTTPStatus.OK
        answer = await post(client, f"/ops/jobs/{job_id}/cancel")
        assert answer.url.path == f"/ops/jobs/{job_id}"
    assert await state(shop, job_id) is JobState.CANCELLED


# --- files beside the pages -------------------------------------------------------------------------


@only_sqlite
async def test_files_are_served_by_their_content_and_may_be_kept(shop: Shop) -> None:
    async with shop.client() as client:
        look = Look()
        for name in ("pages.css", "live.js", "job.js", "icon.svg"):
            answer = await client.get(f"/static/{look.files.name_of(name)}")
            assert answer.status_code == HTTPStatus.OK
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        job = (await client.get(f"/static/{look.files.name_of('job.js')}")).text
        imported = re.findall(r'from "\./([^"]*)"', job)
        assert imported == [look.files.name_of("live.js"), look.files.name_of("times.js")]
        assert (await client.get("/static/pages.css")).status_code == HTTPStatus.NOT_FOUND


@only_sqlite
async def test_pages_hold_no_script_and_no_style(shop: Shop, admin: httpx2.AsyncClient) -> None:
    """What the content policy forbids is not even written."""
    job_id, *_ = await failed(shop)
    for path in [*PAGES, f"/jobs/{job_id}", f"/jobs/{job_id}/edit", "/jobs?state=failed"]:
        page = (await admin.get(path)).text
        assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|javascript:", page), path


# --- the list ---------------------------------------------------------------------------------------


async def test_the_list_finds_jobs_by_everything_and_page_by_page(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    tagged = await enqueue(shop, "shop.add", 1, tags=["vip"], queue="fast")
    others = [await enqueue(shop, "shop.add", n) for n in range(60)]
    for where in ("tag=vip", "queue=fast", "queue=fast&tag=vip&state=ready&task=shop.add&since=1h"):
        page = await admin.get(f"/jobs?{where}")
        assert re.findall(r'data-key="([^"]*)"', page.text) == [tagged], where
    for where in ("state=failed", "until=1h", "worker=nobody", "task=shop.fail"):
        assert "No such job." in text(await admin.get(f"/jobs?{where}")), where
    seen: list[str] = []
    address = "/jobs?task=shop.add"
    while address:
        page = await admin.get(address)
        seen += re.findall(r'data-key="([^"]*)"', page.text)
        older = re.search(r'<a href="([^"]*)" rel="next">', page.text)
        address = html.unescape(older[1]) if older else ""
    assert seen == [*reversed(others), tagged]


@only_sqlite
async def test_an_id_leads_to_its_job_and_a_part_of_one_to_those_it_fits(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    job_id, other = [await enqueue(shop, "shop.add", n) for n in range(2)]
    for typed in (job_id, job_id.upper(), job_id.replace("-", ""), f" {job_id} "):
        answer = await admin.get("/jobs", params={"q": typed})
        assert answer.headers["location"] == f"/jobs/{job_id}"
    page = await admin.get("/jobs", params={"q": job_id[-8:]})
    assert job_id in page.text
    assert other not in page.text
    answer = await admin.get("/jobs", params={"q": "mail"})
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "expected a job id, or at least 4 of its characters" in text(answer)


@only_sqlite
async def test_an_address_of_the_list_says_only_what_was_asked(admin: httpx2.AsyncClient) -> None:
    answer = await admin.get("/jobs?q=&state=failed&task=&queue=&tag=&worker=&since=&until=&fingerprint=")
    assert answer.status_code == HTTPStatus.SEE_OTHER
    assert answer.headers["location"] == "/jobs?state=failed"


@only_sqlite
async def test_a_search_that_cannot_be_is_told_beside_the_form(admin: httpx2.AsyncClient) -> None:
    answer = await admin.get("/jobs?state=done&since=soon")
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "expected a state of waiting, ready, running" in text(answer)
    assert 'value="soon"' in answer.text, "what was typed is still there"
    assert (await admin.get("/jobs?after=nonsense")).status_code == HTTPStatus.UNPROCESSABLE_ENTITY


@only_sqlite
async def test_an_open_list_keeps_its_rows_and_tells_of_newer_ones(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    older, first, second = [await enqueue(shop, "shop.add", n) for n in range(3)]
    await shop.app.acancel(older)
    page = await admin.get("/jobs?state=ready")
    [shown] = re.findall(r'data-shown="([^"]*)"', page.text)
    await shop.app.acancel(first)
    await shop.app.aretry(older)  # comes to fit, but is no newer one
    await enqueue(shop, "shop.add", 3)
    again = await admin.get(f"/jobs?state=ready&shown={shown}")
    assert re.findall(r'data-key="([^"]*)"', again.text) == [second, first]
    assert "1 newer job: show it" in text(again)
    [row] = re.findall(rf'<tr [^>]*data-key="{first}"[^>]*>', again.text)
    assert 'class="other"' in row
    assert "cancelled" in text(again)


async def test_chosen_jobs_are_retried_and_cancelled(shop: Shop, admin: httpx2.AsyncClient) -> None:
    ids = await failed(shop, 3)
    page = await post(admin, "/jobs/change", act="retry", job=ids[:2], state="failed", task="shop.fail")
    assert str(page.url.query, "ascii") == "state=failed&task=shop.fail&done=retried"
    assert "It will run again." in text(page)
    assert [await state(shop, one) for one in ids] == [JobState.READY, JobState.READY, JobState.FAILED]
    page = await post(admin, "/jobs/change", act="cancel", job=ids[:2])
    assert "It is cancelled." in text(page)
    assert await state(shop, ids[0]) is JobState.CANCELLED
    for fields in ({"act": "retry"}, {"act": "retry", "job": "nonsense"}):
        assert "Nothing was changed" in text(await post(admin, "/jobs/change", **fields))
    assert (await post(admin, "/jobs/change", act="delete", job=ids)).status_code == 422


# --- one job ----------------------------------------------------------------------------------------


async def test_a_job_that_failed_shows_why_and_runs_again(shop: Shop, admin: httpx2.AsyncClient) -> None:
    [job_id] = await failed(shop, why="the <b>printer</b> burns")
    page = await admin.get(f"/jobs/{job_id}")
    said = text(page)
    assert "ValueError: the <b>printer</b> burns" in said
    assert "raise ValueError(why)" in said, "the stack is there"
    assert "attempt 1 failed" in said
    assert "<b>printer" not in page.text
    assert f'action="/jobs/{job_id}/retry"' in page.text
    page = await post(admin, f"/jobs/{job_id}/retry")
    assert "It will run again." in text(page)
    assert "Why is this job not running?" in text(page)
    assert "No worker runs on this store." in text(page)
    assert await state(shop, job_id) is JobState.READY
    page = await post(admin, f"/jobs/{job_id}/retry")
    assert "Nothing was changed" in text(page)
    # Who did it is told to admins.
    assert "Who touched it" in text(page)
    assert "anna retry" in text(page)


async def test_a_job_is_found_by_how_its_id_begins_however_many_came_after_it(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    add = shop.app.tasks["shop.add"]
    await shop.app.aenqueue_many([add.call(n) for n in range(700)])
    for part in (job_id[:18], job_id.replace("-", "")[:15].upper()):
        page = await admin.get("/jobs", params={"q": part})
        assert job_id[-8:] in page.text
    assert "1 job" not in text(await admin.get("/jobs", params={"q": "01000000-0000"})), "of long before"


async def test_a_job_shows_its_log_its_result_and_exact_numbers(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    job_id = await enqueue(shop, "shop.count", 3)
    big = await enqueue(shop, "shop.add", 2**70)
    await ended(shop, job_id, big)
    said = text(await admin.get(f"/jobs/{job_id}"))
    assert "succeeded" in said
    assert "counted 0" in said
    assert "counted 2" in said
    assert str(2**70 + 1) in text(await admin.get(f"/jobs/{big}"))


async def test_what_is_masked_is_nowhere_on_the_pages(shop: Shop, admin: httpx2.AsyncClient) -> None:
    job_id = await enqueue(shop, "shop.charge", "4111-1111-1111", 5)
    await ended(shop, job_id)
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/edit", "/jobs", "/running", "/"):
        page = await admin.get(path)
        assert "4111" not in page.text, path
    said = text(await admin.get(f"/jobs/{job_id}"))
    assert MASK in said
    assert "Not shown card, return" in said


async def test_other_arguments_make_a_new_job_with_what_was_masked(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    job_id = await enqueue(shop, "shop.charge", "4111-1111-1111", 5, priority=7)
    page = await admin.get(f"/jobs/{job_id}/edit")
    [shown] = re.findall(r"<textarea[^>]*>(.*?)</textarea>", page.text, re.DOTALL)
    args = html.unescape(shown)
    assert json.loads(args) == {"card": MASK, "amount": 5}
    page = await post(admin, f"/jobs/{job_id}/edit", args=args.replace("5", "6").replace("\n", "\r\n"))
    new = page.url.path.removeprefix("/jobs/")
    assert new != job_id
    assert "with the other arguments" in text(page)
    job = await shop.app.aget(new)
    assert json.loads(job.record.args) == {"card": "4111-1111-1111", "amount": 6}
    assert job.record.priority == 7
    assert await state(shop, job_id) is JobState.READY, "the old one is left as it is"


@only_sqlite
@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ("{", "These are no arguments"),
        ("[1]", "These are no arguments"),
        ('{"a": "one"}', "expected int"),
        ('{"b": 2}', "missing"),
        ('{"a": 1, "c": 2}', "c"),
        ("[" * 5_000, "These are no arguments"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_and_kept(
    shop: Shop, admin: httpx2.AsyncClient, args: str, problem: str
) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    page = await post(admin, f"/jobs/{job_id}/edit", args=args)
    assert page.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert problem in text(page)
    assert html.escape(args[:100], quote=True).replace("&quot;", "&#34;") in page.text
    assert len((await shop.app.asearch()).jobs) == 1


async def test_a_job_is_cancelled_copied_and_asked_to_stop(shop: Shop, admin: httpx2.AsyncClient) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    page = await post(admin, f"/jobs/{job_id}/copy")
    copy = page.url.path.removeprefix("/jobs/")
    assert "This is the copy." in text(page)
    assert (await shop.app.aget(copy)).record.args == (await shop.app.aget(job_id)).record.args
    page = await post(admin, f"/jobs/{job_id}/cancel")
    assert "It is cancelled." in text(page)
    assert "cancelled" in text(page)
    assert await state(shop, copy) is JobState.READY
    held = await enqueue(shop, "shop.hold")
    async with shop.worker():
        await await_until(lambda: is_running(shop, held))
        page = await post(admin, f"/jobs/{held}/cancel")
        assert "Its worker has been asked to stop it." in text(page)
        await (await shop.app.aget(held)).afinished(timeout=20)
    assert await state(shop, held) is JobState.CANCELLED


async def is_running(shop: Shop, job_id: str) -> bool:
    return await state(shop, job_id) is JobState.RUNNING


async def test_what_runs_is_shown_by_worker(shop: Shop, admin: httpx2.AsyncClient) -> None:
    assert "Nothing runs." in text(await admin.get("/running"))
    job_id = await enqueue(shop, "shop.hold")
    async with shop.worker() as worker:
        await await_until(lambda: is_running(shop, job_id))
        await await_until(lambda: shows(admin, "/running", job_id))
        page = await admin.get("/running")
        assert f'data-key="{worker.id}"' in page.text
        assert "1 job on" in text(page)
        said = text(await admin.get(f"/jobs/{job_id}"))
        assert "attempt 1 started" in said
        assert "running for" in said
        await shop.app.acancel(job_id)
        await (await shop.app.aget(job_id)).afinished(timeout=20)


async def shows(client: httpx2.AsyncClient, path: str, word: str) -> object:
    return word and word in (await client.get(path)).text


async def test_why_a_job_waits_is_told_as_things_change(shop: Shop, admin: httpx2.AsyncClient) -> None:
    later = await enqueue(shop, "shop.add", 1, run_after="1h")
    assert "It is not due yet: it may start in" in text(await admin.get(f"/jobs/{later}"))
    job_id = await enqueue(shop, "shop.add", 1)
    assert "No worker runs on this store." in text(await admin.get(f"/jobs/{job_id}"))
    engine, boot = shop.app.engine, boot_id()

    async def there_is(queues: str, task: str, running: int = 0) -> None:
        await engine.renew(WorkerStatus("w" * 8, "h", boot, 1, (queues,), (task,), 2, running))

    path = f"/jobs/{job_id}"
    await there_is("*", "shop.other")
    await await_until(lambda: says(admin, path, "No worker knows the task shop.add."))
    await there_is("else", "shop.add")
    await await_until(lambda: says(admin, path, "takes the queue default"))
    await there_is("*", "shop.add", running=2)
    await await_until(lambda: says(admin, path, "All 2 slots of 1 worker that would take it are busy."))
    await post(admin, "/queues/pause", queue="default", reason="the printer burns")
    said = text(await admin.get(f"/jobs/{job_id}"))
    assert "The queue default is paused: by anna, the printer burns" in said


async def says(client: httpx2.AsyncClient, path: str, words: str) -> bool:
    return words in text(await client.get(path))


# --- queues and workers -----------------------------------------------------------------------------


async def test_a_queue_is_paused_and_goes_on(shop: Shop, admin: httpx2.AsyncClient) -> None:
    page = await post(admin, "/queues/pause", queue="default", reason="moving house", time="1h")
    assert "The queue is paused" in text(page)
    assert "by anna" in text(page)
    assert "moving house" in text(page)
    job_id = await enqueue(shop, "shop.add", 1)
    other = await enqueue(shop, "shop.count", 1)
    async with shop.worker():
        await (await shop.app.aget(other)).afinished(timeout=20)
        assert await state(shop, job_id) is JobState.READY
        page = await admin.get("/")
        assert "default is paused" in text(page)
        page = await post(admin, "/queues/resume", queue="default")
        assert "The queue goes on." in text(page)
        await (await shop.app.aget(job_id)).afinished(timeout=20)
    for fields in ({"queue": "no such name!", "reason": "x"}, {"queue": "q", "reason": "x", "time": "soon"}):
        assert (await post(admin, "/queues/pause", **fields)).status_code == HTTPStatus.UNPROCESSABLE_ENTITY


async def test_workers_are_shown_made_quiet_and_stopped(shop: Shop, admin: httpx2.AsyncClient) -> None:
    assert "No worker runs on this store." in text(await admin.get("/workers"))
    async with shop.worker() as worker:
        await await_until(lambda: shows(admin, "/workers", worker.id))  # which has no id before it has begun
        page = await admin.get("/workers")
        assert f"knows {len(shop.app.tasks)} tasks" in text(page)
        assert re.search(r"Memory [\d.]+ MB", text(page))
        page = await post(admin, "/workers/quiet", worker=worker.id)
        assert "Asked to take no more jobs" in text(page)
        await await_until(lambda: is_in(shop, worker.id, "quiet"))
        job_id = await enqueue(shop, "shop.add", 1)
        await await_until(lambda: says(admin, f"/jobs/{job_id}", "quiet or stopping"))
        await post(admin, "/workers/resume", worker=worker.id)
        await (await shop.app.aget(job_id)).afinished(timeout=20)
        page = await post(admin, "/workers/stop", worker=worker.id)
        assert "and stop" in text(page)
        await await_until(lambda: is_gone(shop, worker.id))
    page = await post(admin, "/workers/stop", worker=worker.id)
    assert "That worker has ended by itself meanwhile." in text(page)
    assert (await post(admin, "/workers/stop", worker="../x")).status_code == HTTPStatus.UNPROCESSABLE_ENTITY


async def is_in(shop: Shop, worker: str, wanted: str) -> bool:
    return any(info.status.state == wanted for info in await shop.app.aworkers() if info.status.id == worker)


async def is_gone(shop: Shop, worker: str) -> bool:
    return all(info.status.id != worker for info in await shop.app.aworkers())


# --- how it goes ------------------------------------------------------------------------------------


async def test_the_overview_is_led_by_the_oldest_ready_job(shop: Shop, admin: httpx2.AsyncClient) -> None:
    said = text(await admin.get("/"))
    assert "Oldest ready job none Nothing waits for a worker." in said
    await enqueue(shop, "shop.add", 1)
    await await_until(lambda: says(admin, "/", "no worker runs"))
    said = text(await admin.get("/"))
    assert re.search(r"Oldest ready job [\d.]+m?s shop\.add on default: no worker runs", said)
    assert "No worker runs nothing is taken until one is started" in said


async def test_failures_are_grouped_and_a_few_are_retried_first(
    shop: Shop, admin: httpx2.AsyncClient
) -> None:
    ids = await failed(shop, 12, why="no way")
    page = await admin.get("/failures")
    [fingerprint] = re.findall(r'data-key="([0-9a-f]+)"', page.text)
    assert re.search(r"12 ValueError no way shop\.fail", text(page))
    page = await admin.get(f"/failures/{fingerprint}")
    assert "raise ValueError(why)" in text(page)
    assert "Retry 10 first" in text(page)
    page = await post(admin, f"/failures/{fingerprint}/retry", most="10")
    assert "It will run again." in text(page)
    states = [await state(shop, one) for one in ids]
    assert states.count(JobState.READY) == 10
    assert states[0] is JobState.FAILED, "the latest come first"
    page = await admin.get(f"/jobs?state=failed&fingerprint={fingerprint}")
    assert len(re.findall(r'data-key="', page.text)) == 2


# --- for admins -------------------------------------------------------------------------------------


async def test_a_token_is_made_shown_once_and_taken_away(shop: Shop, admin: httpx2.AsyncClient) -> None:
    page = await post(admin, "/tokens", name="shop web tier", scope=["enqueue"], lifetime="30d")
    [secret] = re.findall(r">(nct_[\w-]+)<", page.text)
    assert page.headers["cache-control"] == "no-store"
    assert secret not in (await admin.get("/tokens")).text
    assert secret not in (await admin.get("/audit")).text
    async with shop.client(secret) as client:
        assert (
            await client.post("/api/jobs", json={"task": "shop.add", "args": {"a": 1}})
        ).status_code == 202
        assert (await client.get("/jobs")).status_code == HTTPStatus.FORBIDDEN
    [row] = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*shop web tier(?:(?!</tr>).)*</tr>", page.text, re.DOTALL)
    [key] = re.findall(r'name="token" value="(\w+)"', row)
    page = await post(admin, "/tokens/revoke", token=key)
    assert "worth nothing any more" in text(page)
    assert key not in page.text
    for fields in ({"name": "", "scope": "read"}, {"name": "x"}, {"name": "anna", "scope": "read"}):
        page = await post(admin, "/tokens", **fields)
        assert page.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        assert "expected" in text(page) or "there is a token" in text(page)
    assert (await post(admin, "/tokens/revoke", token="none")).status_code == HTTPStatus.NOT_FOUND


async def test_the_audit_says_who_did_what(shop: Shop, admin: httpx2.AsyncClient) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    await post(admin, f"/jobs/{job_id}/cancel")
    await post(admin, "/queues/pause", queue="mail", reason="<i>why</i>")
    page = await admin.get("/audit")
    said = text(page)
    assert re.search(r"anna token \w+ pause queue <i>why</i> mail", said)
    assert re.search(r"anna token \w+ cancel …\w+", said)
    assert said.index("pause queue") < said.index("cancel"), "the latest first"
    assert "<i>" not in page.text
    who = await shop.site.desk.tokens.who(admin.headers["authorization"].removeprefix("Bearer "))
    assert who is not None
    for n in range(60):
        await shop.site.desk.audit.record(who, "x", (str(n),))
    page = await admin.get("/audit")
    [older] = re.findall(r'<a href="([^"]*)" rel="next">', page.text)
    assert "pause queue" in text(await admin.get(html.unescape(older)))

"""What the operations pages show, worked out without a store or a server: figures, timelines, values, addresses."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import ConfigurationError
from nightcrew.documents import Pause
from nightcrew.engine import QueueStats, Stats, WorkerInfo, WorkerStatus
from nightcrew.job import AttemptRecord, ErrorInfo, JobDetail, JobRecord, JobState, Outcome
from nightcrew.tallies import LEVELS, Tally
from nightcrew.web.pages.asking import ListQuery, Search, as_id, moment, pack_ids, unpack_ids
from nightcrew.web.pages.look import address
from nightcrew.web.pages.plots import HEIGHT, WIDTH, bars, ceiling, line
from nightcrew.web.pages.rows import Going, crews, lanes, notices, oldest, row
from nightcrew.web.pages.tallied import LAST_HOUR, WINDOWS, Tallied, Window, percent, rate, window
from nightcrew.web.pages.timeline import Kind, stretches, timeline
from nightcrew.web.pages.values import MOST, editable, readable, value

NOW = 1_000_000.0
ID = "0199f3c2-7d1e-7abc-8def-0123456789ab"


def job(state: JobState = JobState.READY, **changed: Any) -> JobRecord:
    record = JobRecord(
        id=ID,
        task="mail",
        queue="out",
        state=state,
        priority=0,
        args=b"{}",
        created_at=NOW - 100,
        due_at=NOW - 100,
        attempts=0,
        max_attempts=5,
    )
    return msgspec.structs.replace(record, **changed)


def worker(name: str = "w", *, alive: bool = True, **changed: Any) -> WorkerInfo:
    status = WorkerStatus(
        id=name, host="h", boot="b", pid=1, queues=("*",), tasks=("mail",), concurrency=2, version="1.0"
    )
    return WorkerInfo(msgspec.structs.replace(status, **changed), NOW - 500, NOW - 1, alive)


def stats(*queues: QueueStats, paused: dict[str, Pause] | None = None, running: int = 0) -> Stats:
    return Stats(list(queues), running, 10_000, paused or {})


# --- what is asked of the list ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("15m", NOW - 900),
        ("7d", NOW - 604_800),
        ("1970-01-12 13:46:40", 1_000_000.0),
        ("1970-01-12T13:46:40Z", 1_000_000.0),
        ("1970-01-12 14:46:40+01:00", 1_000_000.0),
        ("1970-01-12 13:46:40 UTC", 1_000_000.0),
        ("1970-01-12", 950_400.0),
    ],
)
def test_a_time_may_be_so_long_ago_or_a_date(text: str, at: float) -> None:
    assert moment(text, NOW, "from") == at


@pytest.mark.parametrize("text", ["yesterday", "-5m", "9999-99-99", "nan", "1e999", "99999-01-01"])
def test_what_is_no_time_is_told_with_what_to_do(text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape('"from" as 15m, 2h or 7d (ago)')):
        moment(text, NOW, "from")


@pytest.mark.parametrize(
    ("name", "text"),
    [("state", "done"), ("task", "x" * 201), ("fingerprint", "../etc"), ("since", "soon")],
)
def test_a_search_that_cannot_be_is_told(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        Search(**{name: text}).filter(NOW)


def test_a_search_is_the_filter_and_the_address_of_what_was_typed() -> None:
    query = ListQuery(state="failed", task=" shop.mail ", since="1h", tag="")
    search = Search.of(query)
    where = search.filter(NOW)
    assert (where.state, where.task, where.since, where.tag) == (
        JobState.FAILED,
        "shop.mail",
        NOW - 3600,
        None,
    )
    assert address("/jobs", search.query()) == "/jobs?state=failed&task=shop.mail&since=1h"


def test_an_id_is_known_however_it_was_copied() -> None:
    assert as_id(ID.upper()) == ID
    assert as_id(ID.replace("-", "")) == ID
    assert as_id(ID[:-1]) is None
    assert as_id("../../etc/passwd-0199f3c2-7d1e-7abc") is None


@given(st.lists(st.uuids(), max_size=60))
def test_the_rows_of_a_page_travel_in_its_address(uuids: list[Any]) -> None:
    ids = [str(one) for one in uuids]
    assert unpack_ids(pack_ids(ids)) == ids[:50]


def test_what_is_no_id_among_them_is_left_out() -> None:
    assert unpack_ids(f"x.{ID}..<script>.{'0' * 33}") == [ID]
    assert unpack_ids("") == []


# --- values -----------------------------------------------------------------------------------------


def test_numbers_are_shown_as_they_were_stored() -> None:
    data = b'{"big":12345678901234567890123,"price":1.10,"tiny":1e-400}'
    shown = value(data).text
    for number in ("12345678901234567890123", "1.10", "1e-400"):
        assert number in shown


def test_what_could_steer_the_page_is_written_as_an_escape() -> None:
    shown = readable('{"name":"a\u202egpj.exe\u200b"}'.encode())
    assert "\u202e" not in shown
    assert r"\u202e" in shown


def test_an_editor_gets_json_that_means_the_same() -> None:
    data = '{"name":"a\u202eb \U000e0041 <b>\u007f","n":[1,{"x":null}]}'
    text = editable(data.encode())
    assert json.loads(text) == json.loads(data)
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff\xfe", b"[" * 10_000])
def test_what_is_no_json_is_shown_as_it_is(data: bytes) -> None:
    value(data)
    json.loads(editable(data))


def test_a_long_value_is_cut_and_says_so() -> None:
    shown = value(json.dumps("x" * 100_000).encode())
    assert len(shown.text) == MOST
    assert shown.left_out == 100_002 - MOST


def test_files_in_a_value_are_found() -> None:
    blob = {"$blob": {"id": ID, "name": "a.pdf", "size": 3, "sha256": "0"}}
    shown = value(json.dumps({"x": [{"y": blob}], "other": {"$blob": 1}}).encode())
    assert [(file.id, file.name, file.size) for file in shown.files] == [(ID, "a.pdf", 3)]


def test_a_value_in_the_blob_store_is_not_fetched_for_a_page() -> None:
    shown = value(
        json.dumps({"$blob": {"id": ID, "name": "args", "size": 5_000_000, "sha256": "0"}}).encode()
    )
    assert (shown.spilled, shown.text) == (5_000_000, "")


def test_sealed_arguments_are_said_to_be_sealed() -> None:
    assert value(b'{"$sealed":{"key":"k"}}').is_sealed


def test_a_result_whose_own_keys_start_with_a_dollar_is_shown_bare() -> None:
    assert json.loads(value(b'{"$value":{"$a":1}}', is_result=True).text) == {"$a": 1}


# --- the life of a job ------------------------------------------------------------------------------


def attempt(number: int, began: float, ended: float, outcome: Outcome = Outcome.ERROR) -> AttemptRecord:
    return AttemptRecord(
        number,
        number,
        outcome,
        error=ErrorInfo("ValueError", "no"),
        worker="w",
        started_at=began,
        ended_at=ended,
    )


def told(detail: JobDetail) -> list[tuple[str, str, float | None]]:
    return [(one.text, one.then, one.seconds) for one in timeline(detail, NOW)]


def test_the_life_of_a_job_that_failed_for_good() -> None:
    record = job(JobState.FAILED, attempts=2, started_at=NOW - 50, finished_at=NOW - 40)
    detail = JobDetail(record, (attempt(1, NOW - 90, NOW - 80), attempt(2, NOW - 50, NOW - 40)))
    assert told(detail) == [
        ("enqueued", "waited", 10.0),
        ("attempt 1 started", "ran", 10.0),
        ("attempt 1 failed", "waited", 30.0),
        ("attempt 2 started", "ran", 10.0),
        ("attempt 2 failed, the last one", "", None),
    ]


def test_the_life_of_a_job_that_succeeded_and_of_one_that_runs() -> None:
    done = job(JobState.SUCCEEDED, attempts=1, started_at=NOW - 70, finished_at=NOW - 40)
    assert told(JobDetail(done)) == [
        ("enqueued", "waited", 30.0),
        ("attempt 1 started", "ran", 30.0),
        ("succeeded", "", None),
    ]
    runs = job(JobState.RUNNING, attempts=1, started_at=NOW - 20, worker="w")
    assert told(JobDetail(runs, (attempt(1, NOW - 90, NOW - 80, Outcome.LOST),))) == [
        ("enqueued", "waited", 10.0),
        ("attempt 1 started", "ran", 10.0),
        ("attempt 1 lost its worker", "waited", 60.0),
        ("attempt 2 started", "running for", 20.0),
    ]


def test_the_life_of_a_job_that_waits_for_its_time() -> None:
    waits = job(due_at=NOW + 60)
    assert told(JobDetail(waits)) == [("enqueued", "waiting for", 100.0), ("due", "", None)]


def test_clocks_that_differ_make_no_negative_times() -> None:
    record = job(JobState.SUCCEEDED, attempts=1, started_at=NOW - 200, finished_at=NOW - 300)
    assert all(one.seconds is None or one.seconds >= 0 for one in timeline(JobDetail(record), NOW))


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=200))
def test_the_bar_of_a_life_is_always_whole(spans: list[tuple[float, float]]) -> None:
    attempts = tuple(attempt(n, began, began + length) for n, (began, length) in enumerate(spans))
    shown = stretches(timeline(JobDetail(job(created_at=0.0, due_at=0.0), attempts), 2e6))
    assert shown[0].x == 0
    assert abs(shown[-1].x + shown[-1].width - 1_000) < 1
    assert all(one.width > 0 for one in shown)
    assert {one.kind for one in shown} <= {Kind.RUN, Kind.WAIT}


# --- rows -------------------------------------------------------------------------------------------


def test_a_row_says_what_matters_in_its_state() -> None:
    failed = job(
        JobState.FAILED,
        attempts=5,
        started_at=NOW - 20,
        finished_at=NOW - 10,
        error=ErrorInfo("builtins.ValueError", "no\nway"),
    )
    shown = row(failed, NOW)
    assert (shown.word, shown.took) == ("failed", "10s")
    assert shown.note == r"ValueError: no\nway"
    running = row(job(JobState.RUNNING, started_at=NOW - 3, progress=0.5, cancelling=True), NOW)
    assert (running.word, running.progress, running.took) == ("cancelling", 0.5, "3.0s")
    assert row(job(due_at=NOW + 60), NOW).note == "due in 1m"


def test_only_what_runs_much_longer_than_usual_is_pointed_out() -> None:
    runs = job(JobState.RUNNING, started_at=NOW - 100)
    assert row(runs, NOW, usual=20.0).is_slow
    assert not row(runs, NOW, usual=40.0).is_slow
    assert not row(runs, NOW).is_slow
    assert not row(job(JobState.RUNNING, started_at=NOW - 5), NOW, usual=0.01).is_slow


def test_what_runs_is_shown_by_worker_also_where_the_worker_is_gone() -> None:
    one = row(job(JobState.RUNNING, started_at=NOW - 3), NOW)
    found = crews([worker("a"), worker("b", alive=False), worker("c", alive=False)], [("b", one)])
    assert [(crew.id, crew.word, len(crew.rows)) for crew in found] == [("a", "running", 0), ("b", "lost", 1)]


# --- queues and what needs somebody -----------------------------------------------------------------


def test_queues_come_by_how_long_their_jobs_have_waited() -> None:
    found = lanes(
        stats(
            QueueStats("a", "mail", 1, 0, NOW - 5),
            QueueStats("a", "ghost", 2, 1, NOW - 50),
            QueueStats("b", "mail", 0, 3, None),
            paused={"c": Pause(True, NOW)},
        ),
        [worker(queues=("named", "pattern.*"))],
    )
    assert [(lane.queue, lane.ready, lane.later, lane.oldest_at) for lane in found] == [
        ("a", 3, 1, NOW - 50),
        ("b", 0, 3, None),
        ("c", 0, 0, None),
        ("named", 0, 0, None),
    ]
    assert found[0].problem == "no worker knows this task"


def test_the_oldest_ready_job_is_not_one_that_is_meant_to_wait() -> None:
    seen = stats(
        QueueStats("a", "mail", 1, 0, NOW - 500),
        QueueStats("b", "mail", 1, 0, NOW - 30),
        paused={"a": Pause(True, NOW)},
    )
    found = oldest(seen, [worker()], NOW)
    assert found is not None
    assert (found.queue, found.at, found.is_late) == ("b", NOW - 30, False)
    assert oldest(stats(), [worker()], NOW) is None


def test_what_needs_somebody_is_said() -> None:
    seen = stats(
        QueueStats("a", "ghost", 3, 0, NOW - 50), paused={"b": Pause(True, NOW - 60, "anna", "moving")}
    )
    told = [
        notice.text
        for notice in notices(seen, [worker(), worker("x", alive=False), worker("y", version="2.0")], NOW)
    ]
    assert told == [
        "ghost on a: no worker knows this task",
        "1 worker was lost lately",
        "b is paused",
        "Workers of several versions run",
    ]
    assert next(notice.text for notice in notices(seen, [], NOW)) == "No worker runs"
    assert notices(stats(), [], NOW) == [], "nothing is wrong with a store that nobody uses yet"


# --- plots ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "top"), [(0, 1), (0.03, 0.05), (1, 1), (1.1, 2), (42, 50), (51, 100), (1e9, 1e9)]
)
def test_the_top_of_a_plot_is_a_round_figure(most: float, top: float) -> None:
    assert ceiling(most) == pytest.approx(top)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=60))
def test_bars_stay_inside_their_plot(amounts: list[tuple[float, float]]) -> None:
    top = ceiling(max(a + b for a, b in amounts))
    for bar in bars([(("bad", a), ("good", b)) for a, b in amounts], top):
        assert bar.y >= -0.1
        assert bar.y + bar.height <= HEIGHT + 1.1
        assert bar.x >= 0
        assert bar.x + bar.width <= WIDTH + 0.1
        assert bar.height >= 1


def test_a_line_is_broken_where_nothing_is_known() -> None:
    assert line([None, None], 1, "half").path == ""
    path = line([0.0, 1.0, None, 0.5, None, 1.0, 1.0], 1, "half").path
    assert re.sub(r"[\d. ]", "", path) == "MLMHML"


# --- how it went --------------------------------------------------------------------------------------


def tally(at: float = NOW - 30, **changed: Any) -> Tally:
    made = Tally(
        at // 60 * 60, "mail", "out", succeeded=9, failed=1, retried=2, waits=(0, 10), runs=(0, 0, 12)
    )
    return msgspec.structs.replace(made, **changed)


def test_what_was_counted_goes_to_its_step_queue_and_task() -> None:
    found = Tallied(
        [tally(), tally(NOW - 65, queue="slow"), tally(NOW - 3_000, task="other")], LAST_HOUR, NOW
    )
    assert [number for number, of in enumerate(found.steps) if of.ended] == [9, 58, 59]
    assert (found.whole.succeeded, found.whole.failed, found.whole.retried) == (27, 3, 6)
    assert {queue: of.ended for queue, of in found.queues.items()} == {"out": 20, "slow": 10}
    assert [of.name for of in found.busiest(5)] == ["mail", "other"]
    assert found.lines()[0].at + 60 > NOW
    assert not found.lines()[0].is_over
    assert all(line.is_over for line in found.lines()[1:])


def test_it_can_be_of_one_queue_or_task() -> None:
    told = [tally(), tally(queue="slow"), tally(task="other")]
    assert Tallied(told, LAST_HOUR, NOW, queue="slow").whole.ended == 10
    assert Tallied(told, LAST_HOUR, NOW, task="other").whole.ended == 10
    assert Tallied(told, LAST_HOUR, NOW, queue="none").whole.is_empty


def test_plots_say_in_words_what_they_show() -> None:
    ended, failed, waited, ran = Tallied([tally()], LAST_HOUR, NOW).plots()
    assert ended.words.startswith("Jobs ended in the last hour: 10,")
    assert failed.words == (
        "In the last hour, 1 job failed for good, 10% of those that ended; "
        "2 attempts failed and will be followed by another."
    )
    assert (
        waited.words
        == "In the last hour, half of the jobs waited for a worker for less than 1ms, and 95 of 100 for less than 2ms."
    )
    assert ran.steps[59].text.startswith("half ran for less than")
    assert ran.steps[0].text == "nothing was measured"
    assert {len(plot.steps) for plot in (ended, failed, waited, ran)} == {60}


def test_plots_of_nothing_say_so() -> None:
    for plot in Tallied([], LAST_HOUR, NOW).plots():
        assert plot.is_empty
        assert plot.words
    failed = Tallied([tally(failed=0, retried=0)], LAST_HOUR, NOW).plots()[1]
    assert failed.is_empty
    assert failed.nothing == "none", "that nothing failed is known, not unknown"


def test_a_queue_fails_too_often_when_it_is_more_than_one_odd_job() -> None:
    [one] = Tallied([tally()], LAST_HOUR, NOW).going().values()
    assert (one.failed, one.is_failing) == ("10%", False)
    [many] = Tallied([tally(succeeded=50, failed=5)], LAST_HOUR, NOW).going().values()
    assert (many.failed, many.is_failing) == ("9.1%", True)
    assert lanes(stats(), [], {"out": many})[0].going == many
    assert lanes(stats(paused={"p": Pause(True, NOW)}), [], {})[0].going == Going()


@pytest.mark.parametrize("one", WINDOWS, ids=lambda one: one.name)
def test_a_window_has_whole_steps_of_figures_that_are_kept_so_long(one: Window) -> None:
    assert one.steps * one.step == one.seconds
    assert one.steps <= 60
    kept = next((level[0] for level in LEVELS if one.seconds <= level[2]), LEVELS[-1][1])
    assert one.step % kept == 0, "a step would have the figures of others"
    assert window(one.name) is one
    assert window("no such") is LAST_HOUR


def test_rates_and_parts_are_never_nothing_for_something() -> None:
    assert [rate(x) for x in (0, 0.001, 0.25, 3.14, 1234.5)] == ["", "< 0.01", "0.25", "3.1", "1,234"]
    assert [percent(x) for x in (0, 0.00001, 0.05, 0.5, 1)] == ["0%", "0.1%", "5.0%", "50%", "100%"]

"""Traces with OpenTelemetry's own SDK, on a real worker: what is enqueued, each run of it, and how they are linked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from nightcrew import Context, JobState, Nightcrew, Retry, RetryAfter, Snooze, current, tracing
from nightcrew.job import Extras
from tests.story.working import PATIENCE, working


class Traces:
    """What OpenTelemetry was told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        """The finished spans of a name, in the order in which they began."""
        found = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return sorted(found, key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    """Set OpenTelemetry up, for one test: its own way of doing so is for ever."""
    traces = Traces()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: traces.provider)
    yield traces
    traces.provider.shutdown()


def place(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def said(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_run_is_linked_to_what_enqueued_it(app: Nightcrew, traces: Traces) -> None:
    seen: dict[str, str] = {}

    @app.task(queue="mail")
    async def send(to: str) -> None:
        await asyncio.sleep(0)
        seen["trace"] = current().trace
        with trace.get_tracer("shop").start_as_current_span("smtp"):
            pass

    with trace.get_tracer("shop").start_as_current_span("request"):
        job = await send.using(correlation_id="order 7").aenqueue("ada@example.org")
    async with working(app):
        await job.aresult(PATIENCE)

    request, enqueue, run, smtp = map(
        traces.one, ["request", f"enqueue {send.name}", f"run {send.name}", "smtp"]
    )
    assert enqueue.kind is SpanKind.PRODUCER
    assert enqueue.parent is not None
    assert enqueue.parent.span_id == place(request)[1]
    assert said(enqueue) == {
        "messaging.system": "nightcrew",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": job.id,
        "messaging.message.conversation_id": "order 7",
        "messaging.message.body.size": len(b'{"to":"ada@example.org"}'),
        "nightcrew.task": send.name,
    }
    assert enqueue.instrumentation_scope is not None
    assert enqueue.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"

    assert run.kind is SpanKind.CONSUMER
    assert run.parent is None, "a run is the root of a trace of its own"
    assert links(run) == [place(enqueue)]
    worker = said(run).pop("messaging.client.id")
    assert worker
    assert said(run) == {
        "messaging.system": "nightcrew",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": job.id,
        "messaging.message.conversation_id": "order 7",
        "messaging.client.id": worker,
        "nightcrew.task": send.name,
        "nightcrew.attempt": 1,
    }
    assert run.status.status_code is StatusCode.UNSET
    assert smtp.parent is not None
    assert (smtp.parent.trace_id, smtp.parent.span_id) == place(run)
    assert seen["trace"] == f"{place(run)[0]:032x}"


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_each_retry_is_linked_to_the_runs_before(app: Nightcrew, traces: Traces, kind: str) -> None:
    def attempt(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise OSError("the line is busy")
        if ctx.attempt == 2:
            raise RetryAfter(0)

    if kind == "loop":

        @app.task(name="call")
        async def on_loop(ctx: Context) -> None:
            await asyncio.sleep(0)
            attempt(ctx)

        task = on_loop
    else:
        task = app.task(name="call")(attempt)  # type: ignore[assignment]

    async with working(app):
        job = await task.using(retry=Retry(attempts=5, delay=0)).aenqueue()
        assert await job.afinished(PATIENCE) is JobState.SUCCEEDED

    enqueue, (first, second, third) = traces.one("enqueue call"), traces.named("run call")
    assert links(first) == [place(enqueue)]
    assert links(second) == [place(enqueue), place(first)]
    assert links(third) == [place(enqueue), place(first), place(second)]
    assert first.status.status_code is StatusCode.ERROR
    assert said(first)["error.type"] == "builtins.OSError"
    assert [event.name for event in first.events] == ["exception"]
    assert [said(run)["nightcrew.attempt"] for run in (first, second, third)] == [1, 2, 3]
    kept = [attempt.error.trace for attempt in (await job.adetail()).attempts if attempt.error]
    assert [f"{place(run)[0]:032x}" for run in (first, second)] == [address[3:35] for address in kept]


async def test_a_snooze_is_no_error(app: Nightcrew, traces: Traces) -> None:
    @app.task
    async def later(ctx: Context) -> None:
        if ctx.fence == 1:
            raise Snooze(0)

    async with working(app):
        await (await later.aenqueue()).aresult(PATIENCE)
    first, second = traces.named(f"run {later.name}")
    assert first.status.status_code is StatusCode.UNSET
    assert place(first) in links(second)


async def test_a_run_that_is_stopped_says_why(app: Nightcrew, traces: Traces) -> None:
    @app.task(timeout=0.05, retry=None)
    async def hang() -> None:
        await asyncio.Event().wait()

    async with working(app):
        assert await (await hang.aenqueue()).afinished(PATIENCE) is JobState.FAILED
    run = traces.one(f"run {hang.name}")
    assert run.status.status_code is StatusCode.ERROR
    assert said(run)["error.type"] == "asyncio.exceptions.CancelledError"
    assert "0.05 s" in (run.status.description or "")


async def test_what_a_job_enqueues_belongs_to_its_run(app: Nightcrew, traces: Traces) -> None:
    @app.task
    def pick() -> None: ...

    @app.task
    def order() -> None:
        pick.enqueue()  # from a thread, by way of the app's own loop

    async with working(app):
        await (await order.aenqueue()).aresult(PATIENCE)
    enqueue = traces.one(f"enqueue {pick.name}")
    assert enqueue.parent is not None
    assert (enqueue.parent.trace_id, enqueue.parent.span_id) == place(traces.one(f"run {order.name}"))


async def test_many_enqueued_together_are_one_span(app: Nightcrew, traces: Traces) -> None:
    @app.task
    def double(number: int) -> int:
        return 2 * number

    jobs = await app.aenqueue_many(double.call(number) for number in range(3))
    async with working(app):
        for job in jobs:
            await job.aresult(PATIENCE)
    enqueue = traces.one(f"enqueue {double.name}")
    assert said(enqueue)["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in said(enqueue)
    assert [links(run) for run in traces.named(f"run {double.name}")] == [[place(enqueue)]] * 3


async def test_a_command_is_traced_and_told_of_it(app: Nightcrew, traces: Traces) -> None:
    command = app.command("where", ["printenv", "TRACEPARENT"])
    async with working(app):
        result = await (await command.aenqueue()).aresult(PATIENCE)
    run = traces.one("run where")
    trace_id, span_id = place(run)
    assert result.output_tail.startswith(f"00-{trace_id:032x}-{span_id:016x}-")


async def test_an_address_that_is_none_is_no_link(app: Nightcrew, traces: Traces) -> None:
    @app.task
    async def add(a: int) -> int:
        return a

    for address in ("", "00-xyz-1-01", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "ff-1-1-01", "00-1"):
        job = add.call(1).new_job()
        forged = msgspec.structs.replace(job, extras=Extras(trace={"traceparent": address}))
        await app.engine.enqueue([forged])
        async with working(app):
            assert await (await app.aget(job.id)).aresult(PATIENCE) == 1
    assert [links(run) for run in traces.named(f"run {add.name}")] == [[]] * 5


async def test_nobody_is_traced_where_nothing_is_set_up(app: Nightcrew) -> None:
    """OpenTelemetry's interface alone, as other packages bring it along."""

    @app.task
    async def look() -> str:
        return current().trace

    assert not tracing.is_on()
    async with working(app):
        job = await look.aenqueue()
        assert await job.aresult(PATIENCE) == ""
    assert (await job.arefresh()).record.extras.trace is None
    assert app.hooks.around == []


CHILD = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from nightcrew import Context, Nightcrew, Retry

app = Nightcrew()


@app.on_worker_start
def set_up() -> None:
    provider = TracerProvider()
    spans = open("spans", "a")
    write = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(indent=None) + "\\n")
    provider.add_span_processor(SimpleSpanProcessor(write))
    trace.set_tracer_provider(provider)


@app.task(run_in="process", retry=Retry(attempts=2, delay=0))
def fail_once(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise OSError("gone")


if __name__ == "__main__":
    import asyncio

    from nightcrew import Worker

    async def main() -> None:
        async with app:
            set_up()
            worker = Worker(app)
            running = asyncio.create_task(worker.run())
            await (await fail_once.aenqueue()).aresult(30)
            worker.stop()
            await running

    asyncio.run(main())
"""


@pytest.mark.engine("sqlite")
def test_a_child_process_traces_its_runs(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "traced.py").write_text(CHILD)
    program = [sys.executable, "traced.py"]
    paths = str(Path(tracing.__file__).parents[1])
    environment = {"NIGHTCREW_URL": database_url, "PYTHONPATH": paths, "PATH": "/usr/bin:/bin"}
    subprocess.run(program, cwd=tmp_path, env=environment, check=True, timeout=PATIENCE)
    spans = [msgspec.json.decode(line) for line in (tmp_path / "spans").read_text().splitlines()]
    enqueue, first, second = spans
    assert [span["name"].partition(" ")[0] for span in spans] == ["enqueue", "run", "run"]
    assert [link["context"] for link in first["links"]] == [comparable(enqueue)]
    assert [link["context"] for link in second["links"]] == [comparable(enqueue), comparable(first)]


def comparable(span: dict[str, dict[str, str]]) -> dict[str, str]:
    return span["context"]

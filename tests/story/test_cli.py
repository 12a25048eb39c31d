"""The command line, as it is typed: real commands, on a real store, beside a real worker."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nightcrew import Changed, JobState, Nightcrew
from nightcrew.cli.main import main
from tests.parts import ROOT
from tests.servers.sharing import Schemas
from tests.waiting import wait_until

PATIENCE = 60.0
UNKNOWN = "0199f3c2-7d1e-7abc-8def-0123456789ab"
EVIL = "\x1b[31mred\x1b]0;title\x07 [bold]bold[/bold] \u202eback\nnew line \x9b1m"

SHOP = '''
import asyncio
import threading
from datetime import datetime
from pathlib import Path
from uuid import UUID

from nightcrew import Abort, Blob, Context, Nightcrew

app = Nightcrew()


@app.task
def add(a: int, b: int = 1) -> int:
    return a + b


@app.task
def show(when: datetime, key: UUID, names: list[str], flag: bool, share: float, text: str) -> str:
    return f"{when:%Y-%m-%d %H}h {key} {names} {flag} {share} {text}"


@app.task
def measure(file: Blob) -> int:
    return file.size


@app.task(tags=["mine"])
def refuse(text: str) -> None:
    raise Abort(text)


@app.task(queue="slow")
async def until(ctx: Context, path: str) -> str:
    """Runs until the file is there."""
    ctx.log("waiting")
    ctx.progress(0.5, "half way")
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "it is there"


@app.task(timeout=0.1, retry=1)
def hang() -> None:
    threading.Event().wait()
'''

OTHER = """
from nightcrew import Nightcrew

app = Nightcrew("sqlite:///other.db")
"""


class Shop:
    """A project's folder with an app in `shop.py`, and a terminal in it."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self.url = url or f"sqlite:///{folder / 'nightcrew.db'}"
        (folder / "shop.py").write_text(SHOP)
        (folder / "other.py").write_text(OTHER)
        kept = {name: text for name, text in os.environ.items() if not name.startswith("NIGHTCREW_")}
        # The checkout is not on the path of every Python that runs these tests.
        self.environment = {**kept, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
        self.environment.pop("NO_COLOR", None)
        if url:
            self.environment["NIGHTCREW_URL"] = url

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``nightcrew …``."""
        settings: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
        }
        environment = {**self.environment, **options.pop("env", {})}
        command = [sys.executable, "-m", "nightcrew", *args]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, encoding="utf-8", **{**settings, **options}
        )

    def run(self, *args: str, typed: str | None = None, env: dict[str, str] | None = None) -> Ended:
        """Run ``nightcrew …`` to its end."""
        process = self.start(*args, stdin=subprocess.PIPE, env=env or {})
        out, err = process.communicate(typed or "", PATIENCE)
        return Ended(process.returncode, out, err)

    def json(self, *args: str, code: int = 0) -> Any:
        """Run a command with --json, which prints nothing else on standard output."""
        ended = self.run(*args, "--json")
        assert ended.code == code, ended
        assert ended.out.isascii()
        return json.loads(ended.out)

    def enqueue(self, *args: str) -> str:
        """Ask for a job; its id is all that standard output holds."""
        ended = self.run("jobs", "enqueue", *args, "--app", "shop:app")
        assert ended.code == 0, ended
        assert re.fullmatch(r"[0-9a-f-]{36}\n", ended.out)
        return ended.out.strip()


@pytest.fixture
def typed_here(open_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ended]]:
    """Run a command in the project's folder without a process of its own: for many small questions."""
    monkeypatch.chdir(open_shop.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    url = open_shop.environment.get("NIGHTCREW_URL")
    without = dict.fromkeys([name for name in os.environ if name.startswith("NIGHTCREW_")])

    def run(*args: str) -> Ended:
        ended = CliRunner().invoke(main, args, env={**without, "NIGHTCREW_URL": url, "NIGHTCREW_APP": None})
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    yield run
    for module in ("shop", "other"):
        sys.modules.pop(module, None)


class Ended:
    """What a command has left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A project without a store yet."""
    return Shop(tmp_path)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def open_shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A project with a worker that runs as long as the tests of this file."""
    url = None
    if request.param == "postgres":
        schemas: Schemas = request.getfixturevalue("schemas")
        url = schemas.new_url()
    shop = Shop(tmp_path_factory.mktemp("shop"), url)
    with working(shop, "--embedded"):
        yield shop


@contextmanager
def working(shop: Shop, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A worker in the project's folder; it is gone when the block is left."""
    with (shop.folder / "worker.log").open("w") as log:
        worker = shop.start("worker", "shop:app", *options, stdout=log, stderr=log)
    try:
        wait_until(lambda: living(shop) or worker.poll() is not None, PATIENCE)
        assert worker.poll() is None, (shop.folder / "worker.log").read_text()
        yield worker
    finally:
        if worker.poll() is None:
            worker.terminate()
        worker.wait(PATIENCE)


def living(shop: Shop) -> int:
    """How many workers are alive."""
    if shop.url.startswith("sqlite:") and not (shop.folder / "nightcrew.db").exists():
        return 0  # and make none
    with Nightcrew(shop.url) as app:
        return sum(worker.alive for worker in app.workers())


def is_stopping(shop: Shop) -> bool:
    """Whether a worker has begun to stop."""
    with Nightcrew(shop.url) as app:
        return any(worker.status.state == "stopping" for worker in app.workers())


def is_state(shop: Shop, job_id: str, state: JobState) -> bool:
    """Whether a job is in a state."""
    with Nightcrew(shop.url) as app:
        return app.get(job_id).state is state


# --- asking and waiting -----------------------------------------------------------------------------


def test_a_job_is_asked_for_and_waited_for(open_shop: Shop) -> None:
    job_id = open_shop.enqueue("shop.add", "a=2", "b=3")

    ended = open_shop.run("jobs", "wait", job_id, "--timeout", "30s")

    assert (ended.code, ended.out) == (0, "5\n")


def test_asking_and_waiting_in_one(open_shop: Shop) -> None:
    ended = open_shop.run(
        "jobs", "enqueue", "add", "--args", "-", "--wait", "--app", "shop:app", typed='{"a": 1}'
    )

    assert (ended.code, ended.out) == (0, "2\n")
    assert "enqueued: shop.add on queue default" in ended.err


def test_arguments_are_what_the_function_expects(open_shop: Shop) -> None:
    typed = [
        "when=2031-05-01T09:00:00+02:00",
        f"key={UNKNOWN}",
        'names=["a", "b"]',
        "flag=true",
        "share:=0.5",
        "text=3",
    ]

    ended = open_shop.run("jobs", "enqueue", "show", *typed, "--wait", "--app", "shop:app")

    assert json.loads(ended.out) == f"2031-05-01 09h {UNKNOWN} ['a', 'b'] True 0.5 3"


def test_a_file_is_an_argument(open_shop: Shop) -> None:
    (open_shop.folder / "deck.pptx").write_bytes(b"x" * 1234)

    ended = open_shop.run("jobs", "enqueue", "measure", "file=@deck.pptx", "--wait", "--app", "shop:app")

    assert ended.out == "1234\n"


def test_progress_is_told_while_waiting_and_ctrl_c_ends_only_the_waiting(
    open_shop: Shop, tmp_path: Path
) -> None:
    job_id = open_shop.enqueue("until", f"path={tmp_path / 'go'}")
    waiting = open_shop.start("jobs", "wait", job_id)
    assert waiting.stderr is not None

    line = waiting.stderr.readline()
    while line and "half way" not in line:
        line = waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=PATIENCE)

    assert line == "running, 50%, half way\n"
    assert (waiting.returncode, out) == (130, ""), err
    assert f"nightcrew jobs wait {job_id}" in err
    late = open_shop.run("jobs", "wait", job_id, "--timeout", "0.1")
    assert late.code == 5
    assert "still running" in late.err
    (tmp_path / "go").touch()
    assert open_shop.run("jobs", "wait", job_id).out == '"it is there"\n'
    shown = open_shop.json("jobs", "show", job_id)
    assert shown["result"] == "it is there"
    assert [line["text"] for line in shown["log"]] == ["waiting"]


def test_the_same_id_makes_one_job(open_shop: Shop) -> None:
    arguments = (
        "jobs",
        "enqueue",
        "add",
        "a=1",
        "--id",
        "0199f3c2-7d1e-7abc-8def-00000000000a",
        "--app",
        "shop:app",
    )

    assert open_shop.json(*arguments)["created"] is True
    assert open_shop.json(*arguments)["created"] is False


# --- looking, retrying, cancelling ------------------------------------------------------------------


def test_a_failed_job_says_why_and_can_be_retried(open_shop: Shop) -> None:
    job_id = open_shop.enqueue("refuse", "text=no such customer")

    ended = open_shop.run("jobs", "wait", job_id)
    assert ended.code == 1
    assert "no such customer" in ended.err

    shown = open_shop.run("jobs", "show", job_id)
    assert "no such customer" in shown.out
    assert "Attempts that did not succeed" in shown.out
    detail = open_shop.json("jobs", "show", job_id)
    assert detail["state"] == "failed"
    assert detail["args"] == {"text": "no such customer"}
    assert detail["history"][0]["error"]["message"] == "no such customer"

    again = open_shop.json("jobs", "retry", job_id)
    assert again["jobs"] == [{"id": job_id, "change": "done", "state": None}]
    assert open_shop.json("jobs", "wait", job_id, code=1)["state"] == "failed"


def test_jobs_found_by_filters_are_counted_before_they_are_changed(
    open_shop: Shop, typed_here: Callable[..., Ended]
) -> None:
    enqueue = (
        "jobs",
        "enqueue",
        "refuse",
        "text=x",
        "--tag",
        "batch",
        "--wait",
        "--json",
        "--app",
        "shop:app",
    )
    ids = {json.loads(typed_here(*enqueue).out)["id"] for _ in range(3)}

    asked = open_shop.run("jobs", "retry", "--state", "failed", "--tag", "batch")
    assert asked.code == 2
    assert "3 jobs" in asked.err
    assert "--yes" in asked.err
    done = open_shop.json("jobs", "retry", "--tag", "batch", "--yes")
    assert {job["id"] for job in done["jobs"]} == ids
    assert done["counts"] == {"done": 3}
    none = open_shop.run("jobs", "retry", "--tag", "nothing like it")
    assert (none.code, none.out) == (0, "")


def test_waiting_and_running_jobs_are_cancelled(open_shop: Shop, tmp_path: Path) -> None:
    later = open_shop.enqueue("add", "a=1", "--run-after", "1h")
    running = open_shop.enqueue("until", f"path={tmp_path / 'never'}")
    wait_until(lambda: is_state(open_shop, running, JobState.RUNNING), PATIENCE)

    ended = open_shop.json("jobs", "cancel", later, running)

    assert [job["change"] for job in ended["jobs"]] == ["done", "requested"]
    waited = open_shop.run("jobs", "wait", running)
    assert waited.code == 1
    assert "was cancelled" in waited.err
    again = open_shop.run("jobs", "cancel", later)
    assert again.code == 0
    assert "cancelled already" in again.out
    assert open_shop.run("jobs", "retry", later).code == 0
    assert open_shop.run("jobs", "wait", later).out == "2\n"


def test_a_listing_is_one_page_and_says_how_to_go_on(
    open_shop: Shop, typed_here: Callable[..., Ended]
) -> None:
    enqueue = ("jobs", "enqueue", "add", "a=1", "--tag", "paged", "--app", "shop:app")
    ids = [typed_here(*enqueue).out.strip() for _ in range(3)]

    first = open_shop.json("jobs", "list", "--tag", "paged", "--limit", "2")
    second = open_shop.json("jobs", "list", "--tag", "paged", "--limit", "2", "--after", first["next"])

    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]
    assert second["next"] is None
    told = open_shop.run("jobs", "list", "--tag", "paged", "--limit", "2")
    assert f"nightcrew jobs list --tag paged --limit 2 --after {first['next']}" in told.err
    assert ids[2] in told.out
    assert ids[0] not in told.out


def test_what_no_worker_knows_is_reported(open_shop: Shop) -> None:
    with Nightcrew(open_shop.url) as app:

        @app.task(name="ghost", queue="haunted")
        def ghost() -> None: ...

        job = ghost.enqueue()

    [entry] = [entry for entry in open_shop.json("queues")["queues"] if entry["queue"] == "haunted"]
    assert (entry["task"], entry["ready"], entry["problem"]) == ("ghost", 1, "no worker knows this task")
    assert "no worker knows this task" in open_shop.run("queues").out
    waited = open_shop.run("jobs", "wait", job.id, "--timeout", "6")
    assert waited.code == 5
    assert "no worker knows this task" in waited.err
    assert open_shop.run("jobs", "cancel", job.id).code == 0


def test_living_workers_are_listed(open_shop: Shop) -> None:
    [worker] = open_shop.json("workers")["workers"]

    assert worker["alive"]
    assert worker["queues"] == ["*"]
    assert "shop.add" in worker["tasks"]
    assert str(worker["pid"]) in open_shop.run("workers").out


def test_what_is_long_is_shortened_for_people_only(open_shop: Shop, typed_here: Callable[..., Ended]) -> None:
    long = {"text": "\n".join(f"line {number}" for number in range(20_000))}
    args = ("jobs", "enqueue", "refuse", "--args", json.dumps(long), "--run-after", "1h", "--app", "shop:app")
    job_id = typed_here(*args).out.strip()

    assert len(typed_here("jobs", "show", job_id).out) < 2_000
    assert "line 19999" in typed_here("jobs", "show", job_id, "--full").out
    assert json.loads(typed_here("jobs", "show", job_id, "--json").out)["args"] == long


# --- what a job carries cannot harm -----------------------------------------------------------------


@pytest.fixture(scope="module")
def evil(open_shop: Shop) -> str:
    """The id of a failed job whose arguments, tags and error hold what steers a terminal."""
    args = json.dumps({"text": EVIL})
    settings = ("--tag", EVIL, "--correlation-id", EVIL)
    ended = open_shop.run("jobs", "enqueue", "refuse", "--args", args, *settings, "--app", "shop:app")
    assert open_shop.run("jobs", "wait", ended.out.strip()).code == 1
    return ended.out.strip()


def harmless(text: str) -> bool:
    """Whether nothing but letters and line ends is left, the colours of our own aside."""
    return all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    "args",
    [
        ["jobs", "list"],
        ["jobs", "show", "ID"],
        ["jobs", "show", "ID", "--full"],
        ["jobs", "wait", "ID"],
        ["jobs", "retry", "ID"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("as_json", [False, True], ids=["", "json"])
def test_nothing_of_a_job_reaches_the_terminal_raw(
    typed_here: Callable[..., Ended], evil: str, args: list[str], as_json: bool
) -> None:
    ended = typed_here(*[evil if arg == "ID" else arg for arg in args], *(["--json"] if as_json else []))

    assert ended.code in (0, 1), ended
    assert harmless(ended.out), repr(ended.out)
    assert harmless(ended.err), repr(ended.err)
    if args[1] == "show":
        assert "\\x1b[31mred" in ended.out or as_json
        assert "[bold]bold[/bold]" in ended.out
        assert not as_json or json.loads(ended.out)["args"] == {"text": EVIL}


class Terminal:
    """A command on a pseudo terminal: it believes that a person watches."""

    def __init__(self, shop: Shop, args: Sequence[str], typed: str, env: dict[str, str]) -> None:
        master, slave = pty.openpty()
        process = shop.start(
            *args, stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm-256color", **env}
        )
        os.close(slave)
        os.write(master, typed.encode())
        shown = b""
        while chunk := read_terminal(master):
            shown += chunk
        os.close(master)
        self.code = process.wait(PATIENCE)
        self.text = shown.decode()


def read_terminal(master: int) -> bytes:
    """What was shown since; nothing once nobody is left to show anything."""
    try:
        return os.read(master, 65_536)
    except OSError:  # Linux says so when the last writer is gone
        return b""


def test_on_a_terminal_there_are_colours_of_our_own_only(open_shop: Shop, evil: str) -> None:
    args = ["jobs", "show", evil]
    shown = Terminal(open_shop, args, "", {}).text
    assert "\x1b[31mfailed\x1b[0m" in shown
    assert harmless(re.sub(r"\x1b\[\d+m", "", shown).replace("\r", ""))
    plain = Terminal(open_shop, args, "", {"NO_COLOR": "1"}).text
    assert harmless(plain.replace("\r", ""))

    listed = Terminal(open_shop, ["jobs", "list", "--state", "failed"], "", {}).text
    assert evil in listed
    assert harmless(re.sub(r"\x1b\[\d+m", "", listed).replace("\r", ""))


def test_on_a_terminal_one_is_asked_and_may_say_no(open_shop: Shop, evil: str) -> None:
    shown = Terminal(open_shop, ["jobs", "retry", "--tag", EVIL], "n\n", {})
    assert "1 job" in shown.text
    assert "Nothing was changed." in shown.text
    assert shown.code == 0
    interrupted = Terminal(open_shop, ["jobs", "retry", "--tag", EVIL], "\x04", {})
    assert interrupted.code == 130


def test_on_a_terminal_progress_is_a_moving_bar(open_shop: Shop, tmp_path: Path) -> None:
    job_id = open_shop.enqueue("until", f"path={tmp_path / 'go'}")
    master, slave = pty.openpty()
    waiting = open_shop.start("jobs", "wait", job_id, stderr=slave, env={"TERM": "xterm-256color"})
    os.close(slave)
    shown = b""
    while b"half way" not in shown:
        shown += os.read(master, 65_536)
    (tmp_path / "go").touch()
    while chunk := read_terminal(master):
        shown += chunk
    os.close(master)
    out, _ = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out) == (0, '"it is there"\n')
    assert "━" in shown.decode()


def test_on_a_narrow_terminal_nothing_is_cut_off(open_shop: Shop, evil: str) -> None:
    shown = Terminal(open_shop, ["jobs", "list", "--state", "failed"], "", {"COLUMNS": "70"}).text

    assert evil in shown
    assert "task shop.refuse, queue default" in shown


def test_the_log_of_a_worker_is_harmless_too(open_shop: Shop, evil: str) -> None:
    assert harmless((open_shop.folder / "worker.log").read_text())


# --- exit codes and errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--version"], 0, ""),
        (["dance"], 2, "No such command 'dance'"),
        (["jobs", "list", "--state", "lost"], 2, "'lost' is not one of"),
        (["jobs", "list", "--after", "x"], 2, "expected `after`"),
        (["jobs", "list", "--url", "redis://x"], 2, "there is no engine for 'redis' URLs"),
        (["jobs", "list", "--app", "nowhere:app"], 2, "there is no module 'nowhere'"),
        (["jobs", "show", UNKNOWN], 4, f"no job {UNKNOWN}"),
        (["jobs", "show", UNKNOWN.upper().replace("-", "")], 4, f"no job {UNKNOWN}"),
        (["jobs", "show", "0199"], 2, "expected a whole job id"),
        (["jobs", "wait", UNKNOWN], 4, f"no job {UNKNOWN}"),
        (["jobs", "cancel", UNKNOWN], 4, ""),
        (["jobs", "retry", UNKNOWN], 4, ""),
        (["jobs", "retry"], 2, "got neither"),
        (["jobs", "retry", UNKNOWN, "--state", "failed"], 2, "got both"),
        (["jobs", "retry", "--state", "succeeded"], 2, "cannot be retried"),
        (["jobs", "enqueue", "add", "a=1"], 2, "no app was given"),
        (["jobs", "enqueue", "ad", "--app", "shop:app"], 2, "it has shop.add"),
        (["jobs", "enqueue", "add", "--app", "shop:app"], 2, "missing a required argument: 'a'"),
        (["jobs", "enqueue", "add", "a=x", "--app", "shop:app"], 2, "args.a: expected int"),
        (["jobs", "enqueue", "add", "a", "--app", "shop:app"], 2, "shop.add takes a, b"),
        (["jobs", "enqueue", "add", "a:=[", "--app", "shop:app"], 2, "expected a:= followed by JSON"),
        (["jobs", "enqueue", "add", "--args", "[1]", "--app", "shop:app"], 2, "got list"),
        (["jobs", "enqueue", "add", "a=1", "--timeout", "3", "--app", "shop:app"], 2, "--wait was not given"),
        (["jobs", "enqueue", "add", "a=1", "--run-after", "soon", "--app", "shop:app"], 2, "got 'soon'"),
        (
            ["jobs", "enqueue", "add", "a=1", "--run-after", "2031-05-01", "--app", "shop:app"],
            2,
            "time with its zone",
        ),
        (["jobs", "enqueue", "measure", "file=@gone", "--app", "shop:app"], 2, "got 'gone', which is none"),
        (
            ["jobs", "enqueue", "add", "a=1", "--app", "other:app", "--url", "sqlite:///x.db"],
            2,
            "as its code says",
        ),
        (["worker"], 2, "no app was given"),
        (["worker", "nowhere:app"], 2, "there is no module 'nowhere'"),
        (["worker", "shop:app", "--queues", "a b"], 2, "a queue name or pattern"),
        (["worker", "shop:app", "--lease", "soon"], 2, "--lease"),
        (["worker", "shop:app", "--embedded", "--processes", "2"], 2, "leave one of them away"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_advice_and_an_exit_code(
    open_shop: Shop, args: list[str], code: int, said: str
) -> None:
    ended = open_shop.run(*args)

    assert ended.code == code, ended
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_job_that_succeeded_cannot_be_retried(open_shop: Shop) -> None:
    job_id = open_shop.enqueue("add", "a=1")
    open_shop.run("jobs", "wait", job_id)

    ended = open_shop.run("jobs", "retry", job_id)

    assert ended.code == 6
    assert "is succeeded, so it cannot be retried" in ended.out


def test_the_beginning_of_an_id_is_not_guessed(open_shop: Shop) -> None:
    job_id = open_shop.enqueue("add", "a=1")

    ended = open_shop.run("jobs", "show", job_id[:30])

    assert ended.code == 2
    assert job_id in ended.err


def test_a_traceback_is_there_for_those_who_ask(open_shop: Shop) -> None:
    (open_shop.folder / "broken.py").write_text("import nightcrew\n1 / 0\n")

    ended = open_shop.run("worker", "broken:app", "--debug")

    assert ended.code == 2
    assert "broken.py" in ended.err
    assert "ZeroDivisionError" in ended.err


def test_the_sample_says_what_it_needs(
    typed_here: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "nightcrew.demo.server", raising=False)

    ended = typed_here("demo")

    assert ended.code == 2
    assert "pip install 'nightcrew[demo]'" in ended.err


def test_commands_about_jobs_load_no_web_server(open_shop: Shop) -> None:
    code = (
        "import sys\nfrom nightcrew.cli.main import main\n"
        "try: main(['jobs', 'list', '--json'])\n"
        "except SystemExit: print(sorted(sys.modules), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=open_shop.folder,
        env=open_shop.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in re.findall(r"'([^']+)'", ended.stderr)}
    assert ("psycopg" if open_shop.url.startswith("postgresql:") else "apsw") in loaded
    assert not loaded & {"uvicorn", "starlette", "jinja2", "PIL", "uvloop", "rich"}


def test_whoever_reads_the_output_may_go_away(open_shop: Shop) -> None:
    nobody_reads, output = os.pipe()
    os.close(nobody_reads)
    listing = open_shop.start("jobs", "list", "--json", stdout=output)
    os.close(output)
    assert listing.stderr is not None

    assert listing.wait(PATIENCE) == 141
    assert listing.stderr.read() == ""
    listing.stderr.close()


def test_looking_makes_no_store_and_migrating_does(shop: Shop) -> None:
    for command in (["jobs", "list"], ["queues"], ["workers"], ["jobs", "cancel", UNKNOWN]):
        ended = shop.run(*command)
        assert ended.code == 3
        assert "nightcrew migrate" in ended.err
    assert not (shop.folder / "nightcrew.db").exists()

    assert shop.json("migrate")["created"] is True
    assert shop.json("migrate") == {"url": shop.url, "created": False, "steps": []}
    assert shop.json("jobs", "list") == {"jobs": [], "next": None}


def test_a_file_that_is_no_store_is_refused(shop: Shop) -> None:
    (shop.folder / "nightcrew.db").write_text("not a database " * 100)

    ended = shop.run("jobs", "list")

    assert ended.code == 3
    assert "Traceback" not in ended.err


def test_the_environment_names_store_and_app(shop: Shop) -> None:
    env = {"NIGHTCREW_URL": f"sqlite:///{shop.folder / 'elsewhere.db'}", "NIGHTCREW_APP": "shop:app"}

    assert shop.run("jobs", "enqueue", "add", "a=1", env=env).code == 0

    assert len(json.loads(shop.run("jobs", "list", "--json", env=env).out)["jobs"]) == 1
    before = shop.run("--url", "sqlite:///elsewhere.db", "jobs", "list", "--json")
    assert len(json.loads(before.out)["jobs"]) == 1


# --- workers ----------------------------------------------------------------------------------------


def test_sigterm_lets_running_jobs_end_and_exits_with_0(shop: Shop, tmp_path: Path) -> None:
    with working(shop, "--processes", "2", "--queues", "slow,none.*") as worker:
        assert living(shop) >= 1
        job_id = shop.enqueue("until", f"path={tmp_path / 'go'}")
        other = shop.enqueue("add", "a=1")
        wait_until(lambda: is_state(shop, job_id, JobState.RUNNING), PATIENCE)

        worker.terminate()
        wait_until(lambda: is_stopping(shop), PATIENCE)
        (tmp_path / "go").touch()

        assert worker.wait(PATIENCE) == 0
    assert is_state(shop, job_id, JobState.SUCCEEDED)
    assert is_state(shop, other, JobState.READY), "its queue was not among --queues"
    log = (shop.folder / "worker.log").read_text()
    assert "queues   slow, none.*" in log
    assert "shop.add" in log
    assert shop.url in log


@pytest.mark.parametrize("options", [["--embedded"], []], ids=["embedded", "supervised"])
def test_a_second_signal_gives_running_jobs_back(shop: Shop, tmp_path: Path, options: list[str]) -> None:
    with working(shop, *options) as worker:
        job_id = shop.enqueue("until", f"path={tmp_path / 'never'}")
        wait_until(lambda: is_state(shop, job_id, JobState.RUNNING), PATIENCE)
        worker.send_signal(signal.SIGINT)
        wait_until(lambda: is_stopping(shop), PATIENCE)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
    with Nightcrew(shop.url) as app:
        job = app.get(job_id)
        assert (job.state, job.record.attempts) == (JobState.READY, 0)
        assert app.cancel(job_id) == [Changed.DONE]


def test_a_thread_that_hangs_does_not_keep_a_worker_from_stopping(shop: Shop) -> None:
    with working(shop, "--embedded", "--threads", "1", "--grace", "1") as worker:
        job_id = shop.enqueue("hang")
        wait_until(lambda: is_state(shop, job_id, JobState.FAILED), PATIENCE)
        worker.terminate()

        assert worker.wait(PATIENCE) == 0

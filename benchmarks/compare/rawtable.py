"""The one table of the raw limit, as in the study of limits: a row a job, which stays when it is finished.

No fences, retries, leases, history of attempts, wake-ups, or second process.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

COLUMNS = "queue, task, payload, priority, run_at, state, attempt"
TABLE = """
CREATE TABLE job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue text NOT NULL, task text NOT NULL, payload text NOT NULL,
    priority integer NOT NULL, run_at timestamptz NOT NULL DEFAULT now(), state smallint NOT NULL,
    attempt integer NOT NULL, result text
);
CREATE INDEX job_ready ON job (queue, priority DESC, run_at, id) WHERE state = 0
"""
PLAN = ("SET enable_hashjoin = off", "SET enable_mergejoin = off", "SET enable_seqscan = off")
"""Nested loops: at larger batches the planner else turns to a scan."""

CLAIM = """
WITH picked AS (
    SELECT id FROM job WHERE state = 0 AND queue = 'default'
    ORDER BY priority DESC, run_at, id LIMIT {} FOR UPDATE SKIP LOCKED
)
UPDATE job SET state = 1, attempt = attempt + 1 FROM picked WHERE job.id = picked.id RETURNING job.id, job.payload
"""
FINISH = """
UPDATE job SET state = 2, result = ended.result
FROM unnest({}::bigint[], {}::text[]) AS ended(id, result) WHERE job.id = ended.id AND state = 1
"""
LEFT = "SELECT count(*) FROM job WHERE state <> 2"


class Arguments(Struct):
    """What every job carries."""

    number: int


_decoder = msgspec.json.Decoder(Arguments)


def encode(value: object) -> str:
    """Encode arguments or a result."""
    return msgspec.json.encode(value).decode()


def decode(payload: str) -> Arguments:
    """Decode arguments."""
    return _decoder.decode(payload)


async def noop(number: int) -> int | None:  # noqa: ARG001 - as every task's, it has an argument
    """Do nothing."""
    return None

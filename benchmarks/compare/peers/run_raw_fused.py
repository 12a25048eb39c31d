"""The raw limit in psycopg with one commit a batch: it finishes the last and claims the next together."""

from __future__ import annotations

from benchmarks.compare.peers import run_raw_psycopg


class Peer(run_raw_psycopg.Peer):
    """As the other bare loop, with half the commits."""

    fused = True

"""The parts of a machine that some tests need: a browser, LibreOffice, PostgreSQL, PgBouncer.

A test whose part is missing is left out with the reason, and listed at the end of the run; where
`REQUIRE=browser,office,pgbouncer,postgres` names the part (as CI does), it fails instead.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from tests.servers import postgres, sharing

ROOT = Path(__file__).resolve().parent.parent

MISSING = "part missing: "
"""How the reason of a left out test begins."""

ADVICE = {
    "browser": "./run test --yes installs one where there is apt; or install Chromium, Chrome or Edge",
    "office": "./run demo --yes installs LibreOffice where there is apt",
    "pgbouncer": "./run test --yes installs it where there is apt; or install PgBouncer",
    "postgres": postgres.ADVICE,
}


@cache
def run_file() -> ModuleType:
    """Load `run` as a module: it knows where browsers and LibreOffice are looked for."""
    loader = importlib.machinery.SourceFileLoader("nightcrew_run", str(ROOT / "run"))
    spec = importlib.util.spec_from_loader("nightcrew_run", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def need(part: str) -> str:
    """Return the program of a part, or a server's address; leave the test out, or fail it, when there is none."""
    run = run_file()
    problem = ""
    match part:
        case "browser":
            found = run.find_browser() if run.driver_starts() else None
        case "office":
            found = run.find_office()
        case "pgbouncer":
            found = run.find_pgbouncer()
        case "postgres":
            try:
                return sharing.shared_url()
            except postgres.ServerError as error:
                found, problem = None, f" ({error})"
        case _:
            raise AssertionError(f"there is no part `{part}`")
    if found:
        return str(found)
    if part in run.required():
        why = f"{part} is missing{problem}, and REQUIRE={os.environ['REQUIRE']} names it: {ADVICE[part]}"
        pytest.fail(why, pytrace=False)
    pytest.skip(f"{MISSING}{part}")


def need_postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs, for tests that must have a server of their own."""
    found = sharing.chosen_programs() or postgres.find_programs()
    if found:
        return found
    if "postgres" in run_file().required():
        pytest.fail(f"there are no programs of PostgreSQL here: {postgres.ADVICE}", pytrace=False)
    pytest.skip(f"{MISSING}postgres")

"""The parts of a machine that some tests need: a browser, LibreOffice.

A test whose part is missing is left out with the reason, and listed at the end of the run; where
`REQUIRE=browser,office` names the part (as CI does), it fails instead.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent

MISSING = "part missing: "
"""How the reason of a left out test begins."""

ADVICE = {
    "browser": "./run test --yes installs one where there is apt; or install Chromium, Chrome or Edge",
    "office": "./run demo --yes installs LibreOffice where there is apt",
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
    """Return the program of a part; leave the test out, or fail it, when there is none."""
    run = run_file()
    found: str | None = {"browser": run.find_browser, "office": run.find_office}[part]()
    if found and (part != "browser" or run.driver_starts()):
        return found
    if part in run.required():
        pytest.fail(
            f"{part} is missing, and REQUIRE={os.environ['REQUIRE']} names it: {ADVICE[part]}", pytrace=False
        )
    pytest.skip(f"{MISSING}{part}")

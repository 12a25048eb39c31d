"""What an import costs, and who may import whom."""

from __future__ import annotations

import json
import subprocess
import sys

import grimp
import pytest

SHOW_MODULES = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

HEAVY = {
    # web
    *("starlette", "uvicorn", "jinja2", "multipart", "python_multipart", "httpx2", "h11", "http", "anyio"),
    # stores
    *("apsw", "sqlite3", "psycopg", "asyncpg", "boto3", "aiobotocore", "azure"),
    # traces
    "opentelemetry",
    # those whose connections are recognised
    *("sqlalchemy", "django"),
    # terminals and pictures
    *("click", "rich", "PIL"),
    # child processes are started by workers only
    "multiprocessing",
}


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh Python has loaded after running `code`."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SHOW_MODULES}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import nightcrew",
        "import nightcrew\nfor name in nightcrew.__all__: getattr(nightcrew, name)",
        "import nightcrew\napp = nightcrew.Nightcrew('sqlite:///never-opened.db')\n@app.task\ndef work() -> None: ...",
        (
            "import nightcrew\napp = nightcrew.Nightcrew('sqlite:///never-opened.db')\n@app.task\ndef work() -> None: ...\n"
            "try: work.using(connection=object())\nexcept nightcrew.ConfigurationError: pass"
        ),
    ],
    ids=["import", "every public name", "declaring a task", "a connection of the caller's"],
)
def test_importing_loads_no_web_or_database_library(code: str) -> None:
    assert sorted(loaded_after(code) & HEAVY) == []


def test_help_of_the_command_line_loads_no_web_server_and_no_store() -> None:
    shown = loaded_after(
        "import sys\nfrom nightcrew.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    )
    assert sorted(shown & {"starlette", "uvicorn", "jinja2", "apsw", "sqlite3", "PIL"}) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports for types count too: a cycle is a sign of two modules that are one idea, or of one misplaced."""
    graph = grimp.build_graph("nightcrew", include_external_packages=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    in_a_cycle = {module for module in imports if module in reachable_from(imports, module)}
    assert sorted(in_a_cycle) == []


def reachable_from(imports: dict[str, set[str]], start: str) -> set[str]:
    """Return every module that `start` imports, itself or through others."""
    seen: set[str] = set()
    todo = list(imports[start])
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(imports[module])
    return seen

"""Under which name another process can import what was declared here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def main_name() -> str:
    """What the program's own module is called: that of ``-m``, or the stem of its file."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name.removesuffix(".__main__"))
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "main"


def importable_main() -> str | None:
    """The name under which another process can import the program's own module, if it can."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if not file:
        return None
    try:
        found = importlib.util.find_spec(Path(file).stem)
    except (ImportError, ValueError):
        return None
    same = found is not None and found.origin and Path(found.origin).resolve() == Path(file).resolve()
    return Path(file).stem if same else None


def leads_to(thing: object, module: str, path: str) -> bool:
    """Whether a module that is loaded keeps `thing` under this name."""
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found is thing

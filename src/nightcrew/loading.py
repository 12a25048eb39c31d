"""From ``module:app`` to the app: how a worker process finds the code of its jobs."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from nightcrew.app import Nightcrew
from nightcrew.errors import ConfigurationError

_EXPECTED = "write module:app, such as shop.jobs:app for `app = Nightcrew()` in shop/jobs.py"


def load_app(spec: str) -> Nightcrew:
    """Import the app that ``module:app`` names; ``module`` alone will do where there is only one.

    The current directory is searched first, as `python -m` does. Raises `ConfigurationError` where
    there is no such module, no such name in it, or where its own code fails (kept as the cause).
    """
    module_name, colon, path = spec.partition(":")
    if not module_name or (colon and not path) or module_name.startswith("."):
        raise ConfigurationError(f"expected an app, got {spec!r}; {_EXPECTED}")
    if module_name.endswith(".py") or os.sep in module_name:
        raise ConfigurationError(f"expected the name of a module, got the file {module_name!r}; {_EXPECTED}")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    module = _import(module_name)
    if path:
        return _named(module, path, spec)
    apps = _apps_in(module)
    if len(apps) != 1:
        found = f"it has {', '.join(apps)}: say which" if apps else "it has none"
        raise ConfigurationError(f"expected one app in module {module_name}, but {found}; {_EXPECTED}")
    return _named(module, apps[0], spec)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"there is no module {error.name!r} in {os.getcwd()} or on the Python path; "
                f"start in the project's folder, and {_EXPECTED}"
            ) from error
        raise _failed(name, error) from error
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"module {name} failed while it was imported: {type(error).__name__}: {error}; "
        f'see where with `python -c "import {name}"`'
    )


def _named(module: ModuleType, path: str, spec: str) -> Nightcrew:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            apps = _apps_in(module)
            there = f"it has the apps {', '.join(apps)}" if apps else "it has no app either"
            raise ConfigurationError(
                f"module {module.__name__} has no {path!r}, asked for by {spec!r}; {there}"
            ) from None
    if not isinstance(found, Nightcrew):
        raise ConfigurationError(
            f"expected {spec} to be an app made by `Nightcrew(...)`, got a {type(found).__name__}"
        )
    return found


def _apps_in(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Nightcrew)]

"""An environment for each contestant, in `.cache`: made once, from pinned requirements, with uv or with pip."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.compare.contestants import Contestant
from benchmarks.place import ROOT

FOLDER = ROOT / ".cache" / "compare"
LOCKS = Path(__file__).resolve().parent / "requirements"


class Missing(Exception):
    """A contestant cannot take part here; the text says why."""


def interpreter(contestant: Contestant) -> Path:
    """Return the Python of a contestant's environment, which is made when it is not there. Raises `Missing`."""
    if not contestant.requirements:
        return Path(sys.executable)
    # Contestants with the same requirements share an environment: the raw limits do.
    name = "raw" if contestant.raw else contestant.name
    return environment(name, contestant.python)


def environment(name: str, oldest: tuple[int, int] = (3, 11)) -> Path:
    """Return the Python of an environment; make it when it is not as its lock says. Raises `Missing`."""
    lock = LOCKS / f"{name}.txt"
    python = find_python(oldest)
    stamp = hashlib.sha256(lock.read_bytes() + str(python).encode()).hexdigest()
    folder = FOLDER / name
    made = folder / "bin" / "python"
    mark = folder / "made-from"
    if made.exists() and mark.exists() and mark.read_text() == stamp:
        return made
    print(f"  making an environment for {name} ({python})", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    uv = find_uv()
    if uv:
        _run([uv, "venv", "--quiet", "--python", str(python), str(folder)])
        _run(
            [uv, "pip", "install", "--quiet", "--python", str(made), "--require-hashes", "-r", str(lock)],
        )
    else:
        _run([str(python), "-m", "venv", str(folder)])
        _run([str(made), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)])
    mark.write_text(stamp)
    return made


def lock(name: str, requirements: tuple[str, ...], oldest: tuple[int, int], *, upgrade: bool) -> None:
    """Write the pinned requirements of an environment. Raises `Missing` without uv."""
    uv = find_uv()
    if not uv:
        raise Missing("uv is not here, and it writes the locks: ./run lock fetches it")
    LOCKS.mkdir(exist_ok=True)
    _run(
        [
            *(uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--python-version", ".".join(map(str, oldest)), *(["--upgrade"] if upgrade else [])),
            *("--output-file", str(LOCKS / f"{name}.txt"), "-"),
        ],
        "\n".join(requirements),
    )


def versions(name: str) -> str:
    """Return the version of the first package that an environment was made for, as its lock says."""
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        package, found, rest = line.partition("==")
        if found and package.replace("-", "_") == name:
            return rest.split()[0]
    return ""


def python_of(name: str) -> str:
    """Return the version of an environment's Python, as it was made."""
    for line in (FOLDER / name / "pyvenv.cfg").read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() in ("version", "version_info"):
            return value.strip()
    return ""


def find_python(oldest: tuple[int, int]) -> Path:
    """Return this Python, or the newest other that is at hand, when this is too old. Raises `Missing`."""
    if sys.version_info[:2] >= oldest:
        return Path(sys.executable).resolve()
    names = [f"python3.{minor}" for minor in range(14, oldest[1] - 1, -1)]
    found = [Path(path) for name in names if (path := shutil.which(name))]
    # pyenv's commands start only what its user has chosen, so its versions are looked up themselves.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += [path for name in names for path in sorted(pyenv.glob(f"*/bin/{name}"))]
    for python in found:
        test = f"import sys; sys.exit(sys.version_info < {oldest})"
        if subprocess.run([str(python), "-c", test], capture_output=True, check=False).returncode == 0:
            return python
    raise Missing(f"needs Python {'.'.join(map(str, oldest))} or newer, and none is on PATH or in pyenv")


def find_uv() -> str | None:
    """Return uv from PATH, or where `./run` puts it."""
    return shutil.which("uv") or shutil.which(str(ROOT / ".cache" / "boot" / "bin" / "uv"))


def _run(argv: list[str], given: str | None = None) -> None:
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    ended = subprocess.run(argv, input=given, capture_output=True, text=True, env=env, check=False)
    if ended.returncode:
        raise Missing(f"`{' '.join(argv)}` failed:\n{ended.stderr[-2000:]}")

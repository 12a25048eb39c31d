"""How much there is to read: limits that make drift visible."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import nightcrew
from tests.parts import ROOT

SOURCE = ROOT / "src" / "nightcrew"

MODULE_LINES = 500
LONG_MODULE_LINES = 750
LONG_MODULES = ("engines/", "testing/conformance")
"""An engine, and the suite that every engine must pass, are read as one."""
FUNCTION_LINES = 60
PUBLIC_METHODS = 26
PUBLIC_NAMES = 40


def modules() -> Iterator[tuple[str, str]]:
    """Yield every module of the package: its path below it, and its text."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), path.read_text()


def test_a_module_can_be_read_in_one_sitting() -> None:
    too_long = []
    for name, text in modules():
        limit = LONG_MODULE_LINES if name.startswith(LONG_MODULES) else MODULE_LINES
        lines = len(text.splitlines())
        if lines > limit:
            too_long.append(f"{name}: {lines} lines, at most {limit}")
    assert not too_long, "\n".join(too_long)


def test_a_function_fits_on_a_screen() -> None:
    too_long = []
    for name, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # What is said of it does not count: a long explanation is no long function.
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - documentation(node)
                if lines > FUNCTION_LINES:
                    too_long.append(
                        f"{name}:{node.lineno} {node.name}: {lines} lines, at most {FUNCTION_LINES}"
                    )
    assert not too_long, "\n".join(too_long)


def documentation(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines a function's docstring takes."""
    first = node.body[0]
    if ast.get_docstring(node) is None or not isinstance(first, ast.Expr):
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name, text in modules() if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert not silent, "\n".join(silent)


def test_every_public_name_and_method_says_what_it_does() -> None:
    silent = []
    for name in nightcrew.__all__:
        value = getattr(nightcrew, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or not ours(value):
            continue
        if not value.__doc__:
            silent.append(name)
        for method, member in vars(value).items():
            known = isinstance(member, property) or inspect.isfunction(member)
            if known and not method.startswith("_") and not member.__doc__:
                silent.append(f"{name}.{method}")
    assert not silent, "\n".join(silent)


def ours(value: object) -> bool:
    """Tell whether something was made in this package."""
    return str(getattr(value, "__module__", "")).startswith("nightcrew")


def test_the_public_face_stays_small() -> None:
    assert len(nightcrew.__all__) <= PUBLIC_NAMES
    # `enqueue` and `aenqueue` are one verb, said on two kinds of ground.
    names = {name for name in dir(nightcrew.Nightcrew) if not name.startswith("_")}
    verbs = {name for name in names if not (name.startswith("a") and name[1:] in names)}
    assert len(verbs) <= PUBLIC_METHODS, sorted(verbs)

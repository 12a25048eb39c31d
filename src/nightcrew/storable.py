"""What can be stored as JSON: which types, which values, and what the way there would change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, get_args

import msgspec
import msgspec.inspect
from msgspec import UNSET, Struct

from nightcrew.errors import ConfigurationError

MAX_DEPTH = 200
"""Deeper values than this are refused."""

ADVICE = (
    "use JSON values, datetimes, UUIDs, Decimals, enums, paths, Blob, dataclasses, msgspec Structs, "
    "TypedDicts or pydantic models"
)


def to_json_value(value: Any) -> Any:
    """Turn what msgspec does not know into what it does: paths and pydantic models."""
    if isinstance(value, PurePath):
        return str(value)
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    raise TypeError(f"a value of type {type_name(type(value))} cannot be stored as JSON; {ADVICE}")


def from_json_value(kind: Any, value: Any) -> Any:
    """Make a path or a pydantic model of a decoded value."""
    if isinstance(kind, type):
        validate = getattr(kind, "model_validate", None)
        if validate is not None:
            return validate(value)
        if issubclass(kind, PurePath) and isinstance(value, str):
            return kind(value)
    raise TypeError(f"expected {type_name(kind)}, got {type(value).__name__}")


def find_blobs(value: Any) -> tuple[str, ...]:
    """The ids of every Blob inside a value, each once."""
    return tuple(dict.fromkeys(_walk_blobs(value, MAX_DEPTH)))


def inspect_type(kind: Any, what: str) -> bool:
    """Refuse what cannot be stored; answer whether there may be a Blob inside."""
    try:
        info = msgspec.inspect.type_info(kind)
        msgspec.json.Decoder(kind, dec_hook=from_json_value)
    except TypeError as error:
        raise ConfigurationError(f"{what} is annotated {type_name(kind)}: {error}; {ADVICE}") from error
    blobs = False
    for node in _nodes(info, set()):
        cls = getattr(node, "cls", None)
        if isinstance(node, msgspec.inspect.CustomType):
            if not isinstance(cls, type) or not (issubclass(cls, PurePath) or hasattr(cls, "model_validate")):
                raise ConfigurationError(
                    f"{what} is annotated {type_name(kind)}, and {type_name(cls)} cannot be stored; {ADVICE}"
                )
            blobs |= not issubclass(cls, PurePath)  # what a pydantic model holds is not looked into
        blobs |= getattr(cls, "__nightcrew_blob__", False) is True
    return blobs


def _nodes(node: Any, seen: set[Any]) -> Iterator[Any]:
    """Every type within a type, each class once."""
    cls = getattr(node, "cls", None)
    if cls is not None:
        if cls in seen:
            return
        seen.add(cls)
    yield node
    for name in node.__struct_fields__:
        value = getattr(node, name)
        for child in value if isinstance(value, tuple) else (value,):
            if isinstance(child, msgspec.inspect.Field):
                yield from _nodes(child.type, seen)
            elif isinstance(child, msgspec.inspect.Type):
                yield from _nodes(child, seen)


def type_name(kind: Any) -> str:
    """What a type is called in an error."""
    if isinstance(kind, type) and not get_args(kind):
        return (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
    return str(kind)


# what a value became


class Problem(Struct, frozen=True):
    """What the way through JSON would change."""

    text: str
    lossy: bool
    """Something is lost whatever the annotation says."""


def equal(left: Any, right: Any) -> bool:
    """Whether two values are the same, as far as they can tell."""
    try:
        return bool(left == right)
    except Exception:  # the __eq__ of a user's class: then look closer
        return False


def difference(before: Any, after: Any, path: str, depth: int) -> Problem | None:
    """What the way through JSON would silently change, if anything.

    A conversion by annotation (text to a datetime, a tuple to a list) is no change: the task gets what
    it asks for. Changed is a number that JSON has no word for, and a rich value that comes back as a
    plain one because no annotation says what it is.
    """
    if isinstance(before, float) and (before != before or before in (float("inf"), float("-inf"))):
        return Problem(f"{path} is {before}, which JSON cannot hold; pass None or text instead", lossy=True)
    if isinstance(before, PurePath) and isinstance(after, str):
        return None
    if depth == 0:
        return Problem(f"{path} is too deep; pass a flatter value", lossy=True)
    if isinstance(before, Mapping):
        return _mapping_difference(before, after, path, depth)
    if isinstance(before, (list, tuple, set, frozenset)) and isinstance(after, (list, tuple, set, frozenset)):
        if isinstance(after, (set, frozenset)):
            return None
        if isinstance(before, (set, frozenset)):
            return Problem(f"{path} is a set and would come back as a list; annotate it", lossy=False)
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            if problem := difference(one, other, f"{path}[{number}]", depth - 1):
                return problem
        return None
    fields = getattr(before, "__struct_fields__", None) or getattr(before, "__dataclass_fields__", None)
    if fields and type(before) is type(after):
        for name in fields:
            one, other = getattr(before, name, UNSET), getattr(after, name, UNSET)
            if problem := difference(one, other, f"{path}.{name}", depth - 1):
                return problem
        return None
    plain = after is None or type(after) in (str, int, float, bool, list, dict)
    if plain and before is not UNSET and type(before) not in (str, int, float, bool, type(None)):
        if equal(before, after):
            return None
        return Problem(
            f"{path} is a {type_name(type(before))} and would come back as {type_name(type(after))}; "
            "annotate it, so that it comes back as it was",
            lossy=False,
        )
    return None


def _mapping_difference(before: Mapping[Any, Any], after: Any, path: str, depth: int) -> Problem | None:
    if not isinstance(after, Mapping):
        return None
    for key, value in before.items():
        if key not in after:
            if isinstance(key, str):
                continue
            return Problem(
                f"{path} has the key {short(key)}, which would come back as text; annotate it, such as "
                f"dict[{type(key).__name__}, ...], or use text keys",
                lossy=False,
            )
        if problem := difference(value, after[key], f"{path}[{short(key)}]", depth - 1):
            return problem
    return None


def _walk_blobs(value: Any, depth: int) -> Iterator[str]:
    if value is None or isinstance(value, (str, bytes, int, float)) or depth == 0:
        return
    if getattr(type(value), "__nightcrew_blob__", False) is True:
        yield value.id
        return
    children: Any
    if isinstance(value, Mapping):
        children = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = value
    else:
        names = getattr(type(value), "__struct_fields__", None) or getattr(
            type(value), "__dataclass_fields__", None
        )
        if names is None:
            names = getattr(type(value), "model_fields", None) or ()
        children = (getattr(value, name, None) for name in names)
    for child in children:
        yield from _walk_blobs(child, depth - 1)


def short(value: Any) -> str:
    """A value for an error message: on one line, and never long."""
    try:
        text = repr(value)
    except Exception:  # the __repr__ of a user's class
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."

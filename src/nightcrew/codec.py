"""Arguments and results as JSON, converted and checked by a function's own annotations.

One `Signature` per task function: compiled once, on first use, to a msgspec struct with one field per
parameter, so that the hot path runs in C. Nothing is ever pickled, and no type is imported by name
from stored data: what comes out is decided by the annotations of the function here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Raw

from nightcrew.errors import ArgumentsError, ConfigurationError
from nightcrew.storable import (
    ADVICE,
    MAX_DEPTH,
    difference,
    find_blobs,
    from_json_value,
    inspect_type,
    short,
    to_json_value,
)

CODEC = 1
"""Version of the stored form; kept with every job."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


_encode = msgspec.json.Encoder(enc_hook=to_json_value).encode
_decode_any = msgspec.json.Decoder().decode
_astuple = msgspec.structs.astuple


def encode_value(value: Any, what: str = "value") -> bytes:
    """Encode any storable value as JSON; `what` names it in the `ArgumentsError`."""
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise ArgumentsError(f"{what} cannot be stored: {error}; {ADVICE}") from error


def decode_value(data: bytes | Raw, kind: Any = Any, what: str = "value") -> Any:
    """Decode JSON as `kind`; raises `ArgumentsError` when it does not fit."""
    if kind is Any:
        return _decode_any(data)
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=from_json_value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArgumentsError(f"{_placed(str(error), what)}; it was stored as something else") from error


class Signature:
    """How one function's arguments and result are stored.

    `may_hold_blobs` and `result_may_hold_blobs` say whether looking for Blobs is worth it.
    """

    __slots__ = (
        "_decode",
        "_decode_result",
        "_function",
        "_names",
        "_none_result",
        "_odd",
        "_optional",
        "_positional",
        "_starred",
        "_struct",
        "_task",
        "_variadic",
        "context_parameter",
        "may_hold_blobs",
        "parameters",
        "result_may_hold_blobs",
    )

    context_parameter: str | None
    """The parameter that is given the running job's context; never among the arguments."""
    parameters: Mapping[str, Any]
    """The annotation of every other parameter."""

    def __init__(self, function: Callable[..., Any], task: str = "") -> None:
        self._function = function
        self._task = task or getattr(function, "__qualname__", repr(function))
        hints = self._hints()
        self._compile_arguments(_parameters(function, self._task), hints)
        self._compile_result(hints)

    @classmethod
    def of(cls, function: Callable[..., Any], task: str = "") -> Signature:
        """Compile a function's signature; `task` names it in errors.

        Raises `ConfigurationError` when an annotation cannot be resolved or stored.
        """
        return cls(function, task)

    # the four verbs

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] = _EMPTY) -> bytes:
        """Bind, encode and check the arguments of one call.

        Returns one JSON object by parameter name; what was not passed is left to its default.
        Raises `ArgumentsError`.
        """
        if not args and not kwargs and not self._names:
            return b"{}"
        try:
            bound = self._bind(args, kwargs) if self._odd else self._struct(*args, **kwargs)
        except TypeError as error:
            raise self._misfit(args, kwargs, error) from None
        try:
            data = _encode(bound)
        except (TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
            raise self._unstorable(bound, error) from error
        try:
            checked = self._decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._wrong(bound, error) from None
        try:
            same = checked == bound
        except Exception:  # the __eq__ of a user's class: then look closer
            same = False
        if not same:
            self._check_conversion(bound, checked)
        return data

    def decode(self, data: bytes | Raw) -> tuple[Sequence[Any], dict[str, Any]]:
        """Decode stored arguments as ``(args, kwargs)`` to call the function with.

        The context parameter is left out; pass it by its name. Raises `ArgumentsError`.
        """
        try:
            struct = self._decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ArgumentsError(
                f"the stored arguments do not fit task {self._task} (any more): "
                f"{_placed(str(error), 'args')}; change the function so that it still takes what "
                "was enqueued, then retry the job"
            ) from error
        if self._odd:
            return self._unbind(struct)
        values = _astuple(struct)
        if self._optional:
            # Mostly it is the last ones that were not passed.
            while values and values[-1] is UNSET:
                values = values[:-1]
            for value in values:
                if value is UNSET:
                    return self._unbind(struct)
        direct = self._positional
        if len(values) <= direct:
            return values, {}
        return values[:direct], dict(zip(self._names[direct:], values[direct:], strict=False))

    def encode_result(self, value: Any) -> bytes | None:
        """Encode what the function returned, checked against its return annotation.

        None for a plain None. Raises `ArgumentsError` when it cannot be stored.
        """
        if value is None and self._none_result:
            return None
        try:
            data = _encode(value)
            checked = self._decode_result(data)
        except (TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
            raise ArgumentsError(
                f"the result of task {self._task} cannot be stored: {_placed(str(error), 'result')} "
                f"({short(value)}); return what its annotation says, or correct the annotation"
            ) from error
        try:
            same = checked == value
        except Exception:  # the __eq__ of a user's class: then look closer
            same = False
        if not same:
            problem = difference(value, checked, "result", MAX_DEPTH)
            if problem and problem.lossy:
                raise ArgumentsError(f"the result of task {self._task} cannot be stored: {problem.text}")
        return b'{"$value":' + data + b"}" if data.startswith(b'{"$') else data

    def decode_result(self, data: bytes | Raw | None) -> Any:
        """Decode a stored result by the return annotation. Raises `ArgumentsError`."""
        if data is None:
            return None
        content = unescape_result(bytes(data))
        try:
            return self._decode_result(content)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ArgumentsError(
                f"the stored result does not fit the return annotation of task {self._task} (any "
                f"more): {_placed(str(error), 'result')}; correct the annotation"
            ) from error

    def find_blobs(self, value: Any) -> tuple[str, ...]:
        """The ids of the Blobs in a result; free where its type can hold none."""
        return find_blobs(value) if self.result_may_hold_blobs else ()

    # compiling

    def _hints(self) -> dict[str, Any]:
        target = self._function
        if not inspect.isroutine(target) and not isinstance(target, type):
            target = getattr(target, "func", None) or type(target).__call__
        try:
            return get_type_hints(target, include_extras=True)
        except NameError as error:
            raise ConfigurationError(
                f"task {self._task}: its annotations name {error.name!r}, which cannot be found; import "
                "it at the top of the module that defines the task (not only under TYPE_CHECKING)"
            ) from error
        except Exception as error:
            raise ConfigurationError(
                f"task {self._task}: its annotations cannot be resolved: {error}; correct them"
            ) from error

    def _compile_arguments(self, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> None:
        self.context_parameter = None
        positional: list[tuple[Any, ...]] = []
        keyword: list[tuple[Any, ...]] = []
        types: dict[str, Any] = {}
        self._odd = False
        self._starred: str | None = None
        self._variadic: str | None = None
        self._optional = False
        direct = 0
        for parameter in parameters:
            kind = hints.get(parameter.name, Any)
            if _is_context(kind):
                self._accept_context(parameter)
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._odd, self._starred, kind = True, parameter.name, list[kind]  # type: ignore[valid-type]
                self._refuse_context_before(parameter)
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._odd, self._variadic, kind = True, parameter.name, dict[str, kind]  # type: ignore[valid-type]
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                self._odd = True
            types[parameter.name] = kind
            optional = parameter.default is not parameter.empty or parameter.kind in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
            self._optional |= optional
            # UNSET stands for "not passed": never stored, so that the function's own default counts.
            entry = (parameter.name, kind, UNSET) if optional else (parameter.name, kind)
            (positional if parameter.kind in _POSITIONAL else keyword).append(entry)
            # After the context come keywords only: it is passed by its name.
            if parameter.kind in _POSITIONAL and self.context_parameter is None:
                direct += 1
        self.parameters = MappingProxyType(types)
        self._positional = direct
        self.may_hold_blobs = self._check_types(types)
        self._struct = _struct(positional, keyword)
        self._names = self._struct.__struct_fields__
        self._decode = msgspec.json.Decoder(self._struct, dec_hook=from_json_value).decode

    def _accept_context(self, parameter: inspect.Parameter) -> None:
        if self.context_parameter is not None:
            raise ConfigurationError(
                f"task {self._task}: both `{self.context_parameter}` and `{parameter.name}` are annotated "
                "Context; keep one"
            )
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigurationError(
                f"task {self._task}: `{parameter.name}` is annotated Context and {parameter.kind.description}; "
                "make it an ordinary or a keyword-only parameter"
            )
        self.context_parameter = parameter.name

    def _refuse_context_before(self, parameter: inspect.Parameter) -> None:
        if self.context_parameter is not None:
            raise ConfigurationError(
                f"task {self._task}: the Context comes before `*{parameter.name}`, where it cannot be "
                "passed by name; put it behind, as a keyword"
            )

    def _check_types(self, types: Mapping[str, Any]) -> bool:
        blobs = False
        for name, kind in types.items():
            blobs |= inspect_type(kind, f"task {self._task}: parameter `{name}`")
        return blobs

    def _compile_result(self, hints: dict[str, Any]) -> None:
        kind = hints.get("return", Any)
        if get_origin(kind) in (Awaitable, Coroutine):
            kind = get_args(kind)[-1]
        blobs = inspect_type(kind, f"task {self._task}: its result")
        self.result_may_hold_blobs = blobs or kind is Any
        self._decode_result = msgspec.json.Decoder(kind, dec_hook=from_json_value).decode
        try:
            self._decode_result(b"null")
            self._none_result = True
        except msgspec.ValidationError:
            self._none_result = False

    # calls that a struct cannot bind by itself: *args, **kwargs and positional-only parameters

    def _call_signature(self) -> inspect.Signature:
        own = inspect.signature(self._function)
        return own.replace(
            parameters=[p for p in own.parameters.values() if p.name != self.context_parameter]
        )

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self.context_parameter in kwargs:
            raise TypeError(f"got an unexpected keyword argument {self.context_parameter!r}")
        return self._struct(**self._call_signature().bind(*args, **kwargs).arguments)

    def _unbind(self, struct: Any) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = False
        for number, name in enumerate(self._names):
            value = getattr(struct, name)
            if value is UNSET:
                by_name = True
            elif name == self._starred:
                # Every positional parameter before it was passed, or it would hold nothing.
                args.extend(value)
            elif name == self._variadic:
                kwargs.update(value)
            elif number < self._positional and not by_name:
                args.append(value)
            else:
                kwargs[name] = value
        return args, kwargs

    # errors

    def _misfit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: TypeError) -> ArgumentsError:
        if self.context_parameter in kwargs:
            return ArgumentsError(
                f"task {self._task}: `{self.context_parameter}` was passed, but Nightcrew gives the Context "
                "to the running job; leave it out"
            )
        try:
            self._call_signature().bind(*args, **kwargs)
            reason = str(error)
        except TypeError as clearer:
            reason = str(clearer)
        hints = self._hints()
        own = self._call_signature()
        shown = own.replace(
            parameters=[p.replace(annotation=hints.get(p.name, p.empty)) for p in own.parameters.values()],
            return_annotation=own.empty,
        )
        return ArgumentsError(f"task {self._task}: {reason}; it takes {shown}")

    def _unstorable(self, bound: Any, error: Exception) -> ArgumentsError:
        name = ""
        for field in self._names:
            try:
                _encode(getattr(bound, field))
            except (TypeError, ValueError, OverflowError, RecursionError, AttributeError) as found:
                name, error = f".{field}", found
                break
        reason = "it contains itself, or is too deep" if isinstance(error, RecursionError) else str(error)
        return ArgumentsError(f"task {self._task}: args{name} cannot be stored: {reason}")

    def _wrong(self, bound: Any, error: Exception) -> ArgumentsError:
        text = _placed(str(error), "args")
        field = text.partition(":")[0].removeprefix("args.").partition(".")[0].partition("[")[0]
        value = f" ({short(getattr(bound, field))})" if field in self._names else ""
        return ArgumentsError(
            f"task {self._task}: {text}{value}; pass what its annotation says, or correct the annotation"
        )

    def _check_conversion(self, bound: Any, checked: Any) -> None:
        for name in self._names:
            problem = difference(getattr(bound, name), getattr(checked, name), f"args.{name}", MAX_DEPTH)
            if problem:
                raise ArgumentsError(f"task {self._task}: {problem.text}")


def unescape_result(data: bytes) -> bytes:
    """Take off what `encode_result` puts round a result whose own first key starts with ``$``."""
    return data[10:-1] if data.startswith(b'{"$value":') else data


# what an annotation may be


def _parameters(function: Callable[..., Any], task: str) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"task {task}: the parameters of {function!r} cannot be seen ({error}); wrap it in a function"
        ) from error


def _is_context(kind: Any) -> bool:
    options = get_args(kind) or (kind,)
    return any(getattr(option, "__nightcrew_context__", False) is True for option in options)


def _struct(positional: list[tuple[Any, ...]], keyword: list[tuple[Any, ...]]) -> Any:
    """A struct whose constructor binds just as the function does."""
    base = msgspec.defstruct("Arguments", positional, forbid_unknown_fields=True)
    if not keyword:
        return base
    return msgspec.defstruct("Arguments", keyword, bases=(base,), kw_only=True, forbid_unknown_fields=True)


def _placed(text: str, root: str) -> str:
    """Say msgspec's message with our path first: ``args.order.id: expected int, got str``."""
    reason, found, path = text.rpartition(" - at `$")
    place = f"{root}{path.rstrip('`')}" if found else root
    reason = (reason if found else text).replace("`", "")
    return f"{place}: {reason[:1].lower()}{reason[1:]}"

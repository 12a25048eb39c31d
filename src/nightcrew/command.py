"""A task that runs an external program: how it is declared, and what it answers. Never a shell."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

from msgspec import Struct

from nightcrew.errors import ArgumentsError, ConfigurationError


class CommandResult(Struct, frozen=True, omit_defaults=True):
    """What a program left behind."""

    exit_code: int
    output_tail: str = ""
    """The end of what it printed."""


class CommandSpec(Struct, frozen=True):
    """Which program runs, with which arguments; made by `Tasks.command`."""

    argv: tuple[str, ...]
    """Templates: ``{parameter}`` is replaced, within one argument."""
    parameters: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    """Added to the clean environment that programs are given."""
    network: bool = True

    def render(self, arguments: Mapping[str, Any]) -> list[str]:
        """The program and its arguments, each whole, whatever the values hold.

        Files are passed as the paths under which the caller has put them. Raises `ArgumentsError`
        for a text that would be taken for an option, or that holds a zero byte.
        """
        rendered = [self.argv[0]]
        plain = False
        for template in self.argv[1:]:
            text = "".join(
                literal + ("" if name is None else _text(name, arguments[name]))
                for literal, name, _, _ in Formatter().parse(template)
            )
            opens_with_value = template.startswith("{") and not template.startswith("{{")
            if opens_with_value and text.startswith("-") and not plain and not _is_number(text):
                raise ArgumentsError(
                    f"{self.argv[0]}: {template} became {text!r}, which the program would take for an "
                    'option; write the template as "--option={name}", or put "--" before it'
                )
            plain = plain or template == "--"
            rendered.append(text)
        return rendered


def command_spec(
    name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, network: bool = True
) -> CommandSpec:
    """Check and make the specification of a command. Raises `ConfigurationError`."""
    if isinstance(argv, str) or not argv or not all(isinstance(part, str) for part in argv):
        raise ConfigurationError(
            f'task {name}: expected `argv` as a list such as ["convert", "{{source}}"], got {argv!r}; '
            "there is no shell to split a line"
        )
    if "{" in argv[0] or "}" in argv[0] or not argv[0]:
        raise ConfigurationError(
            f"task {name}: expected the program itself to be fixed, got {argv[0]!r}; "
            "use parameters in its arguments only"
        )
    parameters: dict[str, None] = {}
    for template in argv[1:]:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ConfigurationError(
                f"task {name}: the argument {template!r} is no template ({error}); "
                "write {parameter}, and {{ or }} for a brace"
            ) from error
        for _, parameter, form, conversion in parts:
            if parameter is None:
                continue
            if not parameter.isidentifier() or form or conversion:
                raise ConfigurationError(
                    f"task {name}: expected a plain {{parameter}} in the argument {template!r}, "
                    f"got {parameter!r}"
                )
            parameters[parameter] = None
    return CommandSpec(tuple(argv), tuple(parameters), tuple((env or {}).items()), network)


def command_function(name: str, spec: CommandSpec, value_type: Any) -> Callable[..., Any]:
    """A function whose signature is that of the command; it is never called."""

    def command(**_: Any) -> CommandResult:
        raise ConfigurationError(
            f"task {name} is a program and cannot be called directly; enqueue it, or run "
            f"{spec.argv[0]} by hand"
        )

    command.__name__ = command.__qualname__ = name
    command.__annotations__ = dict.fromkeys(spec.parameters, value_type)
    command.__annotations__["return"] = CommandResult
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(p, inspect.Parameter.KEYWORD_ONLY) for p in spec.parameters]
    )
    return command


def _text(name: str, value: Any) -> str:
    text = str(value)
    if "\0" in text:
        raise ArgumentsError(f"args.{name} holds a zero byte, which no program can be given; remove it")
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

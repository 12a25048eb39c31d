"""`nightcrew keys`: the keys of sealed arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nightcrew.cli.failing import Code, Failure
from nightcrew.cli.options import Group, json_option
from nightcrew.cli.output import answer, note
from nightcrew.errors import ConfigurationError

if TYPE_CHECKING:
    from nightcrew.sealing import PrivateKey


@click.group(cls=Group)
def keys() -> None:
    """Make and look at the keys of sealed arguments."""


@keys.command()
@click.argument("file", metavar="FILE")
@json_option
def new(file: str, as_json: bool) -> None:
    """Make a key: the private one goes into FILE, the public one is printed.

    Give workers the file as NIGHTCREW_UNSEAL (or unseal=[...]), and whoever enqueues the public key as
    NIGHTCREW_SEAL (or seal=...). FILE is made for its owner alone, and never overwritten; - is standard output,
    for a vault, and then the public key is printed on standard error.

    \b
    Examples:
      nightcrew keys new worker.key
      export NIGHTCREW_SEAL=$(nightcrew keys new /etc/shop/worker.key)
    """
    with _needing_the_package():
        from nightcrew.sealing import PrivateKey
    key = PrivateKey.new()
    text = f"# Nightcrew: private key {key.id}. For workers only; its public key is {key.public}\n{key.reveal()}\n"
    if file == "-":
        click.echo(text, nl=False)
        note(str(key.public))
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    except FileExistsError:
        raise Failure(
            f"{file} is there already, and a key in it may be needed still; name another file", Code.REFUSED
        ) from None
    except OSError as error:
        raise Failure(f"{file} cannot be made: {error.strerror}", Code.USAGE) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.write(text)
    _say(key, as_json)


@keys.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Print the public keys of the private keys in FILE.

    \b
    Examples:
      nightcrew keys show /etc/shop/worker.key
    """
    with _needing_the_package():
        from nightcrew.sealing import private_keys
    for key in private_keys([file]):
        _say(key, as_json)


@contextmanager
def _needing_the_package() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"keys need the package cryptography, which is not installed ({error}); install `nightcrew[sealed]`"
        ) from error


def _say(key: PrivateKey, as_json: bool) -> None:
    if as_json:
        answer({"id": key.id, "public": str(key.public)})
    else:
        click.echo(str(key.public))

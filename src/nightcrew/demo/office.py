"""Presentation to PDF with LibreOffice: in a child process that can be killed, without network, files or macros.

Nothing that a presentation says is trusted: it is opened under a name of ours, by the one import filter that
its content calls for, in a profile and folder made for this run and removed after it. It can open nothing else:
a deck may well say that its picture is file:///home/you/secret.png, and LibreOffice would put that into the PDF.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO

from nightcrew.context import Context
from nightcrew.demo.confine import open_made, run_confined
from nightcrew.demo.sniff import Deck, NotThatKind
from nightcrew.demo.texts import say
from nightcrew.errors import NightcrewError
from nightcrew.program import CommandOutput, CommandTimedOut, Limits, describe_end

SECONDS = 150.0
"""How long one conversion may take."""
LIMITS = Limits(cpu=120, memory=4 << 30, file_size=512 << 20, open_files=512)
INSTALL = "install it (`libreoffice-impress` in most Linux distributions, or from libreoffice.org)"

_PLACES = (
    "/Applications/LibreOffice.app/Contents/MacOS/soffice",
    "/usr/lib/libreoffice/program/soffice",
    "/opt/libreoffice/program/soffice",
    r"C:\Program Files\LibreOffice\program\soffice.exe",
)
_SIGXCPU, _SIGXFSZ = 24, 25
_WHOLE = "pdf:impress_pdf_Export"
_FIRST_PAGE = _WHOLE + ':{"PageRange":{"type":"string","value":"1"}}'

# No macros, no Java, and no links to anything outside of the document. The last is kept for some kinds of links
# only (not in OpenDocument, not in an SVG), so it is not what keeps a deck from reading files: the cage is.
SETTINGS = {
    "/org.openoffice.Office.Common/Security/Scripting": {
        "MacroSecurityLevel": "3",
        "DisableMacrosExecution": "true",
        "BlockUntrustedRefererLinks": "true",
        "DisableActiveContent": "true",
    },
    "/org.openoffice.Office.Common/Misc": {"FirstRun": "false"},
    "/org.openoffice.Office.Java": {"Enable": "false"},
}


class OfficeMissing(NightcrewError):
    """LibreOffice is not installed here."""


class OfficeFailed(NightcrewError):
    """LibreOffice ended without a PDF, though nothing is known to be wrong with the presentation."""


def find_soffice() -> str | None:
    """The path of LibreOffice's program; None where it is not installed."""
    found = shutil.which("soffice") or shutil.which("libreoffice")
    return found or next((place for place in _PLACES if os.access(place, os.X_OK)), None)


async def convert_deck(
    source: Path, deck: Deck, folder: Path, ctx: Context | None = None, *, first_page: bool = False
) -> BinaryIO:
    """Convert the presentation `source` in `folder`, which is for this run only; return the PDF, to be read once.

    first_page: of that one only, which takes a fraction of the time where pages are full of pictures.

    Raises `NotThatKind` when LibreOffice cannot open it or it needs too much, `OfficeMissing`, `CannotConfine`, and
    `OfficeFailed` where another try may help.
    """
    soffice = find_soffice()
    if soffice is None:
        raise OfficeMissing(say("said.office-missing"))
    document, profile, output = _prepare(source, deck, folder, Path(soffice))
    command = [
        soffice,
        "--headless",
        "--norestore",
        "--nolockcheck",
        f"-env:UserInstallation={profile.as_uri()}",
        f"--infilter={deck.filter}",
        "--convert-to",
        _FIRST_PAGE if first_page else _WHOLE,
        "--outdir",
        str(output),
        str(document),
    ]
    result = await _run(command, folder, profile, ctx)
    if result.exit_code == 1 and not _has_tried(result):
        # It has set up its profile, started itself anew, and found its own socket in the way, which the cage did
        # not let it remove. The profile is set up now.
        result = await _run(command, folder, profile, ctx)
    return _collect(folder, result)


def _has_tried(result: CommandOutput) -> bool:
    """Whether it came as far as the document, and said so."""
    return "convert " in result.stdout or "Error" in result.stderr


async def _run(command: list[str], folder: Path, profile: Path, ctx: Context | None) -> CommandOutput:
    try:
        return await run_confined(
            command,
            folder,
            limits=LIMITS,
            seconds=SECONDS,
            env={"SAL_USE_VCLPLUGIN": "svp"},
            ctx=ctx,
        )
    except CommandTimedOut as error:
        raise NotThatKind(say("said.too-long", count=int(SECONDS))) from error
    finally:
        _socket(profile).unlink(missing_ok=True)


def _socket(profile: Path) -> Path:
    """The socket of the LibreOffice that runs on a profile: it stays when that one is killed."""
    digest = hashlib.md5(profile.as_uri().encode("utf-16-le"), usedforsecurity=False).digest()
    name = "".join(f"{byte:x}" for byte in digest)  # as LibreOffice writes it: without leading zeros
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(f"/tmp/OSL_PIPE_{user}_SingleOfficeIPC_{name}")  # noqa: S108


def _prepare(source: Path, deck: Deck, folder: Path, soffice: Path) -> tuple[Path, Path, Path]:
    """Give the document a name of ours, and the run a profile and folders of its own."""
    document = folder / f"input{deck.suffix}"
    source.rename(document)
    profile = folder / "profile"
    _write_profile(profile, soffice)
    return document, profile, folder / "output"


def _write_profile(profile: Path, soffice: Path) -> None:
    lines = [
        f'<item oor:path="{path}"><prop oor:name="{name}" oor:op="fuse"><value>{value}</value></prop></item>'
        for path, settings in SETTINGS.items()
        for name, value in settings.items()
    ]
    user = profile / "user"
    user.mkdir(parents=True)
    user.joinpath("registrymodifications.xcu").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<oor:items xmlns:oor="http://openoffice.org/2001/registry" '
        'xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        + "\n".join(lines)
        + "\n</oor:items>\n",
        "utf-8",
    )

    if build := _build_id(soffice):
        # With this, LibreOffice takes the profile for one of its own, and does not start anew after setting it up.
        (user / "extensions").mkdir()
        (user / "extensions" / "buildid").write_text(build, "utf-8")


def _build_id(soffice: Path) -> str | None:
    version = soffice.resolve().with_name("versionrc")
    if not version.is_file():
        return None
    found = re.search(r"(?mi)^buildid=(\S+)", version.read_text("utf-8", "replace"))
    return found[1] if found else None


def _collect(folder: Path, result: CommandOutput) -> BinaryIO:
    # LibreOffice exits with 0 also when it could not even load the file: only a whole PDF counts.
    if file := open_made(folder, "output", "input.pdf"):
        if _is_whole(file):
            return file
        file.close()
    said = f"{result.stdout}\n{result.stderr}"
    if re.search(r"source file could not be loaded", said):
        raise NotThatKind(say("said.unloadable"))
    if result.signal in (_SIGXCPU, _SIGXFSZ) or re.search(r"bad_alloc|out of memory", said, re.IGNORECASE):
        raise NotThatKind(say("said.too-much"))
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    end = describe_end(result.exit_code, result.signal)
    raise OfficeFailed(say("said.office-failed", end=end, detail=last[:300]))


def _is_whole(pdf: BinaryIO) -> bool:
    head = pdf.read(5)
    size = pdf.seek(0, os.SEEK_END)
    pdf.seek(max(0, size - 1024))
    whole = head == b"%PDF-" and b"%%EOF" in pdf.read()
    pdf.seek(0)
    return whole

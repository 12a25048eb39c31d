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
import sys
from pathlib import Path

from nightcrew.context import Context
from nightcrew.demo.cage import NO_CAGE
from nightcrew.demo.sniff import Deck, NotThatKind
from nightcrew.errors import NightcrewError
from nightcrew.program import CommandNotStarted, CommandOutput, CommandTimedOut, Limits, describe_end
from nightcrew.runners.command import run_command

SECONDS = 150.0
"""How long one conversion may take."""
LIMITS = Limits(cpu=120, memory=4 << 30, file_size=512 << 20, open_files=512)
ALLOW_NETWORK = "NIGHTCREW_DEMO_ALLOW_NETWORK"
ALLOW_FILES = "NIGHTCREW_DEMO_ALLOW_FILES"
INSTALL = "install it (`libreoffice-impress` in most Linux distributions, or from libreoffice.org)"

_PLACES = (
    "/Applications/LibreOffice.app/Contents/MacOS/soffice",
    "/usr/lib/libreoffice/program/soffice",
    "/opt/libreoffice/program/soffice",
    r"C:\Program Files\LibreOffice\program\soffice.exe",
)
_SIGXCPU, _SIGXFSZ = 24, 25

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
    """LibreOffice is not installed here, or cannot be run safely."""


class OfficeFailed(NightcrewError):
    """LibreOffice ended without a PDF, though nothing is known to be wrong with the presentation."""


def find_soffice() -> str | None:
    """The path of LibreOffice's program; None where it is not installed."""
    found = shutil.which("soffice") or shutil.which("libreoffice")
    return found or next((place for place in _PLACES if os.access(place, os.X_OK)), None)


async def convert_deck(source: Path, deck: Deck, folder: Path, ctx: Context | None = None) -> Path:
    """Convert the presentation `source` and return the PDF's path in `folder`, which is for this run only.

    Raises `NotThatKind` when LibreOffice cannot open it or it needs too much, `OfficeMissing`, and
    `OfficeFailed` where another try may help.
    """
    soffice = find_soffice()
    if soffice is None:
        raise OfficeMissing(
            f"LibreOffice is not installed here, so presentations cannot be converted; {INSTALL}"
        )
    document, profile, output = _prepare(source, deck, folder, Path(soffice))
    command = [
        *_caged(folder),
        soffice,
        "--headless",
        "--norestore",
        "--nolockcheck",
        f"-env:UserInstallation={profile.as_uri()}",
        f"--infilter={deck.filter}",
        "--convert-to",
        "pdf:impress_pdf_Export",
        "--outdir",
        str(output),
        str(document),
    ]
    result = await _run(command, folder, profile, ctx)
    if result.exit_code == 1 and not _has_tried(result):
        # It has set up its profile, started itself anew, and found its own socket in the way, which the cage did
        # not let it remove. The profile is set up now.
        result = await _run(command, folder, profile, ctx)
    return _check_output(output / "input.pdf", result)


def _has_tried(result: CommandOutput) -> bool:
    """Whether it came as far as the document, and said so."""
    return "convert " in result.stdout or "Error" in result.stderr


async def _run(command: list[str], folder: Path, profile: Path, ctx: Context | None) -> CommandOutput:
    try:
        result = await run_command(
            command,
            cwd=folder,
            env={
                "HOME": str(folder),
                "TMPDIR": str(folder / "tmp"),
                "LANG": "C.UTF-8",
                "SAL_USE_VCLPLUGIN": "svp",
            },
            timeout=SECONDS,
            ctx=ctx,
            network=os.environ.get(ALLOW_NETWORK) == "1",
            limits=LIMITS,
            check=False,
        )
    except CommandTimedOut as error:
        raise NotThatKind(
            f"its conversion took longer than {SECONDS:.0f} seconds, so it was ended"
        ) from error
    except CommandNotStarted as error:
        raise OfficeMissing(
            f"LibreOffice cannot be run here: {error}. To run it with access to the network, at your own risk, "
            f"set {ALLOW_NETWORK}=1"
        ) from error
    finally:
        _socket(profile).unlink(missing_ok=True)
    if result.exit_code == NO_CAGE:
        raise OfficeMissing(
            f"LibreOffice cannot be run here: {result.tail}. To let presentations read the files of this machine, "
            f"at your own risk, set {ALLOW_FILES}=1"
        )
    return result


def _caged(folder: Path) -> list[str]:
    if os.environ.get(ALLOW_FILES) == "1":
        return []
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("cage.py")), str(folder)]


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
    (folder / "tmp").mkdir()
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


def _check_output(path: Path, result: CommandOutput) -> Path:
    # LibreOffice exits with 0 also when it could not even load the file: only a whole PDF counts.
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(5)
            file.seek(max(0, path.stat().st_size - 1024))
            if head == b"%PDF-" and b"%%EOF" in file.read():
                return path
    said = f"{result.stdout}\n{result.stderr}"
    if re.search(r"source file could not be loaded", said):
        raise NotThatKind(
            "it is damaged, or says in its content to be what it is not: LibreOffice cannot load it"
        )
    if result.signal in (_SIGXCPU, _SIGXFSZ) or re.search(r"bad_alloc|out of memory", said, re.IGNORECASE):
        raise NotThatKind("its conversion needs more time, memory or space than is allowed here")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    raise OfficeFailed(
        f"LibreOffice {describe_end(result.exit_code, result.signal)} without a PDF; it said: {last[:300]}"
    )

"""What an uploaded file really is, by its content; its name is only a claim.

At the door the first bytes are enough to choose a task. Before a presentation is opened, its container is
looked at as a whole: what kind it is, how many slides it has, and whether it is a bomb.
"""

from __future__ import annotations

import codecs
import mmap
import re
import zipfile
import zlib
from enum import StrEnum
from pathlib import Path, PurePosixPath

from msgspec import Struct

from nightcrew.demo.texts import say

HEAD = 4096
"""Bytes of a file that `recognise` wants to see."""
MAX_ENTRIES = 20_000
MAX_UNPACKED = 1 << 30
"""Bytes a presentation may unpack to."""
MAX_RATIO = 200
"""Times a large entry may grow when unpacked; office XML stays well below."""
MAX_SLIDES = 1_000
_LARGE_ENTRY = 16 << 20
_MANIFEST_LIMIT = 1 << 20
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Kind(StrEnum):
    """What the sample can do something with."""

    PRESENTATION = "presentation"
    IMAGE = "image"
    OTHER = "other"


class Content(Struct, frozen=True):
    """What the bytes are; `what` completes the sentence "It is …"."""

    kind: Kind
    what: str


class Deck(Struct, frozen=True):
    """A presentation that may be opened."""

    suffix: str
    """What to call it inside the sandbox, such as ``.pptx``."""
    filter: str
    """The one LibreOffice import filter that may read it."""
    slides: int | None
    """None where only LibreOffice can tell."""


class NotThatKind(ValueError):
    """The file is not what it claims to be, or must not be opened; the message, of the catalogue, says why."""


_IMAGES = {
    b"\x89PNG\r\n\x1a\n": "what.png",
    b"\xff\xd8\xff": "what.jpeg",
    b"GIF87a": "what.gif",
    b"GIF89a": "what.gif",
}
_OTHERS = {
    b"%PDF-": "what.pdf",
    b"{\\rtf": "what.rtf",
    b"\x1f\x8b": "what.gzip",
    b"7z\xbc\xaf": "what.7zip",
    b"Rar!": "what.rar",
    b"MZ": "what.windows",
    b"\x7fELF": "what.linux",
}
_ODF = "application/vnd.oasis.opendocument."
_EXTENSIONS = {
    Kind.PRESENTATION: frozenset(".pptx .pptm .ppsx .ppsm .potx .potm .ppt .pps .pot .odp .otp".split()),
    Kind.IMAGE: frozenset(".png .jpg .jpeg .jpe .jfif .gif .webp".split()),
}
ACCEPTED = ",".join(sorted(suffix for group in _EXTENSIONS.values() for suffix in group))
"""For the `accept` attribute of the file field."""

_OOXML = "Impress MS PowerPoint 2007 XML"
_OOXML_MAIN = {
    b"presentationml.presentation.main+xml": (".pptx", _OOXML),
    b"presentationml.slideshow.main+xml": (".ppsx", "Impress MS PowerPoint 2007 XML AutoPlay"),
    b"presentationml.template.main+xml": (".potx", "Impress MS PowerPoint 2007 XML Template"),
    b"vnd.ms-powerpoint.presentation.macroenabled.main+xml": (".pptm", _OOXML),
    b"vnd.ms-powerpoint.slideshow.macroenabled.main+xml": (".ppsm", _OOXML),
    b"vnd.ms-powerpoint.template.macroenabled.main+xml": (".potm", _OOXML),
}
_OOXML_OTHER = {
    b"wordprocessingml": "what.word",
    b"ms-word": "what.word",
    b"spreadsheetml": "what.excel",
    b"ms-excel": "what.excel",
}
_ODF_OTHER = {
    "text": "what.odt",
    "spreadsheet": "what.ods",
    "graphics": "what.odg",
}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SLIDE = re.compile(r"ppt/slides/slide\d+\.xml")


def claimed(name: str) -> Kind:
    """Say what a file's name claims it to be."""
    suffix = PurePosixPath(name.lower()).suffix
    for kind, suffixes in _EXTENSIONS.items():
        if suffix in suffixes:
            return kind
    return Kind.OTHER


def recognise(head: bytes) -> Content:
    """Say what a file is from its first bytes (`HEAD` of them, fewer if it is shorter)."""
    for magic, what in _IMAGES.items():
        if head.startswith(magic):
            return Content(Kind.IMAGE, say(what))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Content(Kind.IMAGE, say("what.webp"))
    if head.startswith(_OLE):
        return Content(Kind.PRESENTATION, say("what.ole"))
    if head.startswith(b"PK\x03\x04"):
        return _recognise_zip(head)
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return Content(Kind.OTHER, say(what))
    if not head.strip(b"\0"):
        return Content(Kind.OTHER, say("what.zeros" if head else "what.empty"))
    return Content(Kind.OTHER, say("what.text" if _is_text(head) else "what.unknown"))


def _recognise_zip(head: bytes) -> Content:
    # A zip file's first entry: its name begins at byte 30, and OpenDocument stores its type right after.
    name_end = 30 + int.from_bytes(head[26:28], "little")
    first = head[30:name_end].decode("utf-8", "replace")
    if first == "mimetype":
        content = head[name_end + int.from_bytes(head[28:30], "little") :][:100].decode("ascii", "replace")
        if content.startswith(_ODF) and not content.startswith(_ODF + "presentation"):
            return Content(Kind.OTHER, _odf_other(content))
        if content.startswith(_ODF):
            return Content(Kind.PRESENTATION, say("what.odp"))
    if first.startswith(("[Content_Types].xml", "_rels/", "docProps/", "ppt/")):
        return Content(Kind.PRESENTATION, say("what.office"))
    return Content(Kind.OTHER, say("what.zip"))


def _odf_other(mimetype: str) -> str:
    for word, what in _ODF_OTHER.items():
        if mimetype.startswith(_ODF + word):
            return say(what)
    return say("what.odf")


def _is_text(head: bytes) -> bool:
    if any(byte < 0x20 and byte not in b"\t\n\f\r\x1b" for byte in head):
        return False
    try:
        # Not final: the last character may have been cut in the middle.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def inspect_deck(path: Path) -> Deck:
    """Look at a presentation's container before anything opens it.

    Raises `NotThatKind` for other content, and for a container that is damaged, encrypted or a bomb.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(_OLE):
        return _inspect_ole(path)
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return _inspect_zip(archive)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError, zlib.error) as error:
            if isinstance(error, NotThatKind):
                raise
            raise NotThatKind(say("said.container")) from error
    raise _it_is(recognise(head).what)


def _it_is(what: str) -> NotThatKind:
    return NotThatKind(say("said.it-is", what=what))


def _inspect_zip(archive: zipfile.ZipFile) -> Deck:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise NotThatKind(say("said.many-parts", count=len(entries), most=MAX_ENTRIES))
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise NotThatKind(say("said.encrypted"))
    if any(entry.compress_type not in _PACKED for entry in entries):
        # No office program writes others, and their decoders take what memory the file says.
        raise NotThatKind(say("said.container"))
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_UNPACKED or any(_is_bomb(entry) for entry in entries):
        raise NotThatKind(say("said.bomb", size=unpacked))
    names = {entry.filename for entry in entries}
    if "[Content_Types].xml" in names:
        deck = _ooxml(_beginning(archive, "[Content_Types].xml").lower(), names)
    elif "mimetype" in names:
        deck = _odf(_beginning(archive, "mimetype").decode("ascii", "replace").strip(), archive)
    else:
        raise _it_is(say("what.zip"))
    if deck.slides is not None and deck.slides > MAX_SLIDES:
        raise NotThatKind(say("said.many-slides", count=deck.slides, most=MAX_SLIDES))
    return deck


def _is_bomb(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size > _LARGE_ENTRY and entry.file_size > MAX_RATIO * max(entry.compress_size, 1)


def _beginning(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as part:
        return part.read(_MANIFEST_LIMIT)


def _count(archive: zipfile.ZipFile, name: str, needle: bytes) -> int | None:
    """How often `needle` occurs in a part, without holding the part in memory; None without that part."""
    if name not in archive.namelist():
        return None
    found, tail = 0, b""
    with archive.open(name) as part:
        while chunk := part.read(1 << 16):
            window = tail + chunk
            found += window.count(needle)
            # Shorter than the needle, so that nothing is counted twice.
            tail = window[1 - len(needle) :]
    return found


def _ooxml(manifest: bytes, names: set[str]) -> Deck:
    for marker, (suffix, import_filter) in _OOXML_MAIN.items():
        if marker in manifest:
            return Deck(suffix, import_filter, sum(1 for name in names if _SLIDE.fullmatch(name)))
    for marker, what in _OOXML_OTHER.items():
        if marker in manifest:
            raise _it_is(say(what))
    raise _it_is(say("what.package"))


def _odf(mimetype: str, archive: zipfile.ZipFile) -> Deck:
    for ending, suffix, import_filter in (
        ("presentation", ".odp", "impress8"),
        ("presentation-template", ".otp", "impress8_template"),
    ):
        if mimetype == _ODF + ending:
            return Deck(suffix, import_filter, _count(archive, "content.xml", b"<draw:page "))
    if mimetype.startswith(_ODF):
        raise _it_is(_odf_other(mimetype))
    raise _it_is(say("what.zip"))


def _inspect_ole(path: Path) -> Deck:
    # Streams are named in UTF-16. Finding the name anywhere is enough here: the import filter is fixed, so
    # a file made to fool this search is refused by LibreOffice instead.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find("EncryptedPackage".encode("utf-16-le")) >= 0:
            raise NotThatKind(say("said.encrypted"))
        if data.find("PowerPoint Document".encode("utf-16-le")) >= 0:
            return Deck(".ppt", "MS PowerPoint 97", None)
        if data.find("WordDocument".encode("utf-16-le")) >= 0:
            raise _it_is(say("what.word"))
        if data.find("Workbook".encode("utf-16-le")) >= 0:
            raise _it_is(say("what.excel"))
    raise _it_is(say("what.ole-empty"))

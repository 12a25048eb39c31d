"""What the sample takes an uploaded file for, and what it refuses to open."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest

from nightcrew.demo import sniff
from nightcrew.demo.sniff import Kind, NotThatKind, claimed, inspect_deck, recognise

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
PPTX_MANIFEST = (
    '<Types><Override PartName="/ppt/presentation.xml" ContentType="application/vnd.openxmlformats-'
    'officedocument.presentationml.presentation.main+xml"/></Types>'
)


def archive(**parts: bytes | str) -> bytes:
    """A ZIP file; in names, `__` stands for a slash and `_dot_` for a full stop."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


def package(manifest: str, **parts: bytes | str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("[Content_Types].xml", manifest)
        for name, content in parts.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


def odf(kind: str, pages: int = 2) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        file.writestr("content.xml", "<draw:page draw:name='a'>" * pages + " " * 70_000)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("deck.pptx", Kind.PRESENTATION),
        ("DECK.PPTX", Kind.PRESENTATION),
        ("old.ppt", Kind.PRESENTATION),
        ("open.odp", Kind.PRESENTATION),
        ("photo.jpeg", Kind.IMAGE),
        ("photo.png.txt", Kind.OTHER),
        ("pptx", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_a_name_is_a_claim(name: str, kind: Kind) -> None:
    assert claimed(name) is kind


@pytest.mark.parametrize(
    ("head", "kind", "what"),
    [
        (b"\x89PNG\r\n\x1a\n....", Kind.IMAGE, "a PNG image"),
        (b"\xff\xd8\xff\xe0....", Kind.IMAGE, "a JPEG image"),
        (b"GIF89a....", Kind.IMAGE, "a GIF image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", Kind.IMAGE, "a WebP image"),
        (b"RIFF\x10\0\0\0WAVEfmt ", Kind.OTHER, "data of a kind not known here"),
        (OLE, Kind.PRESENTATION, "an Office file of the old binary kind"),
        (package(PPTX_MANIFEST), Kind.PRESENTATION, "an Office file"),
        (odf("presentation"), Kind.PRESENTATION, "an OpenDocument presentation"),
        (odf("spreadsheet"), Kind.OTHER, "an OpenDocument spreadsheet"),
        (archive(notes_dot_txt="hello"), Kind.OTHER, "a ZIP archive"),
        (b"%PDF-1.7\n", Kind.OTHER, "a PDF document already"),
        (b"hello, world", Kind.OTHER, "text"),
        ("Grüße, 夜班".encode()[:-1], Kind.OTHER, "text"),
        (b"\0\0\0\0", Kind.OTHER, "nothing but zero bytes"),
        (b"\x01\x02\xfe\xff", Kind.OTHER, "data of a kind not known here"),
        (b"", Kind.OTHER, "empty"),
        (b"PK\x03\x04", Kind.OTHER, "a ZIP archive"),
    ],
)
def test_content_is_recognised(head: bytes, kind: Kind, what: str) -> None:
    assert recognise(head) == sniff.Content(kind, what)


def inspect(tmp_path: Path, content: bytes) -> sniff.Deck:
    path = tmp_path / "uploaded"
    path.write_bytes(content)
    return inspect_deck(path)


@pytest.mark.parametrize(
    ("content", "suffix", "slides"),
    [
        (package(PPTX_MANIFEST, ppt__slides__slide1_dot_xml="", ppt__slides__slide12_dot_xml=""), ".pptx", 2),
        (package(PPTX_MANIFEST.replace("presentation.main", "slideshow.main")), ".ppsx", 0),
        (
            package('ContentType="application/vnd.ms-powerpoint.presentation.macroEnabled.main+xml"'),
            ".pptm",
            0,
        ),
        (odf("presentation", pages=3), ".odp", 3),
        (OLE + "PowerPoint Document".encode("utf-16-le"), ".ppt", None),
    ],
)
def test_presentations_are_told_apart_by_content(
    tmp_path: Path, content: bytes, suffix: str, slides: int | None
) -> None:
    deck = inspect(tmp_path, content)
    assert (deck.suffix, deck.slides) == (suffix, slides)
    assert deck.filter


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"just text", "it is text"),
        (b"\x89PNG\r\n\x1a\n....", "it is a PNG image"),
        (package('ContentType="…wordprocessingml.document.main+xml"'), "it is a Word document"),
        (package('ContentType="…spreadsheetml.sheet.main+xml"'), "it is an Excel workbook"),
        (package("<Types/>"), "without a presentation"),
        (odf("text"), "it is an OpenDocument text"),
        (archive(a_dot_txt="hello"), "it is a ZIP archive"),
        (package(PPTX_MANIFEST)[:-30], "it is damaged"),
        (OLE + "WordDocument".encode("utf-16-le"), "it is a Word document"),
        (OLE + "EncryptedPackage".encode("utf-16-le"), "protected by a password"),
        (OLE, "without a presentation"),
    ],
)
def test_what_is_no_presentation_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(NotThatKind, match=why):
        inspect(tmp_path, content)


def test_a_bomb_is_not_opened(tmp_path: Path) -> None:
    content = package(PPTX_MANIFEST, ppt__media__image1_dot_bin=bytes(sniff.MAX_RATIO << 18))
    assert len(content) < 1 << 20
    with pytest.raises(NotThatKind, match="unpack to"):
        inspect(tmp_path, content)


def test_too_many_slides_and_parts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = package(PPTX_MANIFEST, **{f"ppt__slides__slide{n}_dot_xml": "" for n in range(9)})
    monkeypatch.setattr(sniff, "MAX_SLIDES", 8)
    with pytest.raises(NotThatKind, match="9 slides; at most 8"):
        inspect(tmp_path, content)
    monkeypatch.setattr(sniff, "MAX_ENTRIES", 5)
    with pytest.raises(NotThatKind, match="10 parts; at most 5"):
        inspect(tmp_path, content)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(package(PPTX_MANIFEST))
    # The flag word of the first entry, in the central directory (the local header is not consulted).
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(NotThatKind, match="password"):
        inspect(tmp_path, bytes(content))


@pytest.mark.parametrize("good", [package(PPTX_MANIFEST * 20), odf("presentation")], ids=["pptx", "odp"])
def test_however_a_container_is_damaged_it_is_refused_or_opened(good: bytes, tmp_path: Path) -> None:
    """No other error: that one would be tried again, five times, and tell its owner nothing."""
    file, dice = tmp_path / "deck", random.Random(4711)
    refused = 0
    for _ in range(1_500):
        damaged = bytearray(good)
        for _ in range(dice.choice((1, 2, 5, 20))):
            damaged[dice.randrange(4, len(damaged))] = dice.randrange(256)
        file.write_bytes(damaged)
        try:
            inspect_deck(file)
        except NotThatKind:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_container_packed_as_no_office_does_is_not_unpacked(packed: int, tmp_path: Path) -> None:
    file = tmp_path / "deck"
    with zipfile.ZipFile(file, "w", packed) as container:
        container.writestr("[Content_Types].xml", PPTX_MANIFEST)
    with pytest.raises(NotThatKind, match="container"):
        inspect_deck(file)

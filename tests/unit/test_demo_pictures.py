"""Small pictures: upright, without metadata; and nothing that could eat the machine, or read what is not its own."""

from __future__ import annotations

import io
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nightcrew.demo import decoder, pictures
from nightcrew.demo.decoder import Unfit, make_thumbnail
from nightcrew.demo.pictures import Facts, PictureFailed, make_picture
from nightcrew.demo.sniff import NotThatKind


def save(tmp_path: Path, image: Image.Image, kind: str, **options: object) -> Path:
    path = tmp_path / "uploaded"
    image.save(path, kind, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_every_kind_of_png_becomes_small(tmp_path: Path, mode: str) -> None:
    made = make_thumbnail(save(tmp_path, Image.new(mode, (1200, 800)), "PNG"), tmp_path)
    assert (made["width"], made["height"]) == (512, 341)
    assert made["original"] == (1200, 800)
    with Image.open(tmp_path / "picture") as small:
        assert small.size == (512, 341)
        assert made["content_type"] == f"image/{str(small.format).lower()}"


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_the_other_formats(tmp_path: Path, kind: str) -> None:
    made = make_thumbnail(save(tmp_path, Image.new("RGB", (600, 900), (200, 30, 30)), kind), tmp_path)
    assert (made["width"], made["height"]) == (341, 512)
    with Image.open(tmp_path / "picture") as small:
        red, green, _ = small.convert("RGB").getpixel((100, 100))  # type: ignore[misc]
        assert red > 150
        assert green < 80


def test_a_small_picture_is_not_made_larger(tmp_path: Path) -> None:
    made = make_thumbnail(save(tmp_path, Image.new("RGB", (40, 30)), "PNG"), tmp_path)
    assert (made["width"], made["height"]) == (40, 30)


def test_it_is_turned_upright_and_loses_its_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "secret camera"
    made = make_thumbnail(save(tmp_path, Image.new("RGB", (1200, 800)), "JPEG", exif=exif), tmp_path)
    assert (made["width"], made["height"]) == (341, 512)
    assert b"secret camera" not in (tmp_path / "picture").read_bytes()


def test_transparency_stays(tmp_path: Path) -> None:
    make_thumbnail(save(tmp_path, Image.new("RGBA", (1000, 1000), (0, 0, 0, 0)), "PNG"), tmp_path)
    with Image.open(tmp_path / "picture") as small:
        assert small.getpixel((9, 9)) == (0, 0, 0, 0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    make_thumbnail(save(tmp_path, Image.new("I;16", (300, 300), 32_768), "PNG"), tmp_path)
    with Image.open(tmp_path / "picture") as small:
        assert small.convert("L").getpixel((9, 9)) == pytest.approx(128, abs=2)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(60_000, 60_000), (11_000, 11_000)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "uploaded"
    path.write_bytes(png_header(*size))
    with pytest.raises(Unfit, match=r"pixels") as caught:
        make_thumbnail(path, tmp_path)
    assert caught.value.values["most"] == decoder.MAX_PIXELS


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"hello", "said.no-image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "said.broken-image|said.no-image"),
        (png_header(100, 100), "said.broken-image"),
        (b"BM" + bytes(100), "said.no-image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "said.no-image"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "uploaded"
    path.write_bytes(content)
    with pytest.raises(Unfit, match=why):
        make_thumbnail(path, tmp_path)


def test_a_full_disk_is_not_blamed_on_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    path = save(tmp_path, Image.new("RGB", (10, 10)), "PNG")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        make_thumbnail(path, tmp_path)


# In its cage.


async def make(tmp_path: Path, content: bytes, what: Any = "image") -> tuple[Facts, bytes]:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "uploaded").write_bytes(content)
    made = await make_picture(what, folder / "uploaded", folder)
    with made.file:
        return made.facts, made.file.read()


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


async def test_a_thumbnail(tmp_path: Path) -> None:
    facts, content = await make(tmp_path, encoded(Image.new("RGB", (1200, 800)), "PNG"))
    assert facts == Facts("image/jpeg", 512, 341, (1200, 800))
    assert content.startswith(b"\xff\xd8\xff")


async def test_the_first_page_of_a_pdf(tmp_path: Path) -> None:
    pdf = encoded(Image.new("RGB", (400, 300), (200, 30, 30)), "PDF")
    facts, content = await make(tmp_path, pdf, "page")
    assert (facts.content_type, facts.width, facts.height) == ("image/png", decoder.PAGE_SIDE, 720)
    with Image.open(io.BytesIO(content)) as page:
        red, green, _ = page.getpixel((480, 360))  # type: ignore[misc]
    assert red > 150
    assert green < 80


@pytest.mark.parametrize(
    ("what", "content", "says"),
    [
        ("image", b"hello", "not a PNG, JPEG, GIF or WebP"),
        ("image", png_header(60_000, 60_000), "100,000,000"),
        ("page", b"%PDF-1.7 and then nothing", "it is damaged"),
        ("page", b"", "it is damaged"),
    ],
)
async def test_what_cannot_be_drawn_is_told(tmp_path: Path, what: str, content: bytes, says: str) -> None:
    with pytest.raises(NotThatKind, match=says):
        await make(tmp_path, content, what)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A decoder that its file has taken over: it still sits in its cage."""
    program = tmp_path / "decoder.py"
    program.write_text(
        "import json, os, sys\nos.chdir(sys.argv[3])\n"
        "def answer(**said): open('answer.json', 'w').write(json.dumps(said))\n"
        "made = dict(content_type='image/png', width=1, height=1, original=[1, 1])\n"
        f"{code}\n"
    )
    monkeypatch.setattr(pictures, "__file__", str(tmp_path / "pictures.py"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("os.kill(os.getpid(), 11)", NotThatKind),
        ("x = [bytes(1 << 28) for _ in range(100)]", PictureFailed),
        ("while True: pass", NotThatKind),
        ("sys.exit(3)", PictureFailed),
        ("open('answer.json', 'w').write('nonsense')", PictureFailed),
        ("answer(made=made)", PictureFailed),
        ("answer(made=made | dict(content_type='text/html')); open('picture', 'w')", PictureFailed),
        ("answer(made=made); os.symlink('/etc/passwd', 'picture')", PictureFailed),
        ("answer(unfit=dict(key='page.who', values={}))", PictureFailed),
        ("answer(unfit=dict(key='said.pixels', values=dict(key='x')))", PictureFailed),
    ],
    ids=[
        "crash",
        "memory",
        "hang",
        "code",
        "nonsense",
        "no picture",
        "a page",
        "a link",
        "other words",
        "few words",
    ],
)
async def test_a_decoder_that_was_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(pictures, "SECONDS", 1.0 if "while" in code else 30.0)
    stand_in(tmp_path, monkeypatch, code)
    with pytest.raises(kind):
        await make(tmp_path, b"x")


async def test_a_decoder_that_answers_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the ones above fail for what they do."""
    stand_in(tmp_path, monkeypatch, "answer(made=made); open('picture', 'w').write('content')")
    assert (await make(tmp_path, b"x"))[1] == b"content"


async def test_it_reads_nothing_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    code = f"""
import socket
def tried(action):
    try:
        action()
        return True
    except OSError:
        return False
seen = [path for path in ({str(secret)!r}, "/proc/self/environ", "/etc/shadow") if tried(lambda: open(path).read())]
seen += [path for path in ({str(tmp_path)!r}, "/proc", "/") if tried(lambda: os.listdir(path))]
seen += ["network"] if tried(lambda: socket.create_connection(("127.0.0.1", {{port}}), timeout=5)) else []
print("saw", seen, file=sys.stderr)
"""
    with socket.create_server(("127.0.0.1", 0)) as canary:
        stand_in(tmp_path, monkeypatch, code.replace("{port}", str(canary.getsockname()[1])))
        with pytest.raises(PictureFailed, match=r"saw \[\]"):
            await make(tmp_path, b"x")


async def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    with pytest.raises(PictureFailed, match="PIL is not installed"):
        await make(tmp_path, b"x")

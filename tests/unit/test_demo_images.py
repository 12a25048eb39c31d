"""Thumbnails: upright, small, without metadata; and nothing that could eat the machine."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from nightcrew.demo.images import make_thumbnail
from nightcrew.demo.sniff import NotThatKind


def save(tmp_path: Path, image: Image.Image, kind: str, **options: object) -> Path:
    path = tmp_path / "uploaded"
    image.save(path, kind, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_every_kind_of_png_becomes_small(tmp_path: Path, mode: str) -> None:
    made = make_thumbnail(save(tmp_path, Image.new(mode, (1200, 800)), "PNG"), tmp_path)
    assert (made.width, made.height) == (512, 341)
    assert made.original == (1200, 800)
    with Image.open(made.path) as small:
        assert small.size == (512, 341)
        assert made.content_type == f"image/{str(small.format).lower()}"


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_the_other_formats(tmp_path: Path, kind: str) -> None:
    made = make_thumbnail(save(tmp_path, Image.new("RGB", (600, 900), (200, 30, 30)), kind), tmp_path)
    assert (made.width, made.height) == (341, 512)
    with Image.open(made.path) as small:
        red, green, _ = small.convert("RGB").getpixel((100, 100))  # type: ignore[misc]
        assert red > 150
        assert green < 80


def test_a_small_picture_is_not_made_larger(tmp_path: Path) -> None:
    made = make_thumbnail(save(tmp_path, Image.new("RGB", (40, 30)), "PNG"), tmp_path)
    assert (made.width, made.height) == (40, 30)


def test_it_is_turned_upright_and_loses_its_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "secret camera"
    made = make_thumbnail(save(tmp_path, Image.new("RGB", (1200, 800)), "JPEG", exif=exif), tmp_path)
    assert (made.width, made.height) == (341, 512)
    assert b"secret camera" not in made.path.read_bytes()


def test_transparency_stays(tmp_path: Path) -> None:
    made = make_thumbnail(save(tmp_path, Image.new("RGBA", (1000, 1000), (0, 0, 0, 0)), "PNG"), tmp_path)
    with Image.open(made.path) as small:
        assert small.getpixel((9, 9)) == (0, 0, 0, 0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    made = make_thumbnail(save(tmp_path, Image.new("I;16", (300, 300), 32_768), "PNG"), tmp_path)
    with Image.open(made.path) as small:
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
    with pytest.raises(NotThatKind, match="100,000,000"):
        make_thumbnail(path, tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"hello", "not a PNG, JPEG, GIF or WebP"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "it is damaged|not a PNG"),
        (png_header(100, 100), "it is damaged"),
        (b"BM" + bytes(100), "not a PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "not a PNG"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "uploaded"
    path.write_bytes(content)
    with pytest.raises(NotThatKind, match=why):
        make_thumbnail(path, tmp_path)


def test_a_full_disk_is_not_blamed_on_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    path = save(tmp_path, Image.new("RGB", (10, 10)), "PNG")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        make_thumbnail(path, tmp_path)

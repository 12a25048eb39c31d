"""Thumbnails with Pillow: only known formats, never more pixels than a photograph has."""

from __future__ import annotations

import warnings
from pathlib import Path

from msgspec import Struct
from PIL import Image, ImageOps, UnidentifiedImageError

from nightcrew.demo.sniff import NotThatKind

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
MAX_PIXELS = 100_000_000
"""Width times height; decoding takes about four bytes for each."""
SIDE = 512
"""Pixels of a thumbnail's longer side."""


class Thumbnail(Struct, frozen=True):
    """A picture that was made smaller, and from what. Sizes are (width, height) in pixels as stored."""

    path: Path
    content_type: str
    width: int
    height: int
    original: tuple[int, int]


def make_thumbnail(source: Path, folder: Path) -> Thumbnail:
    """Write a picture's thumbnail into `folder`, upright and without metadata.

    PNG where the picture has transparency, else JPEG. Raises `NotThatKind` when `source` is no picture, is
    damaged, or has more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns at its own limit and refuses at twice that; ours is checked before decoding.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                return _shrink(image, folder)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise NotThatKind(f"it has more than {MAX_PIXELS:,} pixels, so it is not opened") from error
        raise NotThatKind("it is not a PNG, JPEG, GIF or WebP image") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, NotThatKind) or (isinstance(error, OSError) and error.errno is not None):
            raise  # the second: the disk's fault, not the picture's
        # Pillow's way to say that the data ends early or makes no sense.
        raise NotThatKind(f"it is damaged ({error})") from error


def _shrink(image: Image.Image, folder: Path) -> Thumbnail:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise NotThatKind(
            f"it is {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} in all are allowed, so it is not opened"
        )
    # JPEG can be decoded at a fraction of its size: that is most of the time saved for a large photograph.
    image.draft("RGB", (SIDE * 2, SIDE * 2))
    transparent = image.has_transparency_data
    if image.mode not in ("RGB", "RGBA", "L"):  # palettes, 16 bits, CMYK: scaled down only as full colours
        image = _to_colours(image, transparent)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small = ImageOps.exif_transpose(image)
    # A new image: nothing of the original's metadata (place, camera, comments) goes along.
    clean = Image.new("RGBA" if transparent else "RGB", small.size)
    clean.paste(small)
    path = folder / ("thumbnail.png" if transparent else "thumbnail.jpg")
    clean.save(path, "PNG" if transparent else "JPEG", quality=85, optimize=True)
    return Thumbnail(
        path=path,
        content_type="image/png" if transparent else "image/jpeg",
        width=clean.width,
        height=clean.height,
        original=(width, height),
    )


def _to_colours(image: Image.Image, transparent: bool) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel, which `convert` would clip instead of scale.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    colours = image.convert("RGBA" if transparent else "RGB")
    colours.info.update(image.info)
    return colours

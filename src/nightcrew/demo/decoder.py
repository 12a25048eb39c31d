"""Makes a small picture of a stranger's file: ``python -I -S decoder.py WHAT SOURCE FOLDER LIBRARIES...``.

WHAT is ``image`` for a thumbnail, or ``page`` for the first page of a PDF. A program of its own, for the cage: a file
that is made to break its decoder breaks nothing else. So nothing of Nightcrew is imported, and the decoders are looked
for in the folders LIBRARIES only. Leaves the picture and its size, or which text of the catalogue says why there is
none, in FOLDER as `picture` and `answer.json`.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
MAX_PIXELS = 100_000_000
"""Width times height; decoding takes about four bytes for each."""
SIDE = 512
"""Pixels of a thumbnail's longer side."""
PAGE_SIDE = 960
"""Pixels of a page's longer side."""


class Unfit(Exception):
    """No picture can be made of the file; `key` and `values` are the text that says why."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key = key
        self.values = values


def make_thumbnail(source: Path, folder: Path) -> dict[str, Any]:
    """Write a picture's thumbnail into `folder`, upright and without metadata.

    PNG where the picture has transparency, else JPEG. Raises `Unfit` when `source` is no picture, is damaged, or
    has more than `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - from LIBRARIES

    try:
        with warnings.catch_warnings():
            # Pillow warns at its own limit and refuses at twice that; ours is checked before decoding.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                return _shrink(image, folder)
    except Image.DecompressionBombError as error:
        raise Unfit("said.many-pixels", most=MAX_PIXELS) from error
    except UnidentifiedImageError as error:
        raise Unfit("said.no-image") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the picture's
        # Pillow's way to say that the data ends early or makes no sense.
        raise Unfit("said.broken-image", detail=str(error)) from error


def _shrink(image: "Image.Image", folder: Path) -> dict[str, Any]:
    from PIL import Image, ImageOps  # noqa: PLC0415 - from LIBRARIES

    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unfit("said.pixels", width=width, height=height, most=MAX_PIXELS)
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
    return _saved(clean, folder, "PNG" if transparent else "JPEG", (width, height))


def _to_colours(image: "Image.Image", transparent: bool) -> "Image.Image":
    if image.mode.startswith("I"):
        # 16 bits a pixel, which `convert` would clip instead of scale.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    colours = image.convert("RGBA" if transparent else "RGB")
    colours.info.update(image.info)
    return colours


def draw_page(source: Path, folder: Path) -> dict[str, Any]:
    """Write the first page of a PDF into `folder`, as PNG. Raises `Unfit` when it has none that can be drawn."""
    import pypdfium2  # noqa: PLC0415 - from LIBRARIES

    try:
        document = pypdfium2.PdfDocument(source)
        page = document[0]
        width, height = page.get_size()
        # Whatever it claims, the longer side becomes PAGE_SIDE, and the shorter one has at least a pixel.
        picture = page.render(scale=PAGE_SIDE / max(width, height, 1.0)).to_pil()
    except (pypdfium2.PdfiumError, IndexError, ValueError) as error:
        raise Unfit("said.broken-image", detail=str(error)) from error
    return _saved(picture.convert("RGB"), folder, "PNG", (round(width), round(height)))


def _saved(image: "Image.Image", folder: Path, kind: str, original: tuple[int, int]) -> dict[str, Any]:
    image.save(folder / "picture", kind, quality=85, optimize=True)
    return {
        "content_type": f"image/{kind.lower()}",
        "width": image.width,
        "height": image.height,
        "original": original,
    }


def main(what: str, source: Path, folder: Path, libraries: list[str]) -> None:
    """Make the picture, and leave the answer."""
    sys.path[:0] = libraries
    make = {"image": make_thumbnail, "page": draw_page}[what]
    try:
        answer = {"made": make(source, folder)}
    except Unfit as unfit:
        answer = {"unfit": {"key": unfit.key, "values": unfit.values}}
    except MemoryError:
        answer = {"unfit": {"key": "said.too-much", "values": {}}}
    (folder / "answer.json").write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])

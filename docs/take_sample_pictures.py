"""Takes the pictures of the sample application for these pages: ``python -m docs.take_sample_pictures`` from the root.

Needs what the browser tests need, and LibreOffice; for the Japanese one, a Japanese font.
"""

from __future__ import annotations

import asyncio
import io
import random
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.async_api import Browser, expect
from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.shapes import MSO_SHAPE
from pptx.util import Inches, Pt

from tests.parts import need
from tests.web.browsing import Visit, browsing, running_browser
from tests.web.running import Demo

IMAGES = Path(__file__).with_name("images")
DECK = "Night shift, third quarter.pptx"
WIDE = {"width": 1040, "height": 760}
PHONE = {"width": 390, "height": 844}


def harbour() -> bytes:
    """A picture of a town at night."""
    dice = random.Random(1)  # noqa: S311 - stars
    image = Image.new("RGB", (1600, 1200))
    draw = ImageDraw.Draw(image)
    for y in range(1200):
        draw.line([(0, y), (1600, y)], fill=(20 + y // 14, 24 + y // 18, 70 + y // 11))
    for _ in range(160):
        x, y = dice.randrange(1600), dice.randrange(560)
        draw.ellipse([x, y, x + 3, y + 3], fill=(255, 255, 240))
    draw.ellipse([1150, 140, 1330, 320], fill=(255, 212, 121))
    for x in range(0, 1600, 90):
        top = 860 - dice.randrange(120, 400)
        draw.rectangle([x, top, x + 80, 860], fill=(12, 14, 30))
        for wy in range(top + 15, 850, 28):
            for wx in range(x + 10, x + 75, 22):
                if dice.random() < 0.4:
                    draw.rectangle([wx, wy, wx + 8, wy + 12], fill=(255, 220, 150))
    draw.rectangle([0, 860, 1600, 1200], fill=(14, 22, 48))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


def night_deck(photos: int) -> bytes:
    """A deck with a dark first page; each photo on a page of its own keeps LibreOffice busy for a while."""
    presentation: Any = Presentation()
    colour: Any = RGBColor
    first = presentation.slides.add_slide(presentation.slide_layouts[6])
    first.background.fill.solid()
    first.background.fill.fore_color.rgb = colour(0x1D, 0x1C, 0x3A)
    moon = first.shapes.add_shape(MSO_SHAPE.MOON, Inches(7.6), Inches(0.9), Inches(0.8), Inches(1.6))
    moon.fill.solid()
    moon.fill.fore_color.rgb = colour(0xFF, 0xD4, 0x79)
    moon.line.fill.background()
    for text, top, size in (("Night shift", 2.6, 54), ("Third quarter", 3.7, 28)):
        frame = first.shapes.add_textbox(Inches(0.9), Inches(top), Inches(8), Inches(1)).text_frame
        frame.text = text
        frame.paragraphs[0].runs[0].font.size = Pt(size)
        frame.paragraphs[0].runs[0].font.color.rgb = colour(0xFF, 0xFF, 0xFF)
    for number in range(photos):
        slide = presentation.slides.add_slide(presentation.slide_layouts[5])
        slide.shapes.title.text = f"Shift {number + 1}"
        noise = Image.effect_noise((1600, 1200), 90 + number).convert("RGB")
        out = io.BytesIO()
        noise.save(out, "JPEG", quality=90)
        slide.shapes.add_picture(io.BytesIO(out.getvalue()), Inches(1), Inches(2), Inches(8))
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


async def take(demo: Demo, browser: Browser) -> None:
    """Take them all."""
    async with browsing(browser, viewport=WIDE, device_scale_factor=1.5) as context:
        visit = Visit(await context.new_page(), demo)
        await visit.sign_in()
        await visit.upload(DECK, night_deck(30))
        await visit.has_picture(DECK)
        await expect(visit.page.locator("h1")).to_have_text("processing")
        await save(visit, "sample-processing")
        await visit.ends("ok")
        await save(visit, "sample-ok")
        await visit.upload("minutes.pptx", b"Only text, whatever its name says.")
        await visit.ends("failed")
        await save(visit, "sample-failed")
        await visit.open("/")
        await visit.drop(("harbour.jpg", harbour()))
        await visit.has_picture("harbour.jpg")
        await visit.drop(("Plans for the winter.pptx", night_deck(12)))
        await expect(visit.file("Plans for the winter.pptx")).to_contain_text("LibreOffice is converting")
        await visit.page.set_viewport_size({"width": 1040, "height": 940})
        await save(visit, "sample-upload")
        cookies = await context.storage_state()
        await visit.shows("Plans for the winter.pptx", "ok")
    options = {"viewport": PHONE, "color_scheme": "dark", "device_scale_factor": 2, "storage_state": cookies}
    async with browsing(browser, **options) as context:
        visit = Visit(await context.new_page(), demo)
        await visit.open("/?lang=ja")
        await visit.has_picture("harbour.jpg")
        await save(visit, "sample-phone")


async def save(visit: Visit, name: str) -> None:
    """Take one, in few colours so that it stays small."""
    await visit.page.mouse.move(0, 0)
    await visit.page.evaluate("Promise.all(document.getAnimations().map((a) => a.finished.catch(() => {})))")
    image = Image.open(io.BytesIO(await visit.page.screenshot()))
    image.quantize(200).save(IMAGES / f"{name}.png", optimize=True)


async def main() -> None:
    """Start the sample and a browser, and take the pictures."""
    need("office")
    executable = need("browser")
    with tempfile.TemporaryDirectory() as folder, Demo(Path(folder) / "data") as demo:
        async with running_browser(executable) as browser:
            await take(demo, browser)


if __name__ == "__main__":
    asyncio.run(main())

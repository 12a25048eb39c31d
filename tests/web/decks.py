"""Real presentations and pictures for the tests of the sample application."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

CJK_TITLE = "夜班報告"
_LINK = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def picture(kind: str = "PNG", size: tuple[int, int] = (800, 600), colour: str = "teal") -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def deck(path: Path, slides: int = 5) -> Path:
    """A deck with a title in Chinese, bullets, a table, a picture and a chart; more slides repeat the bullets."""
    presentation: Any = Presentation()
    layouts = presentation.slide_layouts

    first = presentation.slides.add_slide(layouts[0])
    first.shapes.title.text = f"{CJK_TITLE} Nightcrew"
    first.placeholders[1].text = "Third quarter"

    bullets = presentation.slides.add_slide(layouts[1])
    bullets.shapes.title.text = "What we did"
    bullets.placeholders[1].text = "Nothing was lost\nNothing ran twice"

    table_slide = presentation.slides.add_slide(layouts[5])
    table_slide.shapes.title.text = "Numbers"
    table = table_slide.shapes.add_table(3, 3, Inches(1), Inches(2), Inches(8), Inches(2)).table
    for row in range(3):
        for column in range(3):
            table.cell(row, column).text = f"cell {row}{column}"

    picture_slide = presentation.slides.add_slide(layouts[5])
    picture_slide.shapes.title.text = "Picture"
    picture_slide.shapes.add_picture(io.BytesIO(picture(size=(300, 200))), Inches(2), Inches(2))

    chart_slide = presentation.slides.add_slide(layouts[5])
    chart_slide.shapes.title.text = "Chart"
    made: Any = CategoryChartData
    data = made()
    data.categories = ["January", "February", "March"]
    data.add_series("Jobs", (19.2, 21.4, 16.7))
    chart_slide.shapes.add_chart(
        XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(2), Inches(8), Inches(4.5), data
    )

    for number in range(slides - 5):
        more = presentation.slides.add_slide(layouts[1])
        more.shapes.title.text = f"More {number}"
    presentation.save(str(path))
    return path


def linking_deck(path: Path, target: str) -> Path:
    """A deck whose only picture is a link to somewhere else."""
    presentation: Any = Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[5])
    slide.shapes.title.text = "Linked"
    shape = slide.shapes.add_picture(io.BytesIO(picture()), Inches(2), Inches(2))
    relation = slide.part.relate_to(target, f"{_LINK}/image", is_external=True)
    blip = shape._element.blipFill.find("{http://schemas.openxmlformats.org/drawingml/2006/main}blip")
    del blip.attrib[f"{{{_LINK}}}embed"]
    blip.set(f"{{{_LINK}}}link", relation)
    presentation.save(str(path))
    return path


_PICTURE = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="90" height="90">
<image xlink:href="{target}" width="90" height="90"/></svg>"""
_ODP = """<?xml version="1.0" encoding="UTF-8"?>
<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" xmlns:xlink="http://www.w3.org/1999/xlink"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0" office:version="1.2"><office:body>
<office:presentation><draw:page draw:name="one">
<draw:frame svg:width="9cm" svg:height="2cm" svg:x="1cm" svg:y="1cm"><draw:text-box><text:p>Linked</text:p>
</draw:text-box></draw:frame>
<draw:frame svg:width="5cm" svg:height="5cm" svg:x="2cm" svg:y="4cm">
<draw:image xlink:href="{href}" xlink:type="simple" xlink:show="embed" xlink:actuate="onLoad"/></draw:frame>
</draw:page></office:presentation></office:body></office:document-content>"""
_MANIFEST = """<?xml version="1.0" encoding="UTF-8"?>
<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" manifest:version="1.2">
<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/>
<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml"/>
<manifest:file-entry manifest:full-path="Pictures/a.svg" manifest:media-type="image/svg+xml"/>
</manifest:manifest>"""


def linking_odp(path: Path, target: str, *, by_svg: bool) -> Path:
    """An OpenDocument presentation with a link: of its own, or within a drawing that it holds."""
    kind = "application/vnd.oasis.opendocument.presentation"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", kind)
        archive.writestr("META-INF/manifest.xml", _MANIFEST.format(kind=kind))
        archive.writestr("Pictures/a.svg", _PICTURE.format(target=target))
        archive.writestr("content.xml", _ODP.format(href="Pictures/a.svg" if by_svg else target))
    return path

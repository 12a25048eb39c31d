"""LibreOffice in its cage: what comes out, what cannot get in or out, and how it ends."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import socket
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
from pypdf import PdfReader

from nightcrew.demo import cage, confine, office
from nightcrew.demo.confine import CannotConfine
from nightcrew.demo.office import OfficeFailed, OfficeMissing, convert_deck
from nightcrew.demo.sniff import Deck, NotThatKind, inspect_deck
from tests.waiting import await_until
from tests.web.decks import CJK_TITLE, deck, linking_deck, linking_odp, picture

pytestmark = pytest.mark.office


async def convert(tmp_path: Path, source: Path, *, first_page: bool = False) -> PdfReader:
    folder = tmp_path / "run"
    folder.mkdir()
    upload = Path(shutil.copy(source, folder / "upload"))
    with await convert_deck(upload, inspect_deck(upload), folder, first_page=first_page) as pdf:
        return PdfReader(io.BytesIO(pdf.read()))


async def test_a_real_deck_becomes_a_real_pdf(soffice: str, tmp_path: Path) -> None:
    pdf = await convert(tmp_path, deck(tmp_path / "deck.pptx"))
    texts = [page.extract_text() for page in pdf.pages]
    assert len(texts) == 5
    # Without a Chinese font every character is drawn as the same box, and extracted as the first.
    assert CJK_TITLE[0] in texts[0]
    assert "Nightcrew" in texts[0]
    assert "Nothing was lost" in texts[1]
    assert "cell 22" in texts[2]
    assert pdf.pages[3].images
    assert "February" in texts[4]


async def test_the_first_page_alone(soffice: str, tmp_path: Path) -> None:
    [page] = (await convert(tmp_path, deck(tmp_path / "deck.pptx"), first_page=True)).pages
    assert "Nightcrew" in page.extract_text()


@pytest.mark.parametrize("kind", ["odp", "ppt"])
async def test_the_other_formats(soffice: str, tmp_path: Path, kind: str) -> None:
    process = await asyncio.create_subprocess_exec(
        soffice,
        f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}",
        "--headless",
        "--convert-to",
        kind,
        "--outdir",
        str(tmp_path),
        str(deck(tmp_path / "deck.pptx")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    pdf = await convert(tmp_path, tmp_path / f"deck.{kind}")
    assert len(pdf.pages) == 5
    assert "Nothing was lost" in pdf.pages[1].extract_text()


@pytest.mark.parametrize("kind", ["pptx", "odp", "svg in odp"])
@pytest.mark.parametrize("allowed", ["0", "1"])
async def test_a_deck_cannot_read_the_files_of_this_machine(
    soffice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, allowed: str
) -> None:
    """LibreOffice puts a linked file into the PDF, network or not: it must not be able to open it."""
    monkeypatch.setenv(confine.ALLOW_FILES, allowed)
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    if kind == "pptx":
        # Its own setting stops this kind; here the cage has to.
        monkeypatch.setattr(office, "SETTINGS", links_allowed())
        source = linking_deck(tmp_path / "deck.pptx", secret.as_uri())
    else:
        source = linking_odp(tmp_path / "deck.odp", secret.as_uri(), by_svg=kind != "odp")
    [page] = (await convert(tmp_path, source)).pages
    assert "Linked" in page.extract_text()
    assert bool(page.images) is (allowed == "1"), "the other case shows that the test can fail"


def links_allowed() -> dict[str, dict[str, str]]:
    settings = {path: dict(values) for path, values in office.SETTINGS.items()}
    settings["/org.openoffice.Office.Common/Security/Scripting"]["BlockUntrustedRefererLinks"] = "false"
    return settings


@pytest.mark.parametrize("allowed", ["0", "1"])
async def test_a_deck_cannot_reach_the_network(
    soffice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    """Cut off by the kernel: shown without the setting that forbids links in the first place."""
    monkeypatch.setenv(confine.ALLOW_NETWORK, allowed)
    monkeypatch.setattr(office, "SETTINGS", links_allowed())
    with socket.create_server(("127.0.0.1", 0)) as canary:
        hits: list[object] = []
        listening = asyncio.get_running_loop().run_in_executor(None, _answer_nothing, canary, hits)
        target = f"http://127.0.0.1:{canary.getsockname()[1]}/picture.png"
        await convert(tmp_path, linking_deck(tmp_path / "deck.pptx", target))
        canary.shutdown(socket.SHUT_RDWR)
        await listening
    assert bool(hits) is (allowed == "1")


def _answer_nothing(canary: socket.socket, hits: list[object]) -> None:
    """Take down who connects, and hang up."""
    while True:
        try:
            connection, address = canary.accept()
        except OSError:
            return
        hits.append(address)
        connection.close()


async def test_a_broken_deck_is_told(soffice: str, tmp_path: Path) -> None:
    whole = deck(tmp_path / "deck.pptx")
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "broken.pptx", "w") as broken:
        for name in source.namelist():
            broken.writestr(name, b"nonsense" if name == "ppt/presentation.xml" else source.read(name))
    with pytest.raises(NotThatKind, match="LibreOffice cannot load it"):
        await convert(tmp_path, tmp_path / "broken.pptx")


async def test_a_text_that_passes_for_a_deck_is_not_converted(soffice: str, tmp_path: Path) -> None:
    """The import filter is fixed: LibreOffice must not look for another that would take the file."""
    folder = tmp_path / "run"
    folder.mkdir()
    upload = folder / "upload"
    upload.write_text("just text")
    with pytest.raises(NotThatKind, match="cannot load it"):
        await convert_deck(upload, Deck(".pptx", "Impress MS PowerPoint 2007 XML", 1), folder)


# The rest is about how LibreOffice ends, shown with programs that stand in for it.


def stand_in(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "soffice"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(office, "find_soffice", lambda: str(program))
    # They tell what they see by writing files.
    monkeypatch.setenv(confine.ALLOW_FILES, "1")
    return program


async def run(tmp_path: Path) -> bytes:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "upload").write_bytes(b"x")
    with await convert_deck(folder / "upload", Deck(".pptx", "filter", 1), folder) as pdf:
        return pdf.read()


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ("exit 0", OfficeFailed, "exited with code 0 without a PDF"),
        ("echo trouble >&2; exit 77", OfficeFailed, "code 77.*trouble"),
        ("kill -SEGV $$", OfficeFailed, "SIGSEGV"),
        ("mkdir output; : > output/input.pdf", OfficeFailed, "without a PDF"),
        ("mkdir output; echo %PDF-1.7 cut > output/input.pdf", OfficeFailed, "without a PDF"),
        ("mkdir output; echo '<html> %%EOF' > output/input.pdf", OfficeFailed, "without a PDF"),
        ("kill -XCPU $$", NotThatKind, "more time, memory or space"),
        ("echo 'std::bad_alloc' >&2; exit 134", NotThatKind, "more time, memory or space"),
    ],
)
async def test_only_a_whole_pdf_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, kind: type[Exception], says: str
) -> None:
    stand_in(tmp_path, script, monkeypatch)
    with pytest.raises(kind, match=says):
        await run(tmp_path)


@pytest.mark.parametrize(
    "script",
    [
        "mkdir output; ln -s {secret} output/input.pdf",
        "ln -s {folder} output",
        "mkdir output; mkfifo output/input.pdf",
        "mkdir -p output/input.pdf",
    ],
    ids=["a link", "a linked folder", "a pipe", "a folder"],
)
async def test_what_it_leaves_is_no_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """A LibreOffice that was taken over could read nothing, and so would have us read it."""
    secret = tmp_path / "secret" / "input.pdf"
    secret.parent.mkdir()
    secret.write_text("%PDF-1.7 of somebody else %%EOF")
    stand_in(tmp_path, script.format(secret=secret, folder=secret.parent), monkeypatch)
    with pytest.raises(OfficeFailed, match="without a PDF"):
        await run(tmp_path)


async def test_the_cage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCREW_SECRET", "canary")
    script = (
        f'{{ env; ulimit -a; pwd; umask; echo args "$@"; cat /proc/net/dev; }} > {tmp_path}/seen 2>&1\n'
        "mkdir output; printf '%%PDF-1.7\\n%%%%EOF\\n' > output/input.pdf"
    )
    stand_in(tmp_path, script, monkeypatch)
    await run(tmp_path)
    seen = (tmp_path / "seen").read_text()
    assert "canary" not in seen
    assert f"HOME={tmp_path}/run" in seen
    assert "output/input" not in seen.split("args")[0]
    assert "--infilter=filter" in seen
    assert "input.pptx" in seen
    assert "eth0" not in seen
    for limit in ("core file size", "cpu time", "file size"):
        assert not [line for line in seen.splitlines() if line.startswith(limit) and "unlimited" in line]


async def test_one_that_hangs_is_ended_with_all_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, f"setsid sleep 600 & echo $! > {tmp_path}/child; trap '' TERM; sleep 600", monkeypatch)
    monkeypatch.setattr(office, "SECONDS", 3.0)
    with pytest.raises(NotThatKind, match="took longer than"):
        await run(tmp_path)
    child = int((tmp_path / "child").read_text())
    await await_until(lambda: not psutil.pid_exists(child))


async def test_where_files_cannot_be_shut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, f"echo files cannot be shut off here >&2; exit {cage.NO_CAGE}", monkeypatch)
    with pytest.raises(CannotConfine, match=f"cannot be shut off here.*{confine.ALLOW_FILES}=1"):
        await run(tmp_path)


@pytest.mark.parametrize("build", ["known", "unknown"])
async def test_nothing_of_it_stays(
    soffice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str
) -> None:
    """Also where it starts itself anew after setting up its profile."""
    if build == "unknown":
        monkeypatch.setattr(office, "_build_id", lambda soffice: None)

    def traces() -> set[str]:
        return {path.name for path in Path("/tmp").glob("OSL_PIPE_*")}

    before = traces()
    await convert(tmp_path, deck(tmp_path / "deck.pptx"))
    # Its own, and those of other tests: these are at it still, and take theirs away too.
    left = traces() - before
    await await_until(lambda: not left & traces(), timeout=60)


# The cage by itself.


async def test_what_a_program_in_the_cage_can_do(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").write_text("content")
    (inside / "link").symlink_to(outside / "file")
    lent = tmp_path / "lent"
    lent.mkdir()
    (lent / "file").write_text("content")
    script = f"""
        cat {lent}/file > /dev/null && echo CAN-READ-WHAT-IS-LENT
        echo x > {lent}/file && echo WRITTEN
        cat {inside}/file > {inside}/copy && echo CAN-WRITE-INSIDE
        mkdir {inside}/sub && mv {inside}/copy {inside}/sub/copy && echo CAN-MOVE-INSIDE
        ls /usr/lib > /dev/null && echo CAN-READ-PROGRAMS
        cat {outside}/file && echo READ
        cat {inside}/link && echo READ
        cat {inside}/../outside/file && echo READ
        echo x > {outside}/new && echo WRITTEN
        echo x >> {outside}/file && echo WRITTEN
        ln {outside}/file {inside}/hard && echo LINKED
        mv {outside}/file {inside}/stolen && echo MOVED
        rm {outside}/file && echo REMOVED
        ls {Path.home()} {outside} /proc /etc / && echo LISTED
        cat /proc/self/environ /proc/1/environ /etc/shadow && echo READ
        python3 -c 'open("/etc/hostname")' && echo READ
        exit 0
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        cage.__file__,
        "--read",
        str(lent),
        str(inside),
        "/bin/sh",
        "-c",
        script,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.decode().split() == [
        "CAN-READ-WHAT-IS-LENT",
        "CAN-WRITE-INSIDE",
        "CAN-MOVE-INSIDE",
        "CAN-READ-PROGRAMS",
    ]
    assert (outside / "file").read_text() == "content"
    assert [path.name for path in outside.iterdir()] == ["file"]


async def test_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office, "find_soffice", lambda: None)
    with pytest.raises(OfficeMissing, match=r"not installed here.*libreoffice-impress"):
        await run(tmp_path)


async def test_one_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.unlink(stand_in(tmp_path, "", monkeypatch))
    with pytest.raises(CannotConfine, match=f"cannot be run here.*{confine.ALLOW_NETWORK}=1"):
        await run(tmp_path)

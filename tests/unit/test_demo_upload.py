"""Reading one uploaded file out of a form: in pieces of any size, and never more than allowed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from nightcrew.demo.sniff import HEAD
from nightcrew.demo.upload import Refused, Upload

KIND = "multipart/form-data; boundary=XX"


def part(content: bytes, disposition: str = 'form-data; name="Upload"; filename="deck.pptx"') -> bytes:
    return b"--XX\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--XX--\r\n"


async def pieces(body: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def read_all(
    body: bytes, *, size: int = 1000, limit: int = 1 << 20, kind: str = KIND, files: int = 1
) -> list[tuple[str, bytes, bytes]]:
    upload = Upload(Headers({"content-type": kind}), pieces(body, size), limit, files)
    return [
        (file.name, file.head, b"".join([chunk async for chunk in file.chunks()]))
        async for file in upload.files()
    ]


async def read(body: bytes, **options: Any) -> tuple[str, bytes, bytes]:
    [file] = await read_all(body, **options)
    return file


async def refused(body: bytes, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await read_all(body, **options)
    return caught.value


@settings(max_examples=60, deadline=None)
@given(content=st.binary(min_size=1, max_size=9000), size=st.integers(1, 5000))
async def test_content_comes_out_as_it_went_in(content: bytes, size: int) -> None:
    assert await read(part(content) + END, size=size) == ("deck.pptx", content[:HEAD], content)


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(st.binary(min_size=1, max_size=9000), min_size=1, max_size=5), size=st.integers(1, 5000)
)
async def test_several_files_come_out_as_they_went_in(contents: list[bytes], size: int) -> None:
    names = [f"{number}.pptx" for number in range(len(contents))]
    form = [
        part(content, f'form-data; name="Upload"; filename="{name}"')
        for name, content in zip(names, contents, strict=True)
    ]
    empty = part(b"", 'form-data; name="Upload"; filename=""')
    body = b"".join([*form, part(b"field", 'form-data; name="Other"'), empty, END])
    found = await read_all(body, size=size, files=6)
    assert found == [(name, content[:HEAD], content) for name, content in zip(names, contents, strict=True)]


async def test_no_more_files_than_allowed() -> None:
    assert len(await read_all(part(b"x") * 3 + END, files=3)) == 3
    error = await refused(part(b"x") * 3 + END, files=2)
    assert error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert "at once, which is 2" in str(error)


async def test_a_form_has_no_end_of_small_parts() -> None:
    field = part(b"x", 'form-data; name="other"')
    assert await read(field * 90 + part(b"abc") + END) == ("deck.pptx", b"abc", b"abc")
    assert (await refused(field * 200 + part(b"abc") + END)).status == 413


async def test_an_empty_file_among_others_is_refused_with_all_of_them() -> None:
    body = part(b"x") + part(b"", 'form-data; name="Upload"; filename="b.pptx"') + part(b"y") + END
    assert "“b.pptx” is empty" in str(await refused(body, files=5))


async def test_each_file_may_have_the_size_that_one_may() -> None:
    assert len(await read_all(part(b"x" * 1000) * 3 + END, limit=1000, files=3)) == 3
    error = await refused(part(b"x" * 1000) + part(b"x" * 1001) + END, limit=1000, files=3)
    assert error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


async def test_content_that_looks_like_a_boundary() -> None:
    content = b"\r\n--X\r\n--XY\r\n\r\n--" * 500
    for size in (1, 2, 3, 7, 4096):
        assert (await read(part(content) + END, size=size))[2] == content


async def test_other_fields_do_not_matter() -> None:
    body = (
        part(b"a value", 'form-data; name="Upload"')
        + part(b"another file", 'form-data; name="Other"; filename="x"')
        + part(b"content")
        + END
    )
    assert (await read(body))[2] == b"content"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\me\deck.pptx", "deck.pptx"),
        (r"..\..\deck.pptx", "deck.pptx"),
        ("/", "file"),
        ("..", "file"),
        ("a\tb\x1b[31m.pptx", "ab[31m.pptx"),
        ("夜班.pptx", "夜班.pptx"),
        ("x\u202excod.pptx", "xxcod.pptx"),
        ("<script>alert(1)</script>.pptx", "script>.pptx"),
        ("<img src=x onerror=alert(1)>.pptx", "<img src=x onerror=alert(1)>.pptx"),
        ("say %22hello%22.pptx", 'say "hello".pptx'),
        (".pptx", ".pptx"),
    ],
)
async def test_a_name_is_only_shown(sent: str, shown: str) -> None:
    body = part(b"x", f'form-data; name="Upload"; filename="{sent.replace(chr(92), chr(92) * 2)}"') + END
    assert (await read(body))[0] == shown


async def test_a_long_name_is_cut_and_keeps_its_suffix() -> None:
    name = (await read(part(b"x", f'form-data; name="Upload"; filename="{"é" * 900}.pptx"') + END))[0]
    assert len(name.encode()) <= 200
    assert name.endswith("é.pptx")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (END, "No file was chosen"),
        (part(b"", 'form-data; name="Upload"; filename=""') + END, "No file was chosen"),
        (part(b"text", 'form-data; name="Upload"') + END, "No file was chosen"),
        (part(b"text", 'form-data; name="upload"; filename="x"') + END, "No file was chosen"),
        (part(b"") + END, "“deck.pptx” is empty"),
        (b"", "No file was chosen"),
        (part(b"cut off")[:-4], "broke off"),
        (b"--YY\r\n", "could not be read"),
        (b"--XX\r\n" + b"X-Long: " + b"x" * 9000, "could not be read"),
    ],
)
async def test_bad_forms_are_refused(body: bytes, says: str) -> None:
    error = await refused(body)
    assert error.status == HTTPStatus.BAD_REQUEST
    assert says in str(error)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=XX",
        "",
    ],
)
async def test_only_forms_with_files_are_read(kind: str) -> None:
    assert (await refused(part(b"x") + END, kind=kind)).status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_two_content_types_are_refused() -> None:
    headers = Headers(raw=[(b"content-type", KIND.encode()), (b"content-type", b"application/json")])
    with pytest.raises(Refused) as caught:
        Upload(headers, pieces(b"", 1), 10)
    assert caught.value.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


async def test_the_limit_is_kept_while_reading() -> None:
    assert (await read(part(b"x" * 1000) + END, limit=1000))[2] == b"x" * 1000
    error = await refused(part(b"x" * 1001) + END, limit=1000)
    assert error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    # Not even other fields may be larger.
    error = await refused(part(b"x" * 100_000, 'form-data; name="Other"') + part(b"y") + END, limit=1000)
    assert error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    headers = Headers({"content-type": KIND, "content-length": str(1 << 40)})
    with pytest.raises(Refused) as caught:
        Upload(headers, pieces(b"", 1), 1000)
    assert caught.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


async def test_a_browser_that_goes_away() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        yield part(b"x" * 10_000)[:9000]
        raise ClientDisconnect

    upload = Upload(Headers({"content-type": KIND}), body(), 1 << 20)
    with pytest.raises(Refused, match="went away"):
        _ = [chunk async for file in upload.files() async for chunk in file.chunks()]


async def test_content_is_never_kept_whole() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        yield part(b"")[:-2]
        for _ in range(2000):
            yield b"x" * 10_000
        yield b"\r\n" + END

    upload = Upload(Headers({"content-type": KIND}), body(), 1 << 30)
    largest = total = 0
    async for file in upload.files():
        async for chunk in file.chunks():
            largest = max(largest, len(chunk))
            total += len(chunk)
    assert total == 20_000_000
    assert largest <= 20_000

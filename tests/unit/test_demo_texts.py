"""The catalogue: whole in every language, with its plurals; what jobs said is found again; who is spoken to in which."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.demo.texts import DEFAULT, LANGUAGES, MAX_SAID, choose, said_with, say, texts
from tests.parts import ROOT

FOLDER = ROOT / "src" / "nightcrew" / "demo"
CATALOGUE = tomllib.loads(files("nightcrew.demo").joinpath("texts.toml").read_text("utf-8"))
TEXTS: dict[str, dict[str, Any]] = {
    f"{section}.{name}": languages
    for section, entries in CATALOGUE.items()
    for name, languages in entries.items()
}
SCRIPTS = {"ja": "[぀-ヿ一-鿿]", "ru": "[\u0430-\u044f\u0451]", "zh-Hans": "[一-鿿]", "zh-Hant": "[一-鿿]"}
ONLY_SIGNS = {"live.news", "live.sent"}

VALUES: dict[str, Any] = {
    "name": "夜班 “x”.pptx",
    "size": 256_000_000,
    "why": say("said.encrypted"),
    "what": say("what.png"),
    "seconds": 2.5,
    "detail": "exit code 3",
    "end": "exited with code 1",
    "variable": "SOME_NAME",
}


def forms(text: Any) -> dict[str, str]:
    return text if isinstance(text, dict) else {"other": text}


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def sample(text: Any, count: int) -> dict[str, Any]:
    """A value for each of its placeholders."""
    names = set().union(*(placeholders(form) for form in forms(text).values()))
    return {name: count if name == "count" else VALUES.get(name, 1_200) for name in names}


def test_every_text_is_whole() -> None:
    for key in TEXTS:
        check(key)


def check(key: str) -> None:
    entry = TEXTS[key]
    assert set(entry) == set(LANGUAGES), f"{key}: a language is missing, or one too many"
    english = forms(entry[DEFAULT])
    names = set().union(*map(placeholders, english.values()))
    for tag, text in entry.items():
        wanted = LANGUAGES[tag].plurals if len(english) > 1 else ("other",)
        assert tuple(forms(text)) == wanted, f"{key}: {tag} needs the forms {wanted}"
        for form in forms(text).values():
            assert placeholders(form) == names, f"{key}: {tag}: {form}"
            assert form == form.strip()
            if tag != DEFAULT and key not in ONLY_SIGNS:
                assert re.search(SCRIPTS[tag], form.lower()), f"{key}: {tag} is not translated: {form}"


def sources() -> Iterator[str]:
    for suffix in ("*.py", "*.html", "*.js"):
        for path in FOLDER.rglob(suffix):
            yield path.read_text("utf-8")


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    found = set(re.findall(r"[\"'`](?:page|word|live|said|what)\.[a-z0-9-]+[\"'`]", "\n".join(sources())))
    used = {name.strip("\"'`") for name in found}
    used |= {f"word.{word}" for word in ("waiting", "processing", "ok", "failed", "cancelled")}
    # Of the gate, which says them itself.
    used |= {
        f"said.{name}" for name in "wrong-host other-site open-link used-link no-token wrong-token".split()
    }
    assert used - set(TEXTS) == set()
    assert set(TEXTS) - used == set()


@pytest.mark.parametrize("tag", [tag for tag in LANGUAGES if tag != DEFAULT])
def test_what_a_job_said_is_found_again(tag: str) -> None:
    for key in TEXTS:
        for count in (1, 2, 21, 1_200) if key.startswith(("said.", "what.")) else ():
            values = sample(TEXTS[key][DEFAULT], count)
            said = say(key, **values)
            assert said_with(said) == key
            further = {name: texts(tag).translate(values[name]) for name in ("why", "what") if name in values}
            assert texts(tag).translate(said) == texts(tag)(key, **values | further)


@pytest.mark.parametrize("said", ["", "Something else entirely.", "x" * (MAX_SAID + 1), "it is it is it is"])
def test_what_nobody_here_said_stays_as_it_is(said: str) -> None:
    assert texts("ja").translate(said) == said or said.startswith("it is")
    assert texts(DEFAULT).translate(said) == said


@given(st.text(max_size=300))
def test_no_name_of_a_file_breaks_it(name: str) -> None:
    said = say("said.not-image", name=name, why=say("said.no-image"))
    for tag in LANGUAGES:
        assert texts(tag).translate(said)


@pytest.mark.parametrize(
    ("count", "form"),
    [
        *((number, "one") for number in (1, 21, 31, 101, 1001)),
        *((number, "few") for number in (2, 3, 4, 22, 34, 104)),
        *((number, "many") for number in (0, 5, 11, 12, 13, 14, 20, 25, 111, 112)),
    ],
)
def test_russian_counts(count: int, form: str) -> None:
    assert LANGUAGES["ru"].plural(count) == form
    ending = {"one": "файл", "few": "файла", "many": "файлов"}[form]
    assert texts("ru")("page.several", count=count).endswith(ending)


def test_other_counts() -> None:
    assert [texts("en")("page.several", count=count) for count in (0, 1, 2, 1200)] == [
        "0 files",
        "1 file",
        "2 files",
        "1,200 files",
    ]
    assert texts("ja")("page.several", count=1) == "1 個のファイル"
    assert LANGUAGES["ru"].plural(1.5) == "other"


@pytest.mark.parametrize(
    ("size", "english", "russian"),
    [
        (0, "0 kB", "0 кБ"),
        (1, "1 kB", "1 кБ"),
        (39_400, "39 kB", "39 кБ"),
        (940_000, "940 kB", "940 кБ"),
        (999_999, "1 MB", "1 МБ"),
        (1_000_000, "1 MB", "1 МБ"),
        (2_540_000, "2.5 MB", "2,5 МБ"),
        (256_000_000, "256 MB", "256 МБ"),
        (1_234_000_000, "1.23 GB", "1,23 ГБ"),
    ],
)
def test_sizes(size: int, english: str, russian: str) -> None:
    assert LANGUAGES["en"].size(size) == english
    assert LANGUAGES["ru"].size(size) == russian
    assert texts("ru").translate(say("said.too-large", size=size)) == texts("ru")("said.too-large", size=size)


@pytest.mark.parametrize(
    ("accept", "tag"),
    [
        (None, "en"),
        ("", "en"),
        ("ja", "ja"),
        ("ja-JP,en;q=0.8", "ja"),
        ("de,fr", "en"),
        ("de, ru;q=0.5, en;q=0.4", "ru"),
        ("en;q=0.4, RU;q=0.5", "ru"),
        ("ru,ja", "ru"),
        ("zh", "zh-Hans"),
        ("zh-CN", "zh-Hans"),
        ("zh-SG,en", "zh-Hans"),
        ("zh-TW,zh;q=0.9,en;q=0.8", "zh-Hant"),
        ("zh-HK", "zh-Hant"),
        ("zh-Hant", "zh-Hant"),
        ("zh-Hans-HK", "zh-Hans"),
        ("ja;q=0", "en"),
        ("ja;q=x,ru;q=0.1", "ru"),
        ("ja;q=nan", "en"),
        ("*", "en"),
        (",;q=,;;,", "en"),
        ("x" * 100_000 + ",ja", "en"),
    ],
)
def test_the_language_that_a_browser_asks_for(accept: str | None, tag: str) -> None:
    assert choose(None, None, accept=accept) == tag


def test_what_a_visitor_chose_comes_first() -> None:
    assert choose("ru", "ja", accept="zh") == "ru"
    assert choose(None, "ja", accept="zh") == "ja"
    assert choose("xx", "../../etc", accept="zh") == "zh-Hans"

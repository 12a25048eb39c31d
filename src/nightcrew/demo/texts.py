"""What the sample says, in each of its languages: one catalogue, `texts.toml`, and who is spoken to in which.

Jobs and refusals speak English (`say`), because what they say is stored, and read by operators too. Pages show it
in the visitor's language: `Texts.translate` finds the text of the catalogue that an English sentence was made from.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

from msgspec import Struct

Forms = Mapping[str, str]
"""A text by plural category; a text that does not depend on a count has `other` only."""

SIZES = ((10**9, 2), (10**6, 1), (10**3, 0))
"""A gigabyte, megabyte and kilobyte, and to how many digits each is told at most."""
MAX_HEADER = 1_000
"""Characters of `Accept-Language` that are looked at."""
MAX_SAID = 2_000
"""Characters of a sentence that is translated; ours are shorter."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SIZE = re.compile(r"(\d[\d,]*(?:\.\d+)?) (kB|MB|GB)")
_FURTHER = frozenset({"why", "what"})
"""Placeholders that hold texts of the catalogue themselves."""
_READ = ("said.", "what.")
"""Sections whose English is stored, and so must be found again."""


class Language(Struct, frozen=True):
    """One of the languages, and how it writes numbers."""

    tag: str
    name: str
    """In the language itself."""
    plurals: tuple[str, ...]
    thousands: str = ","
    point: str = "."
    units: tuple[str, str, str] = ("GB", "MB", "kB")

    def plural(self, count: float) -> str:
        """The category of a count, as the Unicode project's tables have it."""
        if self.plurals == ("other",):
            return "other"
        if self.plurals == ("one", "other"):
            return "one" if count == 1 else "other"
        if count != int(count):
            return "other"
        ones, tens = int(count) % 10, int(count) % 100
        if ones == 1 and tens != 11:
            return "one"
        return "few" if 2 <= ones <= 4 and not 12 <= tens <= 14 else "many"

    def number(self, value: float) -> str:
        """A number as it is written; no digits that say nothing."""
        text = f"{int(value):,}" if value == int(value) else f"{value:,}"
        return text.translate({ord(","): self.thousands, ord("."): self.point})

    def size(self, size: float) -> str:
        """A number of bytes, rounded; what is not nothing has 1 kB at least."""
        for (factor, digits), unit in zip(SIZES[:-1], self.units, strict=False):
            if (rounded := round(size / factor, digits)) >= 1:
                return f"{self.number(rounded)} {unit}"
        return f"{self.number(max(round(size / SIZES[-1][0]), min(size, 1)))} {self.units[-1]}"


LANGUAGES = {
    language.tag: language
    for language in (
        Language("en", "English", ("one", "other")),
        Language("ja", "日本語", ("other",)),
        Language("ru", "Русский", ("one", "few", "many"), "\N{NO-BREAK SPACE}", ",", ("ГБ", "МБ", "кБ")),
        Language("zh-Hans", "简体中文", ("other",)),
        Language("zh-Hant", "繁體中文", ("other",)),
    )
}
DEFAULT = "en"


class Texts:
    """The catalogue in one language: ``texts("page.hint", size=256_000_000)``."""

    def __init__(self, tag: str) -> None:
        self.language = LANGUAGES[tag]
        self._texts = _catalogue()[tag]

    @property
    def tag(self) -> str:
        """The language, as the attribute `lang` names it."""
        return self.language.tag

    def __call__(self, key: str, /, **values: object) -> str:
        """One text with its placeholders filled. Raises `KeyError` for a text or value that is not there."""
        forms = self._texts[key]
        count = values.get("count")
        form = self.language.plural(count) if isinstance(count, int | float) else "other"
        # Of a text without plurals there is one form only; of one with, "other" may be for fractions.
        text = forms.get(form) or forms.get("other") or forms["many"]
        return _PLACEHOLDER.sub(lambda found: self._shown(found[1], values[found[1]]), text)

    def _shown(self, name: str, value: object) -> str:
        if isinstance(value, int | float):
            return self.language.size(value) if name == "size" else self.language.number(value)
        return str(value)

    def translate(self, said: str) -> str:
        """What `say` once said, in this language; anything else as it is."""
        found = None if self.tag == DEFAULT else _origin(said)
        if found is None:
            return said
        key, values = found
        return self(key, **{name: self._read(name, text) for name, text in values.items()})

    def _read(self, name: str, text: str) -> object:
        if name in _FURTHER:
            return self.translate(text)
        if name == "size" and (found := _SIZE.fullmatch(text)):
            factor = dict(zip(LANGUAGES[DEFAULT].units, SIZES, strict=True))[found[2]][0]
            return float(found[1].replace(",", "")) * factor
        if name not in ("name", "detail") and _NUMBER.fullmatch(text):
            number = float(text.replace(",", ""))
            return int(number) if number.is_integer() else number
        return text

    def forms(self, keys: Iterable[str]) -> dict[str, Forms]:
        """Texts with their placeholders, for the modules in the browser."""
        return {key: self._texts[key] for key in keys}


@cache
def texts(tag: str) -> Texts:
    """The catalogue in one of `LANGUAGES`."""
    return Texts(tag)


def say(key: str, /, **values: object) -> str:
    """A text of the section `said` or `what` in English, as it is stored."""
    return texts(DEFAULT)(key, **values)


def said_with(said: str) -> str | None:
    """The key of the text that an English sentence was made from; None for any other sentence."""
    found = _origin(said)
    return found[0] if found else None


def _origin(said: str) -> tuple[str, dict[str, str]] | None:
    for pattern, key in _patterns() if len(said) <= MAX_SAID else ():
        if found := pattern.fullmatch(said):
            return key, found.groupdict()
    return None


def choose(*wanted: str | None, accept: str | None = None) -> str:
    """The language to speak: the first of `wanted` that there is, else what Accept-Language likes best."""
    for tag in wanted:
        if tag in LANGUAGES:
            return tag
    liked: list[tuple[float, str]] = []
    for part in (accept or "")[:MAX_HEADER].split(","):
        tag, _, rest = part.strip().partition(";")
        if known := _nearest(tag.strip().lower()):
            liked.append((_weight(rest), known))
    # Of equals, the first one named.
    best = max(liked, key=lambda pair: pair[0], default=(0.0, DEFAULT))
    return best[1] if best[0] > 0 else DEFAULT


def _nearest(tag: str) -> str | None:
    primary, *subtags = tag.split("-")
    if primary == "zh":
        if "hans" in subtags:
            return "zh-Hans"
        return "zh-Hant" if {"hant", "tw", "hk", "mo"}.intersection(subtags) else "zh-Hans"
    return primary if primary in LANGUAGES else None


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return min(float(value), 1.0)
    except ValueError:
        return 0.0


@cache
def _catalogue() -> Mapping[str, Mapping[str, Forms]]:
    """Every text: by language, then by its name."""
    sections = tomllib.loads(files("nightcrew.demo").joinpath("texts.toml").read_text("utf-8"))
    found: dict[str, dict[str, Forms]] = {tag: {} for tag in LANGUAGES}
    for section, entries in sections.items():
        for name, languages in entries.items():
            for tag, text in languages.items():
                found[tag][f"{section}.{name}"] = text if isinstance(text, dict) else {"other": text}
    return found


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """What each stored text can have become, the most telling first."""
    made: list[tuple[int, re.Pattern[str], str]] = []
    for key, forms in _catalogue()[DEFAULT].items():
        for text in forms.values() if key.startswith(_READ) else ():
            parts = _PLACEHOLDER.split(text)
            literal = sum(len(part) for part in parts[::2])
            pattern = "".join(
                f"(?P<{part}>.+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts)
            )
            made.append((literal, re.compile(pattern, re.DOTALL), key))
    made.sort(key=lambda entry: entry[0], reverse=True)
    return [(pattern, key) for _, pattern, key in made]

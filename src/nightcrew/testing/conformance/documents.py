"""Documents: compare and set, by whoever comes first."""

from __future__ import annotations

import asyncio

import pytest

from nightcrew.client import new_id
from nightcrew.engine import Engine, Topic
from nightcrew.errors import ConfigurationError, LimitExceeded, VersionConflict
from nightcrew.testing.conformance.stage import Store

KIND = "thing"


async def value_of(engine: Engine, key: str, kind: str = KIND) -> bytes | None:
    """What a document holds; None where there is none."""
    [found] = await engine.load(kind, [key])
    return None if found is None else found.value


@pytest.mark.asyncio
class DocumentsSuite:
    async def test_a_document_is_kept_as_it_is(self, store: Store) -> None:
        engine = await store.engine()
        value = '{"b": 1, "a": [1.50, null, "\\u0000 naughty \\" 🦊"], "b": 2}'.encode()
        version = await engine.save(KIND, "one", value)
        assert version > 0
        [found] = await (await store.engine()).load(KIND, ["one"])
        assert found is not None
        assert (found.kind, found.key, found.version, found.value) == (KIND, "one", version, value)
        assert found.changed_at == pytest.approx(store.clock.wall(), abs=0.001)

    async def test_they_are_found_by_kind_and_key_in_the_order_asked(self, store: Store) -> None:
        engine = await store.engine()
        await engine.save(KIND, "a", b"1")
        await engine.save("other", "b", b"2")
        await engine.save(KIND, "b", b"3")
        found = await engine.load(KIND, ["b", "missing", "a", "b"])
        assert [document and document.value for document in found] == [b"3", None, b"1", b"3"]
        assert await engine.load(KIND, []) == []

    async def test_only_the_first_of_two_that_have_seen_the_same_writes(self, store: Store) -> None:
        engine, other = await store.engine(), await store.engine()
        version = await engine.save(KIND, "one", b"1")
        second = await other.save(KIND, "one", b"2", version)
        with pytest.raises(VersionConflict) as refused:
            await engine.save(KIND, "one", b"3", version)
        conflict = refused.value
        assert (conflict.kind, conflict.key, conflict.expected, conflict.version) == (
            KIND,
            "one",
            version,
            second,
        )
        assert await value_of(engine, "one") == b"2"
        store.clock.advance(1)
        await engine.save(KIND, "one", b"3", second)
        [found] = await engine.load(KIND, ["one"])
        assert found is not None
        assert found.changed_at == pytest.approx(store.clock.wall(), abs=0.001)

    async def test_what_must_be_new_is_refused_where_there_is_one(self, store: Store) -> None:
        engine = await store.engine()
        await engine.save(KIND, "one", b"1", 0)
        with pytest.raises(VersionConflict):
            await engine.save(KIND, "one", b"2", 0)
        with pytest.raises(VersionConflict):
            await engine.save(KIND, "other", b"2", 1)
        assert await value_of(engine, "one") == b"1"
        assert await value_of(engine, "other") is None

    async def test_without_a_version_it_is_stored_whatever_is_there(self, store: Store) -> None:
        engine = await store.engine()
        versions = [await engine.save(KIND, "one", str(n).encode()) for n in range(3)]
        assert len(set(versions)) == 3
        assert await value_of(engine, "one") == b"2"

    async def test_deleted_is_gone_and_its_versions_are_not_given_again(self, store: Store) -> None:
        """Whoever has seen the one of before must not take the new one for it."""
        engine = await store.engine()
        version = await engine.save(KIND, "one", b"1")
        with pytest.raises(VersionConflict):
            await engine.save(KIND, "one", None, version + 1)
        assert await engine.save(KIND, "one", None, version) == 0
        assert await value_of(engine, "one") is None
        assert await engine.save(KIND, "one", None) == 0
        assert await engine.save(KIND, "one", None, 0) == 0
        with pytest.raises(VersionConflict):
            await engine.save(KIND, "one", None, version)
        assert await engine.save(KIND, "one", b"2", 0) != version
        with pytest.raises(VersionConflict):
            await engine.save(KIND, "one", b"3", version)

    @pytest.mark.parametrize("begun", [True, False])
    async def test_many_at_once_lose_no_change(self, store: Store, begun: bool) -> None:
        engines = [await store.engine() for _ in range(4)]
        if begun:
            await engines[0].save(KIND, "count", b"0")

        async def add(engine: Engine) -> None:
            for _ in range(10):
                while True:
                    [there] = await engine.load(KIND, ["count"])
                    count, version = (int(there.value), there.version) if there else (0, 0)
                    try:
                        await engine.save(KIND, "count", str(count + 1).encode(), version)
                        break
                    except VersionConflict:
                        continue

        await asyncio.gather(*map(add, engines))
        assert await value_of(engines[0], "count") == b"40"

    async def test_a_conflict_harms_nobody_who_writes_beside_it(self, store: Store) -> None:
        engine = await store.engine()
        await engine.save(KIND, "taken", b"1")
        calls = [engine.save(KIND, f"{n}" if n % 2 else "taken", b"2", 0) for n in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(answer, VersionConflict) for answer in answers] == [n % 2 == 0 for n in range(20)]
        assert len(await engine.documents(KIND)) == 11

    async def test_they_are_listed_by_key_in_pages_both_ways(self, store: Store) -> None:
        engine = await store.engine()
        keys = ["B", "a", "a.b", "b", "z", "ä", "🦊"]  # by their code points, on every store
        for key in reversed(keys):
            await engine.save(KIND, key, b"1")
        await engine.save("other", "c", b"1")
        for falling, wanted in ((False, keys), (True, keys[::-1])):
            seen: list[str] = []
            while page := await engine.documents(KIND, 3, after=seen[-1] if seen else None, falling=falling):
                assert len(page) <= 3
                seen += [document.key for document in page]
            assert seen == wanted
        assert await engine.documents("none") == []

    async def test_what_cannot_be_one_is_refused(self, store: Store) -> None:
        engine = await store.engine()
        for kind, key in ((KIND, ""), (KIND, "x" * 201), (KIND, "two\nlines"), (KIND, "\0"), ("a kind", "x")):
            with pytest.raises(ConfigurationError):
                await engine.save(kind, key, b"1")
            with pytest.raises(ConfigurationError):
                await engine.load(kind, [key])
        for value in (b"", b"{", b"text", b'"\xff"', rb'"\ud800"'):
            with pytest.raises(ConfigurationError):
                await engine.save(KIND, "one", value)
        await engine.save(KIND, "one", b'"%s"' % (b"x" * (engine.limits.inline_bytes - 2)))
        with pytest.raises(LimitExceeded):
            await engine.save(KIND, "one", b'"%s"' % (b"x" * (engine.limits.inline_bytes - 1)))
        with pytest.raises(LimitExceeded):
            await engine.load(KIND, [new_id() for _ in range(501)])
        for limit in (0, 501):
            with pytest.raises(ConfigurationError):
                await engine.documents(KIND, limit)

    async def test_what_directs_workers_wakes_them_and_nothing_else_does(self, store: Store) -> None:
        engine = await store.engine()
        async with (await store.engine()).wakeups([Topic.CONTROL]) as hints:
            await engine.save("session", "one", b"1")
            assert not await hints.wait(0.1)
            for kind in ("queue", "worker"):
                await engine.save(kind, "one", b"{}")
                assert await hints.wait(10)
                await engine.save(kind, "one", None)
                assert await hints.wait(10)

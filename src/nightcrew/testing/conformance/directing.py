"""What people decide about queues and workers: it reaches the workers with their heartbeat, and binds their claims."""

from __future__ import annotations

import msgspec
import pytest

from nightcrew.documents import Pause, Wanted, Wish
from nightcrew.engine import ClaimRequest, Engine
from nightcrew.testing.conformance.stage import LEASE, Hand, Store, put, won


async def pause(engine: Engine, queue: str, until: float | None = None) -> None:
    """Pause a queue."""
    await engine.save("queue", queue, msgspec.json.encode(Pause(paused=True, reason="why not", until=until)))


async def want(engine: Engine, hand: Hand, wish: Wish) -> None:
    """Ask a worker for something."""
    await engine.save("worker", hand.id, msgspec.json.encode(Wanted(wish)))


@pytest.mark.asyncio
class DirectingSuite:
    async def test_nothing_was_decided(self, store: Store) -> None:
        hand = await store.hand()
        directives = await hand.beat()
        assert (directives.paused, directives.wanted) == ((), None)
        assert (await hand.engine.stats()).paused == {}

    async def test_every_worker_hears_of_paused_queues_also_with_its_first_heartbeat(
        self, store: Store
    ) -> None:
        engine, hand = await store.engine(), await store.hand()
        for queue in ("mail", "default"):
            await pause(engine, queue)
        assert (await hand.beat()).paused == ("default", "mail")
        assert (await Hand(engine).beat()).paused == ("default", "mail")
        assert {queue: found.reason for queue, found in (await engine.stats()).paused.items()} == {
            "default": "why not",
            "mail": "why not",
        }
        await engine.save("queue", "mail", None)
        assert (await hand.beat()).paused == ("default",)

    async def test_a_pause_ends_by_itself(self, store: Store) -> None:
        hand = await store.hand()
        await pause(hand.engine, "mail", store.clock.wall() + 10)
        store.clock.advance(9)
        assert (await hand.beat()).paused == ("mail",)
        store.clock.advance(2)
        assert (await hand.beat()).paused == ()
        assert (await hand.engine.stats()).paused == {}

    async def test_a_note_that_cannot_be_read_harms_nobody(self, store: Store) -> None:
        hand = await store.hand()
        for value in (b"[1]", b'{"paused": "perhaps"}', b"null", b'{"until": 5}', b'"\\u0000"'):
            await hand.engine.save("queue", "mail", value)
            await hand.engine.save("worker", hand.id, value)
            directives = await hand.beat()
            assert (directives.paused, directives.wanted) == ((), None)

    async def test_a_claim_leaves_out_paused_queues(self, store: Store) -> None:
        hand = await store.hand()
        for queue in ("mail.a", "mail.b", "default"):
            await put(hand.engine, 2, queue=queue, priority=5 if queue == "mail.a" else 0)

        async def claimed(*paused: str) -> list[str]:
            request = ClaimRequest(hand.id, ("mail.*", "default"), ("work",), 2, paused)
            grants = (await hand.engine.claim(request)).grants
            await hand.applied(*map(won, grants))
            return [grant.queue for grant in grants]

        assert await claimed("mail.a", "mail.b") == ["default"] * 2
        assert await claimed("mail.a", "mail.b", "default") == []
        assert await claimed("mail.a") == ["mail.b"] * 2
        assert await claimed("default", "mail") == ["mail.a"] * 2

    async def test_what_waited_while_paused_is_claimed_however_often_it_was(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 3, queue="mail")
        for number in range(250):
            request = ClaimRequest(hand.id, ("*",), ("work",), 10, ("mail", f"other-{number}"))
            assert (await hand.engine.claim(request)).grants == []
        assert len(await hand.claim(queues=("*",))) == 3

    async def test_only_the_worker_that_is_meant_hears_what_is_wanted_of_it(self, store: Store) -> None:
        one, other = await store.hand(), await store.hand()
        await want(other.engine, one, Wish.QUIET)
        assert ((await one.beat()).wanted, (await other.beat()).wanted) == (Wish.QUIET, None)
        await want(other.engine, one, Wish.STOP)
        assert (await one.beat()).wanted is Wish.STOP
        await other.engine.save("worker", one.id, None)
        assert (await one.beat()).wanted is None

    async def test_what_was_wanted_of_a_worker_goes_with_it(self, store: Store) -> None:
        retired, dead, sweeper = await store.hand(), await store.hand(), await store.hand()
        for hand in (retired, dead, sweeper):
            await want(sweeper.engine, hand, Wish.QUIET)
        await sweeper.engine.retire(retired.id)
        store.clock.advance(LEASE + 1)
        await sweeper.beat()
        await sweeper.sweep()
        assert [document.key for document in await sweeper.engine.documents("worker")] == [sweeper.id]

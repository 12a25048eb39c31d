"""The suite that every engine must pass, whatever it stores jobs in. It knows only `nightcrew.engine.Engine`.

Take it over by subclassing, with one fixture that yields a fresh store::

    class TestMyEngine(EngineSuite):
        @pytest.fixture
        async def store(self, tmp_path):
            clock = ManualClock()
            async with Store(lambda: MyEngine(tmp_path / "jobs", clock=clock), clock) as store:
                yield store

Needs pytest and pytest-asyncio. An engine says what it cannot hold in `limits`; nothing is skipped by name.
"""

from nightcrew.testing.conformance.claim import ClaimSuite
from nightcrew.testing.conformance.crowd import CrowdSuite
from nightcrew.testing.conformance.directing import DirectingSuite
from nightcrew.testing.conformance.documents import DocumentsSuite
from nightcrew.testing.conformance.enqueue import EnqueueSuite
from nightcrew.testing.conformance.failures import FailuresSuite, NarrowSuite
from nightcrew.testing.conformance.finish import FinishSuite
from nightcrew.testing.conformance.look import LookSuite
from nightcrew.testing.conformance.people import PeopleSuite
from nightcrew.testing.conformance.rescue import RescueSuite
from nightcrew.testing.conformance.running import RunningSuite
from nightcrew.testing.conformance.stage import Hand, ManualClock, Store, StoreClock, a_job, wait_until
from nightcrew.testing.conformance.tallies import TalliesSuite
from nightcrew.testing.conformance.upkeep import UpkeepSuite

__all__ = ["EngineSuite", "Hand", "ManualClock", "Store", "StoreClock", "a_job", "wait_until"]


class EngineSuite(
    EnqueueSuite,
    ClaimSuite,
    FinishSuite,
    RunningSuite,
    RescueSuite,
    PeopleSuite,
    LookSuite,
    UpkeepSuite,
    CrowdSuite,
    DocumentsSuite,
    DirectingSuite,
    FailuresSuite,
    NarrowSuite,
    TalliesSuite,
):
    """Everything that is asked of an engine."""

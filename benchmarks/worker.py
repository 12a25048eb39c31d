"""One worker process of the benchmark's app, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal

import uvloop

from benchmarks.jobs import app
from nightcrew.worker import Worker


async def main() -> None:
    """Run a worker; SIGTERM stops it in stages."""
    worker = Worker(app)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()
    await app.aclose()


if __name__ == "__main__":
    uvloop.run(main())

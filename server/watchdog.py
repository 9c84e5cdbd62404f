"""Ends answers that wait for a stuck engine: its thread cannot tell them, and deadlines are kept by that same thread.

`/health` says the same to whoever watches from outside. A dead engine tells its requests itself.
"""

import asyncio

from basemlx.engine.errors import EngineUnavailable
from basemlx.server.disconnect import Watches
from basemlx.server.logs import log_thread, server_logger
from basemlx.server.service import Watched

INTERVAL_S = 1.0
ENGINE_THREAD = "basemlx-engine"


async def end_answers_when_stuck(engine: Watched, watches: Watches, interval_s: float = INTERVAL_S) -> None:
    """Looks every `interval_s` until cancelled. Says where the thread is when it gets stuck, and that it goes on."""
    was_stuck = False
    while True:
        await asyncio.sleep(interval_s)
        health = engine.health()
        if health.stuck:
            watches.end_all(EngineUnavailable(f"The engine does not answer: {health.reason}."))
        if health.stuck and not was_stuck:
            log_thread("the engine is stuck", ENGINE_THREAD)
        elif was_stuck and not health.stuck:
            server_logger.warning("the engine goes on")
        was_stuck = health.stuck

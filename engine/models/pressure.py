"""Notices that the machine runs short of memory while models are loaded, whoever takes it, and when that is over.

It looks when it is asked to, between turns, and at most once a second. Knows no model: what is given back,
and what is set anew afterwards, its owner does.
"""

import logging
from collections.abc import Callable

from basemlx.engine.memory import available_memory_bytes, device_memory_bytes

logger = logging.getLogger("basemlx.engine")

INTERVAL_S = 1.0

SHORT_SHARE = 0.04
"""Of the device's memory: with less than this left, what can be computed again is given back."""

EASED_SHARE = 0.08
"""With more than this left again, shares are set anew. Apart, so that it does not go back and forth."""


class MemoryPressure:
    """`relieve` is called while memory is short, `ease` once when it no longer is."""

    def __init__(
        self, relieve: Callable[[], None], ease: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._relieve = relieve
        self._ease = ease
        self._clock = clock
        self._looked_s = -INTERVAL_S
        self.is_short = False

    @property
    def is_due(self) -> bool:
        return self._clock() - self._looked_s >= INTERVAL_S

    def look(self) -> None:
        if not self.is_due:
            return
        self._looked_s = self._clock()
        left = available_memory_bytes() / device_memory_bytes()
        if left < SHORT_SHARE:
            if not self.is_short:
                logger.warning("memory is short left=%.1f%%: computed prefixes are given back", 100 * left)
            self.is_short = True
            self._relieve()
        elif self.is_short and left > EASED_SHARE:
            self.is_short = False
            self._ease()

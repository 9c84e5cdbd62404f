"""The engine thread's inbox, at the one moment when the thread posts to itself."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from basemlx.engine.core.thread import EngineThread


class InboxThatCollects(deque[Any]):
    """Reading it drops a stream, as Python's collector may at any moment: the stream posts its abort."""

    def __init__(self, drop: Callable[[], None]) -> None:
        super().__init__()
        self._drop = drop

    def __iter__(self) -> Iterator[Any]:
        items = super().__iter__()
        yield from [next(items) for _ in range(len(self))]
        drop, self._drop = self._drop, lambda: None
        drop()


def test_what_a_dropped_stream_posts_while_messages_are_taken_is_not_lost() -> None:
    thread = EngineThread(list, lambda worker, error: False, lambda: None)
    aborted, taken = threading.Event(), threading.Event()
    thread._inbox = InboxThatCollects(lambda: thread.post(aborted.set))
    thread.start()
    try:
        thread.post(taken.set)
        assert taken.wait(30)
        thread.call(lambda: None)  # whatever was posted before this has been read
        assert aborted.is_set()
    finally:
        assert thread.stop(timeout_s=30)

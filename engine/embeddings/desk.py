"""Takes embedding requests in for every loaded model that embeds: counts them, posts them, sees that each is answered.

It belongs to the engine and shares its thread. Which models are in memory is the pool's business; each request holds a
lease on its model until it is answered or given up. Callers may be on any thread.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from basemlx.engine.embeddings.loader import LoadedEmbedder
from basemlx.engine.embeddings.types import EmbeddingRequest, EmbeddingResult
from basemlx.engine.embeddings.worker import EmbeddingWorker, answer_error
from basemlx.engine.errors import BaseMLXError, QueueFull
from basemlx.engine.models.purpose import wrong_purpose

Post = Callable[[Callable[[], None]], None]
Release = Callable[[], None]


class EmbeddingDesk:
    """`post` puts a message into the engine thread's inbox; `max_open` is how many requests may be open at once."""

    def __init__(self, post: Post, max_open: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._post = post
        self._max_open = max_open
        self._clock = clock
        self._workers: dict[str, EmbeddingWorker] = {}
        self._open: set[Future[EmbeddingResult]] = set()
        self._changed = threading.Condition()

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def find(self, name: str) -> LoadedEmbedder | None:
        worker = self._workers.get(name)
        return None if worker is None else worker.loaded

    def model(self, name: str) -> LoadedEmbedder:
        """The loaded model. Raises InvalidRequest for one that does not embed."""
        found = self.find(name)
        if found is None:
            raise wrong_purpose(name, "embed")
        return found

    def submit(
        self, request: EmbeddingRequest, timeout_s: float, release: Release
    ) -> "Future[EmbeddingResult]":
        """The vectors, as a future that may be cancelled. `release` is called once it is answered or given up. Raises
        QueueFull, or what `post` raises; `release` is not called then."""
        future: Future[EmbeddingResult] = Future()
        worker = self._workers[request.model]
        with self._changed:
            if len(self._open) >= self._max_open:
                raise QueueFull(
                    f"{len(self._open)} embedding requests are waiting, as many as are allowed. Try again later.",
                    retry_after_s=1,
                )
            self._open.add(future)
        now_s = self._clock()
        try:
            self._post(lambda: worker.submit(request, future, now_s, now_s + timeout_s))
        except BaseException:
            self._close(future)
            raise

        def ended(done: "Future[EmbeddingResult]") -> None:
            self._close(done)
            release()

        future.add_done_callback(ended)
        return future

    def _close(self, future: "Future[EmbeddingResult]") -> None:
        with self._changed:
            self._open.discard(future)
            self._changed.notify_all()

    @property
    def num_open(self) -> int:
        return len(self._open)

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until every request is answered; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def fail_open(self, error: BaseMLXError) -> None:
        """Answers whatever is open with `error`: nobody will compute it any more."""
        with self._changed:
            futures = list(self._open)
        for future in futures:
            answer_error(future, error)

    # on the engine thread

    def workers(self) -> list[EmbeddingWorker]:
        return list(self._workers.values())

    def add(self, loaded: LoadedEmbedder) -> None:
        self._workers[loaded.info.name] = EmbeddingWorker(loaded, self._clock)

    def drop(self, name: str, error: BaseMLXError) -> int:
        """Forgets a model, which nobody should be waiting for; how many steps it took in its life."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return 0
        worker.fail_all(error)
        return worker.num_steps

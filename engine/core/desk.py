"""Takes requests for tokens in: checks each against its model, counts it, posts it, and sees that it is answered.

It belongs to the engine and shares its thread. Which models are in memory is the pool's business; each request holds a
lease on its model until it ends. Callers may be on any thread. The same for vectors is `engine.embeddings.desk`.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.report import FinishedRequest
from basemlx.engine.core.stream import Mailbox
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.errors import (
    BaseMLXError,
    ContextLengthExceeded,
    EngineDead,
    GenerationFailed,
    InvalidRequest,
    QueueFull,
)
from basemlx.engine.models.keeper import ModelLease
from basemlx.engine.types import GenerationRequest, Timings, Usage

logger = logging.getLogger("basemlx.engine")

Post = Callable[[Callable[[], None]], None]
Observer = Callable[[FinishedRequest], None]

NO_TIMINGS = Timings(0.0, None, 0.0, None)


@dataclass(frozen=True, slots=True)
class _Open:
    """A request that is not finished, and its hold on its model."""

    request: GenerationRequest
    mailbox: Mailbox
    lease: ModelLease


class GenerationDesk:
    """`post` puts a message into the engine thread's inbox. `refuse` raises while no new requests are taken; `observer`
    is told of every finished one, on the engine thread."""

    def __init__(
        self,
        post: Post,
        config: EngineConfig,
        refuse: Callable[[], None],
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._post = post
        self._config = config
        self._refuse = refuse
        self._observer = observer
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._rows = 0
        self._recent_s: deque[float] = deque(maxlen=32)
        self._changed = threading.Condition()
        self.totals: Counter[str] = Counter()  # tokens, by their names in Usage
        self.finished: Counter[str] = Counter()  # choices, by finish reason

    def submit(self, request: GenerationRequest, worker: ModelWorker, lease: ModelLease) -> Mailbox:
        """Where the answer will come. The lease is released when it has ended; not if this raises: InvalidRequest,
        ContextLengthExceeded, QueueFull, or what `refuse` and `post` raise."""
        max_tokens = self._checked_max_tokens(request, worker)
        now_s = self._clock()
        timeout_s = self._config.request_timeout_s if request.timeout_s is None else request.timeout_s
        mailbox = Mailbox()
        with self._changed:
            self._refuse()
            rows = request.sampling.n
            if self._rows + rows > self._config.max_open:
                raise QueueFull(
                    f"{len(self._open)} requests are running or waiting, as many as are allowed. Try again later.",
                    retry_after_s=self._retry_after_s(),
                )
            if request.request_id in self._open:
                raise InvalidRequest(
                    f"A request {request.request_id!r} is running already.", param="request_id"
                )
            self._open[request.request_id] = _Open(request, mailbox, lease)
            self._rows += rows
        try:
            self._post(lambda: self._accept(worker, request, mailbox, max_tokens, now_s, now_s + timeout_s))
        except EngineDead:
            self._count_out(request.request_id)
            raise
        return mailbox

    def model_of(self, request_id: str) -> str | None:
        """The model that an open request runs on; None for one that has ended."""
        entry = self._open.get(request_id)
        return None if entry is None else entry.lease.name

    @property
    def num_rows(self) -> int:
        """Choices of all open requests, running and waiting."""
        return self._rows

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until every request has ended; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def fail_open(self, error: BaseMLXError) -> None:
        """Ends whatever is open with `error`: nobody will compute it any more."""
        with self._changed:
            entries = list(self._open.values())
        for entry in entries:
            entry.mailbox.finish(Usage(len(entry.request.prompt_token_ids)), NO_TIMINGS, error)
            self._count_out(entry.request.request_id)

    def ended(self, request_id: str) -> None:
        """For a request that its worker will say nothing of any more."""
        self._count_out(request_id)

    def _checked_max_tokens(self, request: GenerationRequest, worker: ModelWorker) -> int:
        sampling, prompt = request.sampling, request.prompt_token_ids
        loaded = worker.loaded
        if not prompt:
            raise InvalidRequest("The prompt has no tokens.", param="prompt")
        if min(prompt) < 0 or max(prompt) >= loaded.vocab_size:
            raise InvalidRequest(f"Token ids must be between 0 and {loaded.vocab_size - 1}.", param="prompt")
        if any(
            not 0 <= token < loaded.vocab_size for token in (*sampling.logit_bias, *sampling.stop_token_ids)
        ):
            field_name = "logit_bias" if sampling.logit_bias else "stop_token_ids"
            raise InvalidRequest(
                f"Token ids must be between 0 and {loaded.vocab_size - 1}.", param=field_name
            )
        if request.timeout_s is not None and not (math.isfinite(request.timeout_s) and request.timeout_s > 0):
            raise InvalidRequest("timeout must be a positive number of seconds.", param="timeout")
        if sampling.n > self._config.max_num_sequences:
            raise InvalidRequest(f"n must be at most {self._config.max_num_sequences} here.", param="n")
        room = loaded.context_tokens - len(prompt)
        wanted = sampling.max_tokens
        if room < 1 or (wanted is not None and wanted > room):
            asked = f" and {wanted} more were asked for" if wanted is not None else ""
            raise ContextLengthExceeded(
                f"The model's context holds {loaded.context_tokens} tokens; the prompt has {len(prompt)}{asked}. "
                "Shorten the prompt or ask for fewer tokens.",
                param="max_tokens" if room >= 1 else "prompt",
            )
        if not worker.scheduler.fits(sampling.n, len(prompt) + 1):
            raise ContextLengthExceeded(
                "The prompt does not fit the memory that is set aside for KV caches. Shorten it, or raise the budget.",
                param="prompt",
            )
        return wanted if wanted is not None else room

    def _retry_after_s(self) -> int:
        """When a row is likely to be free: mean time a request took of late over the rows that run."""
        recent = list(self._recent_s)
        if not recent:
            return 1
        return max(1, min(60, math.ceil(sum(recent) / len(recent) / self._config.max_num_sequences)))

    # on the engine thread

    def _accept(
        self,
        worker: ModelWorker,
        request: GenerationRequest,
        mailbox: Mailbox,
        max_tokens: int,
        submitted_s: float,
        deadline_s: float,
    ) -> None:
        try:
            worker.submit(request, mailbox, max_tokens, submitted_s, deadline_s)
        except Exception as error:
            failure = error if isinstance(error, BaseMLXError) else None
            if failure is None:  # its message may quote the request: not for the log, nor for the client
                logger.error("a request failed id=%s exception=%s", request.request_id, type(error).__name__)
                logger.debug("a request failed id=%s", request.request_id, exc_info=error)
                failure = GenerationFailed("The request failed before its first step. The log says more.")
            self._count_out(request.request_id)
            mailbox.finish(Usage(), NO_TIMINGS, failure)

    def on_finished(self, finished: FinishedRequest) -> None:
        """What a worker tells of a request that has ended."""
        self._recent_s.append(finished.timings.elapsed_ms / 1e3)
        self.totals["prompt_tokens"] += finished.usage.prompt_tokens
        self.totals["completion_tokens"] += finished.usage.completion_tokens
        self.totals["cached_tokens"] += finished.usage.cached_tokens
        self.finished.update(finished.finish_reasons)
        self._count_out(finished.request_id)
        if self._observer is not None:
            self._observer(finished)

    def _count_out(self, request_id: str) -> None:
        with self._changed:
            entry = self._open.pop(request_id, None)
            if entry is not None:
                self._rows -= entry.request.sampling.n
            if not self._open:
                self._changed.notify_all()
        if entry is not None:
            entry.lease.release()

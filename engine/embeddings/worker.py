"""One loaded embedding model at work: takes requests, computes one batch a turn, answers futures.

Everything here runs on the engine thread, except that a future may be cancelled anywhere: its request is dropped before
the next batch. A turn is one forward of bounded size, so that models that generate get theirs in between. Inputs of
several requests share a batch; within a request the longest go first, so rows of a batch are about as long.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import numpy as np

from basemlx.engine.embeddings.lanes import num_lanes
from basemlx.engine.embeddings.loader import LoadedEmbedder
from basemlx.engine.embeddings.matryoshka import cut
from basemlx.engine.embeddings.types import MAX_BATCH_TOKENS, EmbeddingRequest, EmbeddingResult, Vectors
from basemlx.engine.errors import BaseMLXError, DeadlineExceeded, GenerationFailed

logger = logging.getLogger("basemlx.engine")

TURN_S = 0.1
"""How long a batch should take: what a generating model beside waits for its next token."""

MIN_BATCH_TOKENS = 64


class BatchSize:
    """Padded tokens that a batch may have, learnt from what batches took. Grows at most twofold a batch."""

    def __init__(self) -> None:
        self.tokens = MIN_BATCH_TOKENS

    def observe(self, num_tokens: int, elapsed_s: float) -> None:
        fitting = int(num_tokens / max(elapsed_s, 1e-6) * TURN_S)
        self.tokens = max(MIN_BATCH_TOKENS, min(fitting, 2 * self.tokens, MAX_BATCH_TOKENS))


@dataclass(slots=True)
class EmbeddingJob:
    """A request in progress. `left` holds the indices of inputs that are not computed, the longest at its end."""

    request: EmbeddingRequest
    future: "Future[EmbeddingResult]"
    submitted_s: float
    deadline_s: float
    vectors: Vectors
    left: list[int] = field(init=False)
    num_done: int = 0

    def __post_init__(self) -> None:
        rows = self.request.token_ids
        self.left = sorted(range(len(rows)), key=lambda index: len(rows[index]))


class EmbeddingWorker:
    """Fits `engine.core.thread.Steps`."""

    def __init__(self, loaded: LoadedEmbedder, clock: Callable[[], float] = time.monotonic) -> None:
        self.loaded = loaded
        self.num_steps = 0
        self._clock = clock
        self._jobs: deque[EmbeddingJob] = deque()
        self._size = BatchSize()

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def submit(
        self,
        request: EmbeddingRequest,
        future: "Future[EmbeddingResult]",
        submitted_s: float,
        deadline_s: float,
    ) -> None:
        vectors = np.empty((len(request.token_ids), self.loaded.dimensions), dtype=np.float32)
        self._jobs.append(EmbeddingJob(request, future, submitted_s, deadline_s, vectors))

    def step(self) -> None:
        """One batch, and the answers that it completes."""
        self._drop_ended()
        batch = self._next_batch()
        if not batch:
            return
        started_s = time.perf_counter()
        rows = [job.request.token_ids[index] for job, index in batch]
        found = self.loaded.vectors(rows)
        self._size.observe(len(rows) * max(map(len, rows)), time.perf_counter() - started_s)
        for vector, (job, index) in zip(found, batch, strict=True):
            job.vectors[index] = vector
            job.num_done += 1
        for job in [job for job in self._jobs if job.num_done == len(job.vectors)]:
            self._jobs.remove(job)
            self._finish(job)
        self._jobs.rotate(-1)  # the next turn begins with another request
        self.num_steps += 1

    def fail_all(self, error: BaseMLXError) -> None:
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            answer_error(job.future, error)

    def recover(self, error: BaseMLXError) -> bool:
        """After a failed step: every request ends with `error`, and a short input is tried; whether that worked."""
        self.fail_all(error)
        try:
            self.loaded.vectors([[0]])
        except Exception:
            logger.exception("the device does not recover")
            return False
        return True

    def _drop_ended(self) -> None:
        now_s = self._clock()
        for job in list(self._jobs):
            if job.future.cancelled():
                self._jobs.remove(job)
            elif now_s > job.deadline_s:
                self._jobs.remove(job)
                late = DeadlineExceeded("The request's deadline passed before all inputs were embedded.")
                answer_error(job.future, late)

    def _next_batch(self) -> list[tuple[EmbeddingJob, int]]:
        """Inputs for one forward, at least one: the first request's longest, then whatever fits beside it."""
        batch: list[tuple[EmbeddingJob, int]] = []
        width = 0
        for job in self._jobs:
            while job.left:
                wider = max(width, len(job.request.token_ids[job.left[-1]]))
                rows = len(batch) + 1
                if batch and (rows * wider > self._size.tokens or rows > self.loaded.max_rows(wider)):
                    break
                batch.append((job, job.left.pop()))
                width = wider
        spare = len(batch) % num_lanes()
        if spare < len(batch) and any(
            job.left for job in self._jobs
        ):  # else one core waits for another's last row
            for job, index in reversed(batch[len(batch) - spare :]):
                job.left.append(index)
            del batch[len(batch) - spare :]
        return batch

    def _finish(self, job: EmbeddingJob) -> None:
        request, vectors = job.request, job.vectors
        if not np.isfinite(vectors).all():
            answer_error(job.future, GenerationFailed("The model gave vectors that are not finite numbers."))
            return
        if request.dimensions is not None and request.dimensions < vectors.shape[1]:
            vectors = cut(vectors, request.dimensions)
        elapsed_s = self._clock() - job.submitted_s
        logger.info(
            "embed done id=%s model=%s inputs=%d prompt_tokens=%d elapsed_ms=%.1f tok_s=%.1f",
            request.request_id,
            request.model,
            len(vectors),
            request.prompt_tokens,
            elapsed_s * 1e3,
            request.prompt_tokens / max(elapsed_s, 1e-6),
        )
        try:
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(EmbeddingResult(vectors, request.prompt_tokens))
        except InvalidStateError:
            pass  # answered with an error meanwhile


def answer_error(future: "Future[EmbeddingResult]", error: BaseMLXError) -> None:
    """Unless it was answered or given up."""
    try:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
    except InvalidStateError:
        pass

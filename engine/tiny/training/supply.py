"""Training sequences from worker processes, made while training runs.

When the workers fall behind, sequences seen a while ago are used again, each a few times at most, rather than waiting.
Which sequences come, and in which order, depends on the workers' speed; what each worker makes depends on its seed
alone. Knows tokens, not models.
"""

import multiprocessing
import os
import queue
import random
import time
from multiprocessing.queues import Queue
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from basemlx.engine.tiny.training.packing import Encoder, sequences

Chunk = tuple[NDArray[np.uint16], NDArray[np.bool_]]

CHUNK_SEQUENCES = 16
_MOST_USES = 3
_OLD_ENOUGH, _MOST_KEPT = 200, 2000
_ALIVE_CHECK_S = 10.0


def produce(
    out: "Queue[Chunk]", tokenizer: str, seed: int, length: int, long_share: float, size: int
) -> None:
    """A worker: puts chunks of `size` sequences until it is ended."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    source = sequences(Encoder(Tokenizer.from_file(tokenizer)), seed, length, long_share)
    while True:
        made = [next(source) for _ in range(size)]
        out.put((np.stack([tokens for tokens, _ in made]), np.stack([counted for _, counted in made])))


class Supply:
    """Batches from the workers. `start_method`: "fork" is quick but must come before a GPU's or MLX's start."""

    def __init__(
        self,
        tokenizer: str,
        seed: int,
        length: int,
        long_share: float,
        workers: int,
        start_method: Literal["fork", "spawn"],
        chunk_sequences: int = CHUNK_SEQUENCES,
    ) -> None:
        fork, spawn = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
        context = fork if start_method == "fork" else spawn
        self.queue: Queue[Chunk] = context.Queue(256)
        self.used_again = 0
        self.waited_s = 0.0
        self._chunk_sequences = chunk_sequences
        self._old: list[tuple[Chunk, int]] = []
        self._random = random.Random(seed)
        self.processes = [
            context.Process(
                target=produce,
                args=(self.queue, tokenizer, seed * 1000 + number, length, long_share, chunk_sequences),
                daemon=True,
            )
            for number in range(workers)
        ]
        for process in self.processes:
            process.start()

    def batch(self, wanted: int) -> Chunk:
        """`wanted` sequences: tokens, and which of them the loss counts, both [wanted, length]."""
        chunks = [self._chunk() for _ in range(-(-wanted // self._chunk_sequences))]
        tokens = np.concatenate([chunk[0] for chunk in chunks])[:wanted]
        counted = np.concatenate([chunk[1] for chunk in chunks])[:wanted]
        return tokens, counted

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        self.queue.close()
        self.queue.cancel_join_thread()

    def _chunk(self) -> Chunk:
        try:
            chunk = self.queue.get_nowait()
        except queue.Empty:
            if len(self._old) > _OLD_ENOUGH:
                return self._used_before()
            chunk = self._awaited()
        self._old.append((chunk, 1))
        if len(self._old) > _MOST_KEPT:
            self._old.pop(self._random.randrange(len(self._old)))
        return chunk

    def _used_before(self) -> Chunk:
        at = self._random.randrange(len(self._old))
        chunk, uses = self._old[at]
        self.used_again += 1
        if uses + 1 >= _MOST_USES:
            self._old[at] = self._old[-1]
            self._old.pop()
        else:
            self._old[at] = (chunk, uses + 1)
        return chunk

    def _awaited(self) -> Chunk:
        start = time.monotonic()
        while True:
            try:
                chunk = self.queue.get(timeout=_ALIVE_CHECK_S)
            except queue.Empty:
                if not any(process.is_alive() for process in self.processes):
                    raise RuntimeError("every process that makes training text has died") from None
                continue
            self.waited_s += time.monotonic() - start
            return chunk

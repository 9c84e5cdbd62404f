"""The only caller of a model: computes a batch of spans and samples, without waiting for the result.

It owns the KV rows and the prefix cache's copies of them; which rows run, and when, is the scheduler's business. A
launched step is a promise: its sampled tokens stay on the device and feed the next step's forward before anybody
reads them here.
"""

import logging
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, cast

from basemlx.engine.core.batch import Batch, Span
from basemlx.engine.core.sequence import Sequence
from basemlx.engine.kv.rows import KVRows, Segment
from basemlx.engine.runtime import mx
from basemlx.engine.sampling.sampler import Sampled, sample
from basemlx.engine.types import TokenLogprob

logger = logging.getLogger("basemlx.engine")

PROBE_ROW = 0  # sequence ids start at 1


@dataclass(slots=True)
class Launched:
    """A step on its way. `decode` holds (sequence, its epoch at launch) in the order of the sampled tokens."""

    batch: Batch
    decode: list[tuple[Sequence, int]]
    sampled: Sampled | None
    marker: mx.array | None  # what to wait for where nothing was sampled

    def wait(self) -> list[int]:
        """Blocks until the device is done; the sampled token of each decoding row."""
        if self.sampled is None:
            if self.marker is not None:
                mx.eval(self.marker)
            return []
        return cast("list[int]", self.sampled.tokens.tolist())

    def logprobs(self, index: int) -> TokenLogprob | None:
        return None if self.sampled is None else self.sampled.logprobs(index)


class ModelRunner:
    """Runs one model over its rows."""

    def __init__(self, model: Any, rows: KVRows) -> None:
        self._model = model
        self.rows = rows
        self._previous: Launched | None = None

    def launch(self, batch: Batch) -> Launched:
        """Starts the step and returns at once. Prompt chunks come first, so that their rows' memory is settled."""
        marker = self._prefill(batch.prefill) if batch.prefill else None
        decode: list[tuple[Sequence, int]] = []
        sampled = None
        if batch.decode:
            by_id = {sequence.sequence_id: sequence for sequence in batch.decode}
            order = [by_id[key] for key in self.rows.decode_order(list(by_id))]
            logits = self.rows.decode(
                self._model, [s.sequence_id for s in order], self._inputs(order)[:, None]
            )
            sampled = sample(logits[:, -1], [s.sampler for s in order], [s.num_sampled_tokens for s in order])
            decode = [(sequence, sequence.epoch) for sequence in order]
        mx.async_eval(
            *([marker] if marker is not None else []), *(sampled.arrays() if sampled is not None else [])
        )
        self._previous = Launched(batch, decode, sampled, marker)
        return self._previous

    def _prefill(self, spans: Seq[Span]) -> mx.array:
        """One forward for each run of rows that can share it; a small array that is ready when they are."""
        left = {span.sequence.sequence_id: span for span in spans}
        touched: list[mx.array] = []
        while left:
            keys = self.rows.group(list(left))
            chosen = [left.pop(key) for key in keys]
            width = max(span.count for span in chosen)
            padded = []
            for span in chosen:
                tokens = span.sequence.token_ids[span.start : span.start + span.count]
                padded.append(tokens + [0] * (width - span.count))
            inputs = mx.array(padded, dtype=mx.int32)
            touched = self.rows.prefill(self._model, keys, inputs, [span.count for span in chosen])
            mx.async_eval(touched)
        last = touched[-1]
        # A copy of one element: holding the array itself would keep the next step from updating it in place.
        return last[(0,) * (last.ndim - 1)][:1] + 0

    def _inputs(self, order: Seq[Sequence]) -> mx.array:
        """Each row's newest token, [B] int32: from the device where the previous step sampled it, else from here."""
        previous = self._previous
        positions = {}
        if previous is not None and previous.sampled is not None:
            positions = {s.sequence_id: i for i, (s, epoch) in enumerate(previous.decode) if epoch == s.epoch}
        if previous is None or previous.sampled is None or not any(s.num_pending for s in order):
            return mx.array([s.token_ids[-1] for s in order], dtype=mx.int32)
        on_device = previous.sampled.tokens
        picks = []
        known: list[int] = []
        for sequence in order:
            if sequence.num_pending:
                picks.append(positions[sequence.sequence_id])
            else:
                picks.append(len(previous.decode) + len(known))
                known.append(sequence.token_ids[-1])
        if known:
            on_device = mx.concatenate([on_device, mx.array(known, dtype=mx.int32)])
        if picks == list(range(on_device.shape[0])):
            return on_device
        return on_device[mx.array(picks, dtype=mx.int32)]

    def settle(self) -> None:
        """Waits for the device and forgets the last step. A thread that ends with work on its stream takes the process
        with it; an error that a failed step left behind surfaces here and has been told of already."""
        self._previous = None
        try:
            mx.synchronize()
        except RuntimeError:
            logger.warning("the device reported an error while it was settled", exc_info=True)

    def probe(self) -> None:
        """Computes one token in a row of its own. Raises what the device raises."""
        self.rows.open(PROBE_ROW, [], 1)
        try:
            mx.eval(self.rows.decode(self._model, self.rows.decode_order([PROBE_ROW]), mx.array([[0]])))
        finally:
            self.rows.close(PROBE_ROW)

    def rehearse(self) -> tuple[float, tuple[int, float], tuple[int, float]]:
        """Runs the model a few times for nobody: kernels are ready after it, and it is known what steps cost.

        Returns the seconds of a decode step, and (tokens, seconds) of two prompt forwards.
        """
        few, many = 4, 32
        self.rows.open(PROBE_ROW, [], 2 * few + many + 3)
        try:
            times: dict[int, float] = {}
            for count in (few, few, many):
                tokens = mx.array([[1] * count], dtype=mx.int32)
                start_s = time.perf_counter()
                mx.eval(self.rows.prefill(self._model, [PROBE_ROW], tokens, [count]))
                times[count] = time.perf_counter() - start_s
            decode_s = []
            for _ in range(3):
                start_s = time.perf_counter()
                mx.eval(self.rows.decode(self._model, self.rows.decode_order([PROBE_ROW]), mx.array([[1]])))
                decode_s.append(time.perf_counter() - start_s)
            return min(decode_s), (few, times[few]), (many, times[many])
        finally:
            self.rows.close(PROBE_ROW)

    def snapshot(self, sequence: Sequence, start: int, stop: int) -> Segment:
        """A copy of what is computed of a sequence, for the prefix cache."""
        return self.rows.snapshot(sequence.sequence_id, start, stop)

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
from basemlx.engine.core.pacer import LinearCost
from basemlx.engine.core.sequence import Sequence
from basemlx.engine.kv.rows import KVRows, Segment
from basemlx.engine.runtime import mx, prepare
from basemlx.engine.sampling.sampler import Sampled, sample
from basemlx.engine.types import TokenLogprob

logger = logging.getLogger("basemlx.engine")

PROBE_ROW = 0  # and below: sequence ids start at 1

CPU_REHEARSAL = (4, 4, 32)
COMPILED_REHEARSAL = (4, 4, 32, 32, 512, 512)
"""Tokens of the prompt forwards that are run at load, in this order; the last time of a size counts. The row that
decodes afterwards has as many as the first."""

SURE_REHEARSAL = 32
"""As many are run whatever the limit is."""


@dataclass(slots=True)
class Forward:
    """A step whose tokens have not been sampled yet.

    `spans` are the decoding rows in the order of `logits` [B, T, V]; `ready` are the indices of those that may be
    sampled, since their span reaches the last token there is.
    """

    batch: Batch
    spans: list[Span]
    ready: list[int]
    logits: mx.array | None
    marker: mx.array | None  # what to wait for where nothing is sampled


@dataclass(slots=True)
class Launched:
    """A step on its way. `decode` holds (sequence, its epoch at launch) in the order of the sampled tokens."""

    batch: Batch
    decode: list[tuple[Sequence, int]]
    sampled: Sampled | None
    marker: mx.array | None

    def wait(self) -> list[int]:
        """Blocks until the device is done; the sampled token of each row of `decode`."""
        if self.sampled is None:
            if self.marker is not None:
                mx.eval(self.marker)
            return []
        return cast(list[int], self.sampled.tokens.tolist())

    def logprobs(self, index: int) -> TokenLogprob | None:
        return None if self.sampled is None else self.sampled.logprobs(index)


class ModelRunner:
    """Runs one model over its rows."""

    def __init__(self, model: Any, rows: KVRows) -> None:
        self._model = model
        self.rows = rows
        self._previous: Launched | None = None
        self.computes_at_launch = prepare().device == "cpu"
        """MLX's CPU backend takes so few tasks ahead that launching returns when most is done."""

    def forward(self, batch: Batch) -> Forward:
        """Starts the step's forwards and returns at once. Rows that join the decoding ones move first: afterwards
        their memory would wait for the prompts' forward."""
        by_id = {span.sequence.sequence_id: span for span in batch.decode}
        keys = self.rows.decode_order(list(by_id)) if by_id else []
        spans = [by_id[key] for key in keys]
        if batch.prefill and not batch.layers.start:
            self._build(batch.prefill)
        marker = self._compute(batch.prefill, batch.layers)
        if not spans:
            return Forward(batch, [], [], None, marker)
        if batch.known:
            self._build(batch.known)
            self._compute(batch.known, range(self.rows.num_layers))
        logits = self.rows.decode(self._model, keys, self._inputs(spans), [span.count for span in spans])
        ready = [row for row, span in enumerate(spans) if span.count == _left(span)]
        return Forward(batch, spans, ready, logits, marker)

    @staticmethod
    def start(forward: Forward) -> None:
        """Has the device compute the forward before it is known how its rows are sampled."""
        arrays = [array for array in (forward.marker, forward.logits) if array is not None]
        mx.async_eval(*arrays)

    def sample(self, forward: Forward, rows: Seq[int], mask: mx.array | None = None) -> Launched:
        """Samples the given rows of a forward, each from the logits of its span's last token; returns at once.

        Their sequences count the sample as pending already (`Scheduler.launched`). `mask` is `sampler.sample`'s, one
        row for each of `rows`.
        """
        sampled = None
        sequences = [forward.spans[row].sequence for row in rows]
        if rows:
            assert forward.logits is not None
            lasts = [forward.spans[row].count - 1 for row in rows]
            positions = [sequence.num_sampled_tokens - 1 for sequence in sequences]
            logits = _at(forward.logits, rows, lasts)
            sampled = sample(logits, [sequence.sampler for sequence in sequences], positions, mask)
        marker = forward.marker
        if sampled is None and forward.logits is not None:
            marker = forward.logits[0, 0, :1]
        arrays = sampled.arrays() if sampled is not None else []
        mx.async_eval(*([marker] if marker is not None else []), *arrays)
        decode = [(sequence, sequence.epoch) for sequence in sequences]
        self._previous = Launched(forward.batch, decode, sampled, marker)
        return self._previous

    def _build(self, spans: Seq[Span]) -> None:
        """One forward without logits for each run of rows that can share it; nothing is computed yet."""
        left = {span.sequence.sequence_id: span for span in spans}
        while left:
            keys = self.rows.group(list(left))
            chosen = [left.pop(key) for key in keys]
            width = max(span.count for span in chosen)
            padded = []
            for span in chosen:
                tokens = span.sequence.token_ids[span.start : span.start + span.count]
                padded.append(tokens + [0] * (width - span.count))
            inputs = mx.array(padded, dtype=mx.int32)
            self.rows.prefill(self._model, keys, inputs, [span.count for span in chosen])

    def _compute(self, spans: Seq[Span], layers: range) -> mx.array | None:
        """Has the device compute these layers of what was built; a small array that is ready when they are."""
        if not spans:
            return None
        held = self.rows.layers([span.sequence.sequence_id for span in spans])
        arrays = [array for layer in layers for array in held[layer]]
        mx.async_eval(arrays)
        # A copy of one element: holding an array itself would keep the next step from updating it in place.
        return arrays[-1][(0,) * (arrays[-1].ndim - 1)][:1] + 0 if arrays else None

    def _inputs(self, spans: Seq[Span]) -> mx.array:
        """The spans' tokens, right-padded, [B, T] int32. A token that is still on its way is taken from the device."""
        width = max(span.count for span in spans)
        known = []
        for span in spans:
            tokens = span.sequence.token_ids[span.start : span.start + span.count]
            known.append(tokens + [0] * (width - len(tokens)))
        pending = [row for row, span in enumerate(spans) if span.sequence.num_pending]
        if not pending:
            return mx.array(known, dtype=mx.int32)
        assert self._previous is not None
        assert self._previous.sampled is not None
        on_device = self._previous.sampled.tokens
        places = {
            sequence.sequence_id: place
            for place, (sequence, epoch) in enumerate(self._previous.decode)
            if epoch == sequence.epoch
        }
        picks = [places[spans[row].sequence.sequence_id] for row in pending]
        if picks != list(range(on_device.shape[0])):
            on_device = on_device[mx.array(picks, dtype=mx.int32)]
        if len(pending) == len(spans):  # spans of one token each: what is pending is a row's only unknown
            return on_device[:, None]
        inputs = mx.array(known, dtype=mx.int32)
        inputs[mx.array(pending, dtype=mx.int32), 0] = on_device
        return inputs

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
            mx.eval(self.rows.decode(self._model, self.rows.decode_order([PROBE_ROW]), mx.array([[0]]), [1]))
        finally:
            self.rows.close(PROBE_ROW)

    def rehearse(self, rows: int, max_tokens: int) -> tuple[LinearCost, LinearCost]:
        """Runs the model a few times for nobody, at most `max_tokens` at once: kernels are ready after it, and it is
        known what steps cost.

        Returns the cost of a decode step by its rows, up to `rows`, and of a prompt forward by its tokens. Where
        kernels are compiled when they are first wanted, each size is run twice, and a long prompt's is among them: its
        kernels are others, and the first long prompt would wait seconds for them.
        """
        whole = CPU_REHEARSAL if self.computes_at_launch else COMPILED_REHEARSAL
        counts = [count for count in whole if count <= max(max_tokens, SURE_REHEARSAL)]
        few, many = sorted(set(counts))[-2:]
        times: dict[int, float] = {}
        keys = [PROBE_ROW - row for row in range(max(2, rows))]
        try:
            for count in (*counts, counts[0]):
                self.rows.close(PROBE_ROW)
                self.rows.open(PROBE_ROW, [], count)
                tokens = mx.array([[1] * count], dtype=mx.int32)
                start_s = time.perf_counter()
                self.rows.prefill(self._model, [PROBE_ROW], tokens, [count])
                mx.eval(self.rows.layers([PROBE_ROW]))
                times[count] = time.perf_counter() - start_s
            one_s = self._decode_time(keys[:1])
            self.rows.fork(PROBE_ROW, keys[1:])
            return (
                LinearCost.through((1, one_s), (len(keys), self._decode_time(keys))),
                LinearCost.through((few, times[few]), (many, times[many])),
            )
        finally:
            for key in keys:
                self.rows.close(key)

    def _decode_time(self, keys: list[int]) -> float:
        """Seconds of the quickest of three decode steps."""
        times = []
        for _ in range(3):
            start_s = time.perf_counter()
            order = self.rows.decode_order(keys)
            mx.eval(self.rows.decode(self._model, order, mx.array([[1]] * len(keys)), [1] * len(keys)))
            times.append(time.perf_counter() - start_s)
        return min(times)

    def snapshot(self, sequence: Sequence, start: int, stop: int) -> Segment:
        """A copy of what is computed of a sequence, for the prefix cache."""
        return self.rows.snapshot(sequence.sequence_id, start, stop)


def _left(span: Span) -> int:
    """Tokens from the span's start to the last one there is."""
    return len(span.sequence.token_ids) + span.sequence.num_pending - span.start


def _at(logits: mx.array, rows: Seq[int], positions: Seq[int]) -> mx.array:
    """[R, V] from [B, T, V]: row rows[i] at positions[i]."""
    batch, width, _ = logits.shape
    if width == 1 and len(rows) == batch:
        return logits[:, 0]
    if width == 1:
        return logits[mx.array(list(rows), dtype=mx.int32), 0]
    return logits[mx.array(list(rows), dtype=mx.int32), mx.array(list(positions), dtype=mx.int32)]

"""One loaded model at work: carries out the scheduler's decisions, reads what was sampled, tells the callers.

Everything here runs on the engine thread. A turn launches step i+1 before it reads step i, so the device computes
while Python detokenises. It knows requests and rows; it knows no thread, no socket and no other model.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.batch import Batch
from basemlx.engine.core.constraint import MAX_FORCED_TOKENS, Mask, TokenMatcher, forced_tokens
from basemlx.engine.core.output import ChoiceOutput
from basemlx.engine.core.pacer import PrefillPacer
from basemlx.engine.core.report import FinishedRequest, log_finished, request_timings
from basemlx.engine.core.runner import Forward, Launched, ModelRunner
from basemlx.engine.core.scheduler import Schedule, Scheduler
from basemlx.engine.core.sequence import Request, Sequence, Status
from basemlx.engine.core.stream import Mailbox
from basemlx.engine.errors import (
    BaseMLXError,
    DeadlineExceeded,
    GenerationFailed,
    OutOfMemory,
    RequestAborted,
)
from basemlx.engine.kv.prefix import Lease, PrefixCache
from basemlx.engine.kv.rows import KVRows, Segment
from basemlx.engine.models.loader import LoadedModel
from basemlx.engine.runtime import mx
from basemlx.engine.sampling.row import RowSampler
from basemlx.engine.types import GenerationRequest, OutputDelta, TokenLogprob, Usage

logger = logging.getLogger("basemlx.engine")

Clock = Callable[[], float]

EVERY_TOKEN = -1
"""A mask's word with all bits set."""

REHEARSED_ROWS = 8
"""Of the larger decode step that is timed at load."""

MAX_DECODE_SPAN = 16
"""Known tokens that a row takes in one forward."""

DEAD_END = "The grammar of this request allows no token that the model has."
OUT_OF_GRAMMAR = "A token outside of the request's grammar was chosen; the request was ended."


class ModelWorker:
    """Scheduler, runner and prefix cache of one model."""

    def __init__(
        self,
        loaded: LoadedModel,
        rows: KVRows,
        config: EngineConfig,
        *,
        kv_budget_bytes: int,
        prefix_cache_bytes: int,
        clock: Clock,
        on_finished: Callable[[FinishedRequest], None],
    ) -> None:
        self.loaded = loaded
        self._clock = clock
        self._on_finished = on_finished
        self._rows = rows
        self._runner = ModelRunner(loaded.model, rows)
        self._max_num_sequences = config.max_num_sequences
        self._prefill_chunk_tokens = config.prefill_chunk_tokens
        self._pacer = PrefillPacer(config.prefill_chunk_tokens, rows.num_layers)
        self.scheduler = Scheduler(
            max_num_sequences=config.max_num_sequences,
            max_waiting=config.max_waiting,
            kv_budget_bytes=kv_budget_bytes,
            row_bytes=rows.bytes_for,
            cached_tokens=self._match,
            pacer=self._pacer,
            max_decode_span=MAX_DECODE_SPAN if rows.sliceable else 1,
        )
        self._masks = np.empty((config.max_num_sequences, -(-loaded.vocab_size // 32)), dtype=np.int32)
        self.prefix_cache: PrefixCache[Segment] = PrefixCache(prefix_cache_bytes, sliceable=rows.sliceable)
        self._leases: dict[int, Lease[Segment]] = {}  # of sequences between admission and their row's opening
        self.num_steps = 0
        self._inflight: Launched | None = None
        self._last_done_s = 0.0
        self._arrivals = 0

    def warm_up(self) -> None:
        """Makes kernels ready and teaches the pacer what steps cost here."""
        rows = min(REHEARSED_ROWS, self._max_num_sequences)
        most = min(self.loaded.context_tokens, self._prefill_chunk_tokens)
        self._pacer.seed(*self._runner.rehearse(rows, most))

    def set_budgets(self, kv_budget_bytes: int, prefix_cache_bytes: int) -> None:
        """New limits. KV never falls below what requests that were taken in may still need alone; it can be lowered
        again when they are done."""
        needed = [
            self._rows.bytes_for(len(r.sequences), len(r.prompt_token_ids) + r.max_tokens)
            for r in self.scheduler.requests
        ]
        floor = min(max(needed, default=0), self.scheduler.kv_budget_bytes)
        self.scheduler.kv_budget_bytes = max(kv_budget_bytes, floor)
        if self.prefix_cache.evict(prefix_cache_bytes):
            self.prefix_cache.budget_bytes = prefix_cache_bytes

    # in and out

    def submit(
        self,
        source: GenerationRequest,
        mailbox: Mailbox,
        max_tokens: int,
        submitted_s: float,
        deadline_s: float,
    ) -> None:
        """Queues a request whose fields have been checked."""
        self._arrivals += 1
        request = Request(source, mailbox, max_tokens, submitted_s, deadline_s, self._arrivals)
        sampling = source.sampling
        if source.constraint is not None:
            sampling = replace(sampling, ignore_eos=False)  # the grammar says when its text may end
        for index in range(sampling.n):
            output = ChoiceOutput(
                index,
                self.loaded.tokenizer.detokenizer(skip_special_tokens=source.skip_special_tokens),
                sampling,
                self.loaded.eos_token_ids,
                max_tokens,
            )
            sampler = RowSampler(sampling, source.prompt_token_ids, self.loaded.vocab_size, choice=index)
            sequence = Sequence(request, index, sampler, output, list(source.prompt_token_ids))
            if source.constraint is not None:
                sequence.matcher = source.constraint.matcher()
            request.sequences.append(sequence)
        self.scheduler.add(request)

    def abort(self, request_id: str, error: BaseMLXError | None = None) -> None:
        """Ends a request now, wherever it stands; an unknown one is none of our business."""
        request = self.scheduler.find(request_id)
        if request is not None:
            self._fail(request, error or RequestAborted("The request was given up by its caller."))

    def fail_all(self, error: BaseMLXError) -> None:
        """Ends every request; what is in flight is waited for and dropped."""
        self._inflight = None
        self._runner.settle()
        for request in self.scheduler.requests:
            self._fail(request, error, keep=False)
        for lease in self._leases.values():  # of a step that failed before it had opened their rows
            lease.release()
        self._leases.clear()

    def recover(self, error: BaseMLXError) -> bool:
        """After a failed step: every request ends with `error`, caches are dropped, and one token is tried.

        Returns whether that worked. Which request was at fault is not known: devices report late.
        """
        try:
            self.fail_all(error)
            self.prefix_cache.clear()
            self._runner.probe()
        except Exception:
            logger.exception("the engine does not recover")
            return False
        return True

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self._inflight is not None

    # the turn

    def step(self) -> None:
        """Launches the next step, then reads the one before it. Where launching computes and prompts are waiting, the
        other way round: the streams' tokens would wait for a prompt's layers, and be taken to cost what those do."""
        if self.scheduler.num_prefilling and self._runner.computes_at_launch:
            self._commit(self._inflight)
            self._inflight = None
        plan = self.scheduler.schedule(self._clock())
        while plan.expired or plan.starved:
            self._give_way(plan.preempted)
            for request in plan.expired:
                self._fail(request, DeadlineExceeded("The request's deadline passed before it was finished."))
            for request in plan.starved:
                self._fail(
                    request, OutOfMemory("The request outgrew the memory that is set aside for KV caches.")
                )
            plan = self.scheduler.schedule(self._clock())
        self._settle(plan)
        self._inflight = self._advance(plan.batch)
        self.num_steps += 1

    def _advance(self, batch: Batch) -> Launched | None:
        """Launches the batch and reads the step before it; the launched step.

        Free rows are sampled at once, so that the device goes straight from one step to the next. Where a grammar has a
        say, the step before is read first, while the device is busy with this one's forward: the mask depends on it.
        """
        if not batch:
            self._commit(self._inflight)
            return None
        launched_s = self._clock()
        forward = self._runner.forward(batch)
        self.scheduler.launched(batch)
        for span in batch.prefill:
            _tell_progress(span.sequence)
        previous, self._inflight = self._inflight, None
        if previous is None:
            self._last_done_s = launched_s
        if not any(forward.spans[row].sequence.matcher is not None for row in forward.ready):
            launched = self._runner.sample(forward, forward.ready)
            self._commit(previous)
            return launched
        self._runner.start(forward)
        self._commit(previous)
        return self._runner.sample(forward, *self._constrained(forward))

    def _constrained(self, forward: Forward) -> tuple[list[int], mx.array | None]:
        """The rows of a forward that are to be sampled, and their masks [R, ceil(V / 32)]; None if all are free.

        A row whose grammar leaves it no choice is not sampled: it has its tokens from there, and the next step computes
        them in one span.
        """
        rows: list[int] = []
        is_free = True
        for row in forward.ready:
            sequence = forward.spans[row].sequence
            if sequence.status is not Status.DECODE:
                continue  # it ended with the step before
            mask = self._masks[len(rows)]
            try:
                if sequence.matcher is None or not _fill(sequence, sequence.matcher, mask):
                    mask.fill(EVERY_TOKEN)
                elif not mask.any():
                    raise GenerationFailed(DEAD_END, code="grammar_dead_end")
                elif self._jump(sequence, sequence.matcher, mask):
                    continue
                else:
                    is_free = False
            except (
                BaseMLXError
            ) as error:  # a grammar that gives up takes its own request with it, and no other
                self._fail(sequence.request, error)
                continue
            rows.append(row)
        return rows, None if is_free else mx.array(self._masks[: len(rows)])

    def _jump(self, sequence: Sequence, matcher: TokenMatcher, mask: Mask) -> bool:
        """Gives a row the tokens that its grammar forces, in place of the sample that was to come; whether there are
        any. Whoever asked for log-probabilities gets them from the model, so there every token is sampled."""
        if sequence.sampler.params.logprobs:
            return False
        limit = min(MAX_FORCED_TOKENS, sequence.request.max_tokens - sequence.num_output_tokens)
        tokens, is_filled = forced_tokens(matcher, mask, limit)
        if not tokens:
            return False
        if is_filled:
            sequence.next_mask = mask.copy()
        sequence.num_pending -= 1
        for token_id in tokens:
            if sequence.sampler.has_penalties:
                sequence.sampler.observe(mx.array(token_id))
            if self._take(sequence, token_id, None):
                break
        return True

    def _settle(self, plan: Schedule) -> None:
        """Gives rows back, opens rows for the admitted, and lets followers have their leader's."""
        self._give_way(plan.preempted)
        for sequence in plan.admitted:
            with self._leases.pop(sequence.sequence_id) as lease:
                self._rows.open(sequence.sequence_id, lease.parts, len(sequence.token_ids))
            _tell_progress(sequence)
        for leader in plan.ready:
            self._keep_prefix(leader, leader.num_computed_tokens)
            siblings = [s.sequence_id for s in leader.request.sequences if s.status is Status.DECODE]
            self._rows.fork(leader.sequence_id, [key for key in siblings if key not in self._rows])

    def _give_way(self, preempted: list[Sequence]) -> None:
        """Gives the rows of preempted sequences back; what they computed may be found again in the prefix cache."""
        for sequence in preempted:
            self._keep_prefix(sequence, min(sequence.num_computed_tokens, len(sequence.token_ids)))
            self._rows.close(sequence.sequence_id)
            sequence.num_computed_tokens = 0
            sequence.sampler.rebuild(sequence.output_token_ids)

    def _commit(self, launched: Launched | None) -> None:
        """Reads a step's tokens and passes them on."""
        if launched is None:
            return
        tokens = launched.wait()
        done_s = self._clock()
        batch = launched.batch
        self._pacer.observe(
            done_s - self._last_done_s,
            prompt_tokens=batch.prefill_tokens,
            layers=batch.whole_layers,
            known_tokens=batch.known_tokens,
            extra_tokens=batch.extra_tokens,
            decoding_rows=len(batch.decode),
        )
        self._last_done_s = done_s
        for index, ((sequence, epoch), token_id) in enumerate(zip(launched.decode, tokens, strict=True)):
            if sequence.status is Status.FINISHED or sequence.epoch != epoch:
                continue  # finished, aborted or preempted since the launch: this token was never asked for
            sequence.num_pending -= 1
            try:
                if sequence.matcher is not None and not sequence.matcher.accept(token_id):
                    raise GenerationFailed(OUT_OF_GRAMMAR, code="grammar_error")
            except BaseMLXError as error:
                self._fail(sequence.request, error)
                continue
            self._take(sequence, token_id, launched.logprobs(index))

    def _take(self, sequence: Sequence, token_id: int, logprob: TokenLogprob | None) -> bool:
        """Adds a chosen token to its sequence and tells the caller; whether that was the last one."""
        sequence.token_ids.append(token_id)
        request = sequence.request
        if request.first_token_s is None:
            request.first_token_s = self._last_done_s
        delta = sequence.output.push(token_id, logprob)
        if delta.finish_reason is not None:
            self._finish(sequence, delta)
            return True
        if delta.text or delta.token_ids:
            request.mailbox.push(delta)
        return False

    # ends

    def _finish(self, sequence: Sequence, delta: OutputDelta) -> None:
        sequence.finish_reason = delta.finish_reason
        self._retire(sequence, keep=True)
        sequence.request.mailbox.push(delta)
        if sequence.request.finished:
            self._close(sequence.request, None)

    def _fail(self, request: Request, error: BaseMLXError, *, keep: bool = True) -> None:
        for sequence in request.sequences:
            if sequence.status is not Status.FINISHED:
                sequence.finish_reason = "abort" if isinstance(error, RequestAborted) else "error"
                self._retire(sequence, keep=keep)
        self._close(request, error)

    def _retire(self, sequence: Sequence, *, keep: bool) -> None:
        """Takes a sequence out of the schedule and gives its row back; what it computed stays reusable."""
        if keep and sequence.status in (Status.PREFILL, Status.DECODE):
            self._keep_prefix(sequence, min(sequence.num_computed_tokens, len(sequence.token_ids)))
        self.scheduler.finish(sequence)
        self._rows.close(sequence.sequence_id)

    def _close(self, request: Request, error: BaseMLXError | None) -> None:
        now_s = self._clock()
        usage = Usage(len(request.prompt_token_ids), request.num_completion_tokens, request.num_cached_tokens)
        timings = request_timings(request, now_s)
        reasons = tuple(sequence.finish_reason or "error" for sequence in request.sequences)
        finished = FinishedRequest(request.request_id, self.loaded.info.name, usage, timings, reasons)
        log_finished(finished)
        self._on_finished(finished)
        request.mailbox.finish(usage, timings, error)

    # prefixes

    def _namespace(self, sequence: Sequence) -> str:
        return sequence.request.source.cache_salt

    def _match(self, sequence: Sequence) -> int:
        """Leases what is computed already, of all tokens but the last, which has to be decoded; its length."""
        lease = self.prefix_cache.match(self._namespace(sequence), sequence.token_ids[:-1])
        self._leases[sequence.sequence_id] = lease
        if not sequence.num_output_tokens:  # not for a row that comes back after giving way
            sequence.request.num_cached_tokens = lease.length
        return lease.length

    def _keep_prefix(self, sequence: Sequence, computed: int) -> None:
        """Copies what is computed of a sequence, and not kept yet, into the prefix cache."""
        if not self.prefix_cache.budget_bytes or computed <= 0 or sequence.sequence_id not in self._rows:
            return
        if self.scheduler.num_decoding and self.scheduler.is_amid_chunk(sequence):
            return  # a copy would have the device compute the rest of the chunk first, and streams wait for it
        if not self._rows.sliceable and computed != self._rows.length(sequence.sequence_id):
            return
        tokens = sequence.token_ids[:computed]
        covered = self.prefix_cache.covered(self._namespace(sequence), tokens)
        if covered < computed:
            segment = self._runner.snapshot(sequence, covered, computed)
            self.prefix_cache.insert(self._namespace(sequence), tokens, segment)

    # books

    def check_integrity(self) -> None:
        """Raises AssertionError when queues, rows and prefix cache do not agree, or an idle worker holds anything."""
        self.scheduler.check_integrity()
        self._rows.check_integrity()
        self.prefix_cache.check_integrity()
        if not self.has_work:
            assert self._rows.num_rows == 0, f"{self._rows.num_rows} rows are open while nothing runs"
            assert not self._leases, "a sequence was admitted and got no row"
            assert self.prefix_cache.num_leases == 0, "a lease is held while nothing runs"

    @property
    def kv_bytes(self) -> int:
        return self._rows.nbytes

    def row_bytes(self, tokens: int) -> int:
        """Bytes of one row of so many positions."""
        return self._rows.bytes_for(1, tokens)


def _tell_progress(sequence: Sequence) -> None:
    total = sequence.num_prompt_tokens
    sequence.request.mailbox.prompt_progress = (min(sequence.num_computed_tokens, total), total)


def _fill(sequence: Sequence, matcher: TokenMatcher, mask: Mask) -> bool:
    """`TokenMatcher.fill`, which is not asked again where forced tokens ended with this mask."""
    if sequence.next_mask is None:
        return matcher.fill(mask)
    mask[:], sequence.next_mask = sequence.next_mask, None
    return True

"""Decides what the next step computes: admission, chunked prefill, fairness, preemption, deadlines, abort.

It touches no tensor and imports no MLX: KV memory is a figure (`row_bytes`), time is a number passed in. The worker
carries out what `schedule` decides and reports back what was launched and sampled.

Order: requests are admitted by priority, then arrival. Of the prompts being computed, every other chunk goes to the
oldest and the ones between to the shortest, so that neither a long prompt holds up short ones nor the reverse.
When rows outgrow the KV budget, the one admitted last gives its row up, waits, and is computed again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from basemlx.engine.core.batch import Batch, Span
from basemlx.engine.core.pacer import PrefillPacer
from basemlx.engine.core.sequence import Request, Sequence, Status

RowBytes = Callable[[int, int], int]
"""(rows, tokens of the longest) → bytes of KV memory."""

CachedTokens = Callable[[Sequence], int]
"""How many tokens of a sequence that is being admitted need not be computed (and holds on to them)."""


@dataclass(slots=True)
class Schedule:
    """One step's decisions, to be carried out in this order: give rows back, open rows, fork rows, compute."""

    expired: list[Request] = field(default_factory=list)
    starved: list[Request] = field(default_factory=list)  # cannot go on within the KV budget even alone
    preempted: list[Sequence] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    ready: list[Sequence] = field(default_factory=list)  # prompt computed; followers fork from its row
    batch: Batch = field(default_factory=Batch)


class Scheduler:
    """Queues and rows of one model: at most `max_num_sequences` rows and `kv_budget_bytes` of KV memory. A decoding row
    advances by at most `max_decode_span` known tokens."""

    def __init__(
        self,
        *,
        max_num_sequences: int,
        max_waiting: int,
        kv_budget_bytes: int,
        row_bytes: RowBytes,
        cached_tokens: CachedTokens,
        pacer: PrefillPacer,
        max_decode_span: int = 1,
    ) -> None:
        self._max_num_sequences = max_num_sequences
        self._max_waiting = max_waiting
        self.kv_budget_bytes = kv_budget_bytes
        self._row_bytes = row_bytes
        self._cached_tokens = cached_tokens
        self._pacer = pacer
        self._num_layers = pacer.num_layers
        self._max_decode_span = max_decode_span
        self._requests: dict[str, Request] = {}
        self._waiting: list[Sequence] = []
        self._prefilling: list[Sequence] = []  # in order of admission
        self._decoding: list[Sequence] = []
        self._oldest_next = False
        self._under_way: list[Span] = []  # chunks whose forward is not computed through all layers yet
        self._num_layers_done = 0

    # what is where

    @property
    def num_waiting(self) -> int:
        """Requests that hold no row yet."""
        return len({sequence.request.request_id for sequence in self._waiting})

    @property
    def num_running(self) -> int:
        """Rows in use or reserved for choices that fork."""
        return len(self._holding()) + self._num_followers(self._prefilling)

    def is_amid_chunk(self, sequence: Sequence) -> bool:
        """Whether a forward with tokens of it is computed in part."""
        return self._num_layers_done > 0 and any(span.sequence is sequence for span in self._under_way)

    @property
    def num_decoding(self) -> int:
        return len(self._decoding)

    @property
    def num_prefilling(self) -> int:
        """Prompts that are being computed."""
        return len(self._prefilling)

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def requests(self) -> list[Request]:
        return list(self._requests.values())

    # in and out

    def add(self, request: Request) -> None:
        """Queues a request; its first sequence leads, the others follow when its prompt is computed."""
        self._requests[request.request_id] = request
        leader, *followers = request.sequences
        for follower in followers:
            follower.status = Status.FORKING
        self._wait(leader)

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, wherever it is. Its row, if it has one, is the caller's to give back."""
        if sequence.status is Status.FINISHED:
            return
        sequence.status = Status.FINISHED
        self._leave(sequence)
        if sequence.request.finished:
            self._requests.pop(sequence.request.request_id, None)

    def find(self, request_id: str) -> Request | None:
        return self._requests.get(request_id)

    # the step

    def schedule(self, now_s: float) -> Schedule:
        """What the next step does. Sequences change status here; rows and tensors are the worker's."""
        plan = Schedule()
        plan.expired = [request for request in self._requests.values() if now_s >= request.deadline_s]
        if plan.expired:
            return plan  # the worker ends them and asks again
        self._make_room(plan)
        if plan.starved:
            return plan
        self._admit(plan, now_s)
        self._promote(plan)
        known, decode = self._decode_spans()
        prefill, layers = self._prompt_part(len(decode))
        plan.batch = Batch(prefill, layers, known, decode)
        return plan

    def launched(self, batch: Batch) -> None:
        """The batch is on its way: positions count as computed once all layers are, and samples as pending."""
        whole = batch.known + batch.decode
        if batch.prefill:
            self._num_layers_done = batch.layers.stop
        if self._num_layers_done == self._num_layers:
            whole += batch.prefill
            self._under_way = []
        for span in whole:
            span.sequence.num_computed_tokens += span.count
        for span in batch.decode:
            if not span.sequence.num_uncomputed:
                span.sequence.num_pending += 1

    def fits(self, rows: int, tokens: int) -> bool:
        """Whether so many rows of so many tokens could ever run."""
        return rows <= self._max_num_sequences and self._row_bytes(rows, tokens) <= self.kv_budget_bytes

    @property
    def queue_is_full(self) -> bool:
        return self.num_waiting >= self._max_waiting

    def check_integrity(self) -> None:
        """Raises AssertionError when a sequence is in two places, in none, or in the wrong one."""
        queues = {
            Status.WAITING: self._waiting,
            Status.PREFILL: self._prefilling,
            Status.DECODE: self._decoding,
        }
        listed = [sequence for queue in queues.values() for sequence in queue]
        assert len(listed) == len({id(sequence) for sequence in listed}), "a sequence queued twice"
        for status, queue in queues.items():
            assert all(sequence.status is status for sequence in queue), (
                f"a sequence wrongly among the {status.value}"
            )
            assert all(s.request.request_id in self._requests for s in queue), (
                "a sequence of a forgotten request"
            )
        assert all(not request.finished for request in self._requests.values()), (
            "a finished request still listed"
        )

    # inside

    def _holding(self) -> list[Sequence]:
        return self._prefilling + self._decoding

    @staticmethod
    def _followers(leader: Sequence) -> list[Sequence]:
        siblings = leader.request.sequences
        return (
            [s for s in siblings if s.status is Status.FORKING] if leader.index == siblings[0].index else []
        )

    def _num_followers(self, leaders: list[Sequence]) -> int:
        return sum(len(self._followers(leader)) for leader in leaders)

    def _wait(self, sequence: Sequence) -> None:
        sequence.status = Status.WAITING
        self._waiting.append(sequence)
        self._waiting.sort(key=lambda s: (-s.request.source.priority, s.request.arrival, s.index))

    def _leave(self, sequence: Sequence) -> None:
        """Takes a sequence out of its queue, and out of the forward that is under way."""
        for queue in (self._waiting, self._prefilling, self._decoding):
            if sequence in queue:
                queue.remove(sequence)
        self._under_way = [span for span in self._under_way if span.sequence is not sequence]

    def _longest(self, sequences: list[Sequence]) -> int:
        """Tokens of the longest row after the next step."""
        return max((max(len(s.token_ids), s.num_computed_tokens) + 1 for s in sequences), default=0)

    def _make_room(self, plan: Schedule) -> None:
        """Preempts until the rows that run fit the KV budget for one more token each."""
        while (holding := self._holding()) and (
            self._row_bytes(self.num_running, self._longest(holding)) > self.kv_budget_bytes
        ):
            if len(holding) == 1:
                plan.starved.append(holding[0].request)
                return
            victim = max(holding, key=lambda s: (-s.request.source.priority, s.request.arrival, s.index))
            self._leave(victim)
            victim.num_pending = 0
            victim.epoch += 1
            self._wait(victim)
            plan.preempted.append(victim)

    def _admit(self, plan: Schedule, now_s: float) -> None:
        while self._waiting and not plan.preempted:
            leader = self._waiting[0]
            rows = self.num_running + 1 + len(self._followers(leader))
            longest = self._longest([*self._holding(), leader])
            if rows > self._max_num_sequences:
                return
            if self._holding() and self._row_bytes(rows, longest) > self.kv_budget_bytes:
                return
            self._waiting.pop(0)
            leader.status = Status.PREFILL
            leader.num_computed_tokens = self._cached_tokens(leader)
            self._prefilling.append(leader)
            if leader.request.admitted_s is None:
                leader.request.admitted_s = now_s
            plan.admitted.append(leader)

    def _promote(self, plan: Schedule) -> None:
        """Sequences whose prompt is computed start to decode, and their followers with them."""
        for leader in [s for s in self._prefilling if not s.num_prefill_left]:
            self._prefilling.remove(leader)
            followers = self._followers(leader)
            for sequence in [leader, *followers]:
                sequence.status = Status.DECODE
                sequence.num_computed_tokens = leader.num_computed_tokens
                self._decoding.append(sequence)
            plan.ready.append(leader)

    def _decode_spans(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """One span for each row that wants a token. Where rows know several next tokens, one forward as wide as the
        longest span, or a forward for what is known before one for the last tokens: whichever is estimated cheaper."""
        spans = []
        for sequence in self._decoding:
            if sequence.wants_token:
                count = min(sequence.num_uncomputed, self._max_decode_span)
                spans.append(Span(sequence, sequence.num_computed_tokens, count))
        width = max((span.count for span in spans), default=1)
        known = [span for span in spans if span.count > 1]
        if not known or self._pacer.prefers_one_forward(
            len(spans) * width, len(known) * (width - 1) + len(spans)
        ):
            return (), tuple(spans)
        heads = tuple(Span(span.sequence, span.start, span.count - 1) for span in known)
        return heads, tuple(Span(span.sequence, span.start + span.count - 1, 1) for span in spans)

    def _prompt_part(self, streams: int) -> tuple[tuple[Span, ...], range]:
        """Chunks of prompts, and those layers of their forward that this step computes beside `streams` rows."""
        if not self._under_way:
            self._under_way = self._chunks(streams)
            self._num_layers_done = 0
        if not self._under_way:
            return (), range(0)
        spans = tuple(self._under_way)
        first = self._num_layers_done
        count = self._pacer.layers(Batch(spans).prefill_tokens, streams)
        if not count:
            return (), range(0)
        return spans, range(first, min(max(1, first) + count, self._num_layers))

    def _chunks(self, streams: int) -> list[Span]:
        """What the next forward of prompts takes."""
        open_prompts = [s for s in self._prefilling if s.num_prefill_left]
        if not open_prompts:
            return []
        allowed = self._pacer.chunk_tokens(streams)
        self._oldest_next = not self._oldest_next
        first = open_prompts[0] if self._oldest_next else min(open_prompts, key=lambda s: s.num_prefill_left)
        spans: list[Span] = []
        width = 0
        for sequence in [first, *(s for s in open_prompts if s is not first)]:
            count = min(allowed, sequence.num_prefill_left)
            width = max(width, count)
            # The rows of a forward are padded to the widest.
            if spans and (len(spans) + 1) * width > allowed:
                break
            spans.append(Span(sequence, sequence.num_computed_tokens, count))
        return spans

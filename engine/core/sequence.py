"""A sequence: one choice of one request on its way through the engine, and the request that its choices share.

Plain state, changed by the scheduler only, on the engine thread. It knows no tensor: the sampler's per-row state and
the output side are held here as opaque companions, so that joining and leaving a batch cannot misalign them.
"""

import enum
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from basemlx.engine.types import FinishReason, GenerationRequest

if TYPE_CHECKING:
    from basemlx.engine.core.constraint import Mask, TokenMatcher
    from basemlx.engine.core.output import ChoiceOutput
    from basemlx.engine.core.stream import Mailbox
    from basemlx.engine.sampling.row import RowSampler

_ids = count(1)


class Status(enum.Enum):
    """Where a sequence stands. PREFILL and DECODE hold a KV row; FORKING waits for its leader's prompt."""

    WAITING = "waiting"
    PREFILL = "prefill"
    FORKING = "forking"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice. `token_ids` is the prompt and what has been sampled and read; `num_computed_tokens` of them are in
    the KV row (launched steps included); `num_pending` sampled tokens are still on the device."""

    request: "Request"
    index: int
    sampler: "RowSampler"
    output: "ChoiceOutput"
    token_ids: list[int]
    sequence_id: int = field(default_factory=lambda: next(_ids))
    status: Status = Status.WAITING
    num_computed_tokens: int = 0
    num_pending: int = 0
    matcher: "TokenMatcher | None" = None  # of the constraint, if there is one; has seen `output_token_ids`
    next_mask: "Mask | None" = None  # of its next token, where the matcher has told already
    epoch: int = 0  # raised when the row is given up: what was launched for it before no longer counts
    finish_reason: FinishReason | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Sampled and read."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_sampled_tokens(self) -> int:
        """Sampled, read or not: the position of this row's next random number."""
        return self.num_output_tokens + self.num_pending

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_uncomputed(self) -> int:
        """Tokens to compute before the next one can be sampled; the one on the device counts."""
        return len(self.token_ids) + self.num_pending - self.num_computed_tokens

    @property
    def num_prefill_left(self) -> int:
        """Tokens to compute before this sequence can decode: all known ones but the last."""
        return len(self.token_ids) - 1 - self.num_computed_tokens

    @property
    def wants_token(self) -> bool:
        """Whether another token may be asked for, those still on the device counted."""
        return self.num_sampled_tokens < self.request.max_tokens


@dataclass(slots=True, eq=False)
class Request:
    """What the choices of one GenerationRequest share. Times are monotonic seconds."""

    source: GenerationRequest
    mailbox: "Mailbox"
    max_tokens: int
    submitted_s: float
    deadline_s: float
    arrival: int
    sequences: list[Sequence] = field(default_factory=list)
    num_cached_tokens: int = 0
    admitted_s: float | None = None
    first_token_s: float | None = None

    @property
    def request_id(self) -> str:
        return self.source.request_id

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        return self.source.prompt_token_ids

    @property
    def num_completion_tokens(self) -> int:
        return sum(sequence.num_output_tokens for sequence in self.sequences)

    @property
    def finished(self) -> bool:
        return all(sequence.status is Status.FINISHED for sequence in self.sequences)

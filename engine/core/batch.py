"""What one step computes: plain data from the scheduler to the runner."""

from dataclasses import dataclass

from basemlx.engine.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens of a sequence from position `start` on. A prefill span samples nothing."""

    sequence: Sequence
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The spans of one step: prompt chunks in one forward, then every decoding row in another."""

    prefill: tuple[Span, ...] = ()
    decode: tuple[Sequence, ...] = ()

    @property
    def prefill_tokens(self) -> int:
        return sum(span.count for span in self.prefill)

    def __bool__(self) -> bool:
        return bool(self.prefill or self.decode)

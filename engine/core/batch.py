"""What one step computes: plain data from the scheduler to the runner."""

from dataclasses import dataclass

from basemlx.engine.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens of a sequence from position `start` on."""

    sequence: Sequence
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The spans of one step: prompt chunks, which yield no logits, then all decoding rows in one forward.

    A decode span is the row's newest token, or several that are known already (the grammar forced them); its row is
    sampled where the span reaches the last token there is. A row may have a span in both.
    """

    prefill: tuple[Span, ...] = ()
    decode: tuple[Span, ...] = ()

    @property
    def prefill_tokens(self) -> int:
        return sum(span.count for span in self.prefill)

    def __bool__(self) -> bool:
        return bool(self.prefill or self.decode)

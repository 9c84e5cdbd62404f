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
    """The spans of one step: prompt chunks in a forward of their own, which yields no logits, then all else in another.

    A span of `decode` is a row's newest token, several that are known already (the grammar forced them), or a chunk of
    a prompt that joins the decoding rows. A row is sampled where its span reaches the last token there is. `streams`
    rows of `decode` are past their prompt. A row may have a span in both.
    """

    prefill: tuple[Span, ...] = ()
    decode: tuple[Span, ...] = ()
    streams: int = 0

    @property
    def prefill_tokens(self) -> int:
        return sum(span.count for span in self.prefill)

    @property
    def extra_tokens(self) -> int:
        """Of the forward of `decode`, padding included, beyond one for each stream."""
        return len(self.decode) * max((span.count for span in self.decode), default=0) - self.streams

    def __bool__(self) -> bool:
        return bool(self.prefill or self.decode)

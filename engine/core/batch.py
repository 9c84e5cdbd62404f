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
    """The spans of one step.

    `prefill` are chunks of prompts, in a forward of their own that yields no logits. This step computes the keys and
    values of its `layers`; where they are not all, the same chunks come again with the next ones. A span of `decode` is
    a row's newest token or several that are known already (the grammar forced them); the row is sampled where its span
    reaches the last token there is. `known` are spans of the same rows that come before those, in a forward without
    logits.
    """

    prefill: tuple[Span, ...] = ()
    layers: range = range(0)
    known: tuple[Span, ...] = ()
    decode: tuple[Span, ...] = ()

    @property
    def prefill_tokens(self) -> int:
        """Of the whole chunks, padding included."""
        return _padded(self.prefill)

    @property
    def whole_layers(self) -> int:
        """Of the prompts' forward in this step. Keys and values of a layer need the layers before it and little more,
        so those of the first cost next to nothing, and the last is never computed whole."""
        return max(1, self.layers.stop - max(1, self.layers.start))

    @property
    def known_tokens(self) -> int:
        return _padded(self.known)

    @property
    def extra_tokens(self) -> int:
        """Of the forward of `decode`, padding included, beyond one for each row."""
        return _padded(self.decode) - len(self.decode)

    def __bool__(self) -> bool:
        return bool(self.prefill or self.decode)


def _padded(spans: tuple[Span, ...]) -> int:
    return len(spans) * max((span.count for span in spans), default=0)

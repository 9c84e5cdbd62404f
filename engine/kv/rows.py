"""What a store of KV rows promises to the model runner, whatever the model's layers cache.

A row is the cache of one sequence, named by a key the runner chooses (its sequence id). `length` is the number of
positions that count; what lies beyond is garbage that later writes cover. All methods run on the engine thread.
It knows nothing of scheduling, sampling or prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from basemlx.engine.runtime import mx

RowKey = int


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a row, copied out of it: what the prefix cache keeps.

    `arrays` are the layers' tensors in the store's own order; `start` and `stop` are token positions. A sliceable
    store's segment holds positions start…stop-1 along axis 2 of every array; a checkpoint holds the whole state
    after `stop` tokens (start is 0) and serves only as a whole, its `state` telling the store how to restore it.
    """

    arrays: tuple[mx.array, ...]
    start: int
    stop: int
    state: Any = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def split(self, at: int) -> "tuple[Segment, Segment]":
        """Two segments that meet at token position `at`, each with memory of its own."""
        cut = at - self.start
        head = tuple(mx.contiguous(array[:, :, :cut]) for array in self.arrays)
        tail = tuple(mx.contiguous(array[:, :, cut:]) for array in self.arrays)
        mx.eval(head, tail)
        return Segment(head, self.start, at), Segment(tail, at, self.stop)


class KVRows(Protocol):
    """The rows of one model.

    `sliceable`: a row can be cut at any position: prefixes are reused to the token, `truncate` works and a decode
    forward may take spans of several tokens. Otherwise prefixes are reused only at checkpoints.
    """

    sliceable: bool

    def open(self, key: RowKey, segments: Sequence[tuple[Segment, int]], capacity_tokens: int) -> None:
        """A new row, filled with the first `count` positions of each (segment, count), in order."""

    def close(self, key: RowKey) -> None:
        """Gives the row's place back. Closing an unknown row is not an error."""

    def fork(self, source: RowKey, keys: Sequence[RowKey]) -> None:
        """New rows, each a copy of `source`."""

    def __contains__(self, key: RowKey) -> bool:
        """Whether the row is open."""

    def length(self, key: RowKey) -> int:
        """Positions that count in this row."""

    def truncate(self, key: RowKey, length: int) -> None:
        """Forgets the positions from `length` on (sliceable stores only)."""

    def group(self, keys: Sequence[RowKey]) -> list[RowKey]:
        """The longest head of `keys`, in the order in which they have to stand, that one prefill forward can take."""

    def prefill(self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]) -> None:
        """Appends `counts[i]` tokens to row i from right-padded `tokens` [B, T]; logits are not computed. The work
        happens when `layers` are evaluated."""

    def layers(self, keys: Sequence[RowKey]) -> list[list[mx.array]]:
        """What each layer holds of these rows, first layer first. Evaluating those of one layer computes the layers
        up to it and none behind it. To be dropped before the next forward, which updates them in place."""

    def decode(self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]) -> mx.array:
        """Logits [B, T, V] for right-padded `tokens` [B, T], of which row i grows by `counts[i]`; `keys` stand in
        `decode_order`. T is 1 for stores that are not sliceable."""

    def decode_order(self, keys: Sequence[RowKey]) -> list[RowKey]:
        """The same keys in the order in which a decode forward wants its rows; may move rows."""

    def snapshot(self, key: RowKey, start: int, stop: int) -> Segment:
        """A copy of positions start…stop-1 (or, where not sliceable, a checkpoint of the whole row)."""

    def bytes_for(self, rows: int, tokens: int) -> int:
        """Bytes that `rows` rows of `tokens` positions take (an estimate before the first forward)."""

    @property
    def num_layers(self) -> int:
        """Length of what `layers` gives."""

    @property
    def nbytes(self) -> int:
        """Bytes held now."""

    @property
    def num_rows(self) -> int:
        """Rows open now."""

    def check_integrity(self) -> None:
        """Raises AssertionError when the books do not add up."""

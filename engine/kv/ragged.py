"""KV rows of unequal length in rectangles, for models whose layers all keep every position.

There are two: prompts are computed in one and streams decode in the other, so that a decode forward depends on no
prompt's. The device can then compute a prompt's forward a few layers at a time, with decode steps of other rows in
between. A row moves over when it decodes first; where that leaves the one rectangle empty and the other is free, the
two change names instead. Rows that decode are kept in the first slots: one row is copied when one joins or leaves,
everything else stays where it is.
"""

from collections.abc import Sequence
from typing import Any

from basemlx.engine.kv.rectangle import LayerShape, Rectangle, capacity_for
from basemlx.engine.kv.rows import RowKey, Segment
from basemlx.engine.runtime import mx


class RaggedRows:
    """All rows of one model."""

    sliceable = True

    def __init__(self, layer_shapes: Sequence[LayerShape]) -> None:
        self._shapes = list(layer_shapes)
        self._prompts = Rectangle(self._shapes)
        self._streams = Rectangle(self._shapes)
        self._lengths: dict[RowKey, int] = {}

    # rows

    def open(self, key: RowKey, segments: Sequence[tuple[Segment, int]], capacity_tokens: int) -> None:
        assert key not in self._lengths
        length = sum(count for _, count in segments)
        # Where only the last token is left to compute, there is no prompt forward to keep apart from.
        place = self._streams if length and length + 1 >= capacity_tokens else self._prompts
        place.take(key, max(capacity_tokens, length))
        self._lengths[key] = length
        start = 0
        for segment, count in segments:
            place.write(key, start, segment.arrays, count)
            start += count

    def close(self, key: RowKey) -> None:
        if self._lengths.pop(key, None) is not None:
            self._place(key).free(key)

    def fork(self, source: RowKey, keys: Sequence[RowKey]) -> None:
        if not keys:
            return
        self._join([source])
        length = self._lengths[source]
        pieces = self._streams.read(source, 0, length) if length else []
        for key in keys:
            self._lengths[key] = length
            self._streams.take(key, length)
            if length:
                self._streams.write(key, 0, pieces, length)

    def __contains__(self, key: RowKey) -> bool:
        return key in self._lengths

    def length(self, key: RowKey) -> int:
        return self._lengths[key]

    def truncate(self, key: RowKey, length: int) -> None:
        assert 0 <= length <= self._lengths[key]
        self._lengths[key] = length

    # forwards

    def group(self, keys: Sequence[RowKey]) -> list[RowKey]:
        return self._place(keys[0]).run(keys)

    def prefill(self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]) -> None:
        place = self._place(keys[0])
        self._aim(place, keys, tokens.shape[1])
        model(tokens, cache=place.layers)  # only the caches are evaluated: the vocabulary head never runs
        for key, count in zip(keys, counts, strict=True):
            self._lengths[key] += count

    def layers(self, keys: Sequence[RowKey]) -> list[list[mx.array]]:
        arrays: list[list[mx.array]] = [[] for _ in self._shapes]
        for place in {id(place): place for place in map(self._place, keys)}.values():
            for layer, own in zip(place.layers, arrays, strict=True):
                own += [array for array in (layer.keys, layer.values) if array is not None]
        return arrays

    def decode_order(self, keys: Sequence[RowKey]) -> list[RowKey]:
        self._join(keys)
        return self._streams.gather(keys, self._lengths)

    def decode(self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]) -> mx.array:
        self._aim(self._streams, keys, tokens.shape[1])
        logits: mx.array = model(tokens, cache=self._streams.layers)
        for key, count in zip(keys, counts, strict=True):
            self._lengths[key] += count
        return logits

    # copies

    def snapshot(self, key: RowKey, start: int, stop: int) -> Segment:
        return Segment(tuple(self._place(key).read(key, start, stop)), start, stop)

    # books

    @property
    def num_layers(self) -> int:
        return len(self._shapes)

    def bytes_for(self, rows: int, tokens: int) -> int:
        return rows * capacity_for(tokens) * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        return sum((kh * kd + vh * vd) * dtype.size for (kh, kd), (vh, vd), dtype in self._shapes)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for place in self._places for array in place.arrays())

    @property
    def num_rows(self) -> int:
        return len(self._lengths)

    def check_integrity(self) -> None:
        for place in self._places:
            place.check_integrity()
            assert all(0 <= self._lengths[key] <= place.capacity for key in place.rows), (
                "a row past its capacity"
            )
        standing = [key for place in self._places for key in place.rows]
        assert sorted(standing) == sorted(self._lengths), "a row without a length, or in two places"

    # inside

    @property
    def _places(self) -> tuple[Rectangle, Rectangle]:
        return self._prompts, self._streams

    def _place(self, key: RowKey) -> Rectangle:
        return self._streams if key in self._streams else self._prompts

    def _aim(self, place: Rectangle, keys: Sequence[RowKey], width: int) -> None:
        place.aim(keys, [self._lengths[key] for key in keys], width)

    def _join(self, keys: Sequence[RowKey]) -> None:
        """Moves what still stands among the prompts over to the streams."""
        joining = [key for key in keys if key in self._prompts]
        if joining and not self._streams.rows and len(joining) == len(self._prompts.rows):
            self._prompts, self._streams = self._streams, self._prompts
            return
        for key in joining:
            self._streams.take(key, self._lengths[key] + 1)
            if self._lengths[key]:
                self._streams.copy(self._prompts, key, self._lengths[key])
            self._prompts.free(key)
        if joining:
            self._prompts.shrink(self._lengths)  # now, while no forward of prompts is under way

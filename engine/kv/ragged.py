"""KV rows of unequal length in one rectangle, for models whose layers all keep every position.

    keys, values of a layer: [slots, H, capacity, D]
      slot 0   |██████████░░░░░░|      █ positions that count (row length)
      slot 1   |████░░░░░░░░░░░░|      ░ garbage: masked now, overwritten later
      slot 2   |█████████████░░░|

A forward takes a contiguous range of slots, so that reading is a view and never a gather. Rows that decode are
moved to the first slots when they join or when one leaves (one row is copied); everything else stays where it is. A
row with fewer real tokens than the forward's width writes garbage past its length, which later writes cover; that
is also what makes rolling back free.

The layer caches offer what mlx-lm's models call (`offset`, `update_and_fetch`, `make_mask`). Where all rows of a
forward have one length the offset is an int and the mask is left to the kernel, as in mlx-lm's single-row path.
"""

from collections.abc import Sequence
from typing import Any

from basemlx.engine.kv.rows import RowKey, Segment
from basemlx.engine.runtime import mx

CAPACITY_STEP_TOKENS = 256


class Geometry:
    """Where one forward reads and writes: slots first…first+B-1, their lengths, the width T. All layers share it."""

    def __init__(self) -> None:
        self.set(0, [0], 1)

    def set(self, first: int, lengths: Sequence[int], width: int) -> None:
        self.first = first
        self.last = first + len(lengths)
        self.lengths = list(lengths)
        self.width = width
        self.end = max(lengths) + width
        self.uniform = min(lengths) == max(lengths)
        self.offset: int | mx.array = lengths[0] if self.uniform else mx.array(self.lengths, dtype=mx.int32)
        self._positions: mx.array | None = None
        self._masks: dict[int | None, mx.array] = {}

    def positions(self) -> mx.array:
        """Token positions of the span, [B, T] int32."""
        if self._positions is None:
            starts = mx.array(self.lengths, dtype=mx.int32)
            self._positions = starts[:, None] + mx.arange(self.width, dtype=mx.int32)[None]
        return self._positions

    def slots(self) -> mx.array:
        """Slot numbers, [B, 1] int32."""
        return mx.arange(self.first, self.last, dtype=mx.int32)[:, None]

    def mask(self, window: int | None) -> mx.array:
        """Bool [B, 1, T, S]: key j is visible to query t of row b iff j <= length[b] + t, and within the window."""
        if window not in self._masks:
            query = self.positions()[:, None, :, None]
            key = mx.arange(self.end, dtype=mx.int32)[None, None, None]
            visible = key <= query
            if window is not None:
                visible = visible & (key > query - window)
            self._masks[window] = visible
        return self._masks[window]


class LayerCache:
    """One layer's rectangle, as mlx-lm's attention modules expect a cache to look."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def offset(self) -> int | mx.array:
        return self.geometry.offset

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> Any:
        geometry = self.geometry
        needs_array = (
            return_array or not geometry.uniform or (window_size is not None and geometry.end > window_size)
        )
        if needs_array:
            return geometry.mask(window_size)
        return None if N == 1 else "causal"

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Writes [B, H, T, D] at the rows' ends and returns views [B, H, S, D] that include it."""
        if self.keys is None or self.values is None:
            raise RuntimeError("the rectangle has to be reserved before a forward")
        g = self.geometry
        if g.uniform:
            start = g.lengths[0]
            self.keys[g.first : g.last, :, start : start + g.width] = keys
            self.values[g.first : g.last, :, start : start + g.width] = values
        else:
            slots, positions = g.slots(), g.positions()
            self.keys[slots, :, positions] = keys.transpose(0, 2, 1, 3)
            self.values[slots, :, positions] = values.transpose(0, 2, 1, 3)
        return self.keys[g.first : g.last, :, : g.end], self.values[g.first : g.last, :, : g.end]

    def resize(
        self, slots: int, capacity: int, shape: tuple[tuple[int, int], tuple[int, int], mx.Dtype]
    ) -> None:
        """Makes the rectangle [slots, H, capacity, D], keeping what both have in common."""
        (key_heads, key_dim), (value_heads, value_dim), dtype = shape
        old = (self.keys, self.values)
        fresh = (
            mx.zeros((slots, key_heads, capacity, key_dim), dtype),
            mx.zeros((slots, value_heads, capacity, value_dim), dtype),
        )
        if old[0] is not None:
            rows, columns = min(slots, old[0].shape[0]), min(capacity, old[0].shape[2])
            for new, previous in zip(fresh, old, strict=True):
                assert previous is not None
                new[:rows, :, :columns] = previous[:rows, :, :columns]
        self.keys, self.values = fresh


LayerShape = tuple[tuple[int, int], tuple[int, int], mx.Dtype]


class RaggedRows:
    """All rows of one model; a layer's shape is ((key heads, key dim), (value heads, value dim), dtype)."""

    sliceable = True

    def __init__(self, layer_shapes: Sequence[LayerShape]) -> None:
        self._shapes = list(layer_shapes)
        self._geometry = Geometry()
        self._layers = [LayerCache(self._geometry) for _ in self._shapes]
        self._slots: list[RowKey | None] = []  # slot -> row
        self._slot_of: dict[RowKey, int] = {}
        self._lengths: dict[RowKey, int] = {}
        self._capacity = 0

    # rows

    def open(self, key: RowKey, segments: Sequence[tuple[Segment, int]], capacity_tokens: int) -> None:
        assert key not in self._slot_of
        slot = self._take_slot(key)
        self._lengths[key] = sum(count for _, count in segments)
        self._reserve(max(capacity_tokens, self._lengths[key]))
        start = 0
        for segment, count in segments:
            for index, layer in enumerate(self._layers):
                assert layer.keys is not None
                assert layer.values is not None
                keys, values = segment.arrays[2 * index], segment.arrays[2 * index + 1]
                layer.keys[slot : slot + 1, :, start : start + count] = keys[:, :, :count]
                layer.values[slot : slot + 1, :, start : start + count] = values[:, :, :count]
            start += count

    def close(self, key: RowKey) -> None:
        slot = self._slot_of.pop(key, None)
        if slot is None:
            return
        del self._lengths[key]
        self._slots[slot] = None
        while self._slots and self._slots[-1] is None:
            self._slots.pop()
        if not self._slots:  # idle: the rectangle goes back, the next request starts with a small one
            self._capacity = 0
            for layer in self._layers:
                layer.keys = layer.values = None

    def fork(self, source: RowKey, keys: Sequence[RowKey]) -> None:
        for key in keys:
            slot = self._take_slot(key)
            self._lengths[key] = self._lengths[source]
            self._reserve(self._lengths[source])
            self._copy(self._slot_of[source], slot, self._lengths[source])

    def __contains__(self, key: RowKey) -> bool:
        return key in self._slot_of

    def length(self, key: RowKey) -> int:
        return self._lengths[key]

    def truncate(self, key: RowKey, length: int) -> None:
        assert 0 <= length <= self._lengths[key]
        self._lengths[key] = length

    # forwards

    def group(self, keys: Sequence[RowKey]) -> list[RowKey]:
        run = [keys[0]]
        slots = {self._slot_of[key]: key for key in keys}
        while (following := self._slot_of[run[-1]] + 1) in slots:
            run.append(slots[following])
        return run

    def prefill(
        self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]
    ) -> list[mx.array]:
        self._aim(keys, tokens.shape[1])
        model(tokens, cache=self._layers)  # only the caches are evaluated: the vocabulary head never runs
        for key, count in zip(keys, counts, strict=True):
            self._lengths[key] += count
        return self._arrays()

    def decode_order(self, keys: Sequence[RowKey]) -> list[RowKey]:
        wanted = set(keys)
        free = [slot for slot in range(len(keys)) if self._slots[slot] not in wanted]
        for key in keys:
            if self._slot_of[key] >= len(keys):
                self._move(key, free.pop())
        return [key for key in self._slots[: len(keys)] if key is not None]

    def decode(self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]) -> mx.array:
        self._aim(keys, tokens.shape[1])
        logits: mx.array = model(tokens, cache=self._layers)
        for key, count in zip(keys, counts, strict=True):
            self._lengths[key] += count
        return logits

    # copies

    def snapshot(self, key: RowKey, start: int, stop: int) -> Segment:
        slot = self._slot_of[key]
        pieces = [mx.contiguous(array[slot : slot + 1, :, start:stop]) for array in self._arrays()]
        # Evaluated at once: a pending view would keep the rectangle from being updated in place.
        mx.eval(pieces)
        return Segment(tuple(pieces), start, stop)

    # books

    def bytes_for(self, rows: int, tokens: int) -> int:
        capacity = -(-tokens // CAPACITY_STEP_TOKENS) * CAPACITY_STEP_TOKENS
        return rows * capacity * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        return sum((kh * kd + vh * vd) * dtype.size for (kh, kd), (vh, vd), dtype in self._shapes)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays())

    @property
    def num_rows(self) -> int:
        return len(self._slot_of)

    def check_integrity(self) -> None:
        occupied = {key: slot for slot, key in enumerate(self._slots) if key is not None}
        assert occupied == self._slot_of, "slot table and row table disagree"
        assert self._lengths.keys() == self._slot_of.keys(), "a row without a length, or the reverse"
        assert all(0 <= length <= self._capacity for length in self._lengths.values()), (
            "a row past its capacity"
        )
        assert self._slots or not self._arrays(), "an idle store holds memory"

    # inside

    def _arrays(self) -> list[mx.array]:
        return [array for layer in self._layers for array in (layer.keys, layer.values) if array is not None]

    def _aim(self, keys: Sequence[RowKey], width: int) -> None:
        first = self._slot_of[keys[0]]
        assert [self._slot_of[key] for key in keys] == list(range(first, first + len(keys)))
        lengths = [self._lengths[key] for key in keys]
        self._reserve(max(lengths) + width)
        self._geometry.set(first, lengths, width)

    def _take_slot(self, key: RowKey) -> int:
        slot = self._slots.index(None) if None in self._slots else len(self._slots)
        if slot == len(self._slots):
            self._slots.append(key)
        else:
            self._slots[slot] = key
        self._slot_of[key] = slot
        return slot

    def _reserve(self, tokens: int) -> None:
        """Grows the rectangle to the slots in use and to `tokens` positions, the former by doubling."""
        held = self._layers[0].keys.shape[0] if self._layers[0].keys is not None else 0
        slots = held if held >= len(self._slots) else max(len(self._slots), 2 * held)
        capacity = max(self._capacity, -(-tokens // CAPACITY_STEP_TOKENS) * CAPACITY_STEP_TOKENS)
        if slots != held or capacity != self._capacity:
            for layer, shape in zip(self._layers, self._shapes, strict=True):
                layer.resize(slots, capacity, shape)
            self._capacity = capacity

    def _move(self, key: RowKey, slot: int) -> None:
        """Puts a row into `slot`; a row that stands there changes places with it."""
        source, other = self._slot_of[key], self._slots[slot]
        if other is None:
            self._copy(source, slot, self._lengths[key])
        else:
            self._swap(source, slot, max(self._lengths[key], self._lengths[other]))
            self._slot_of[other] = source
        self._slots[source], self._slots[slot] = other, key
        self._slot_of[key] = slot
        while self._slots and self._slots[-1] is None:
            self._slots.pop()

    def _copy(self, source: int, target: int, length: int) -> None:
        if not length:
            return
        rows = [mx.contiguous(array[source : source + 1, :, :length]) for array in self._arrays()]
        mx.eval(rows)  # see snapshot
        self._write(target, rows, length)

    def _swap(self, a: int, b: int, length: int) -> None:
        first = [mx.contiguous(array[a : a + 1, :, :length]) for array in self._arrays()]
        second = [mx.contiguous(array[b : b + 1, :, :length]) for array in self._arrays()]
        mx.eval(first, second)
        self._write(b, first, length)
        self._write(a, second, length)

    def _write(self, slot: int, rows: Sequence[mx.array], length: int) -> None:
        pairs = iter(rows)
        for layer in self._layers:
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys[slot : slot + 1, :, :length] = next(pairs)
            layer.values[slot : slot + 1, :, :length] = next(pairs)

"""A rectangle of KV memory: rows of unequal length, side by side, for layers that all keep every position.

    keys, values of a layer: [slots, H, capacity, D]
      slot 0   |██████████░░░░░░|      █ positions that count (row length)
      slot 1   |████░░░░░░░░░░░░|      ░ garbage: masked now, overwritten later
      slot 2   |█████████████░░░|

A forward takes a contiguous range of slots, so that reading is a view and never a gather. A row with fewer real tokens
than the forward's width writes garbage past its length, which later writes cover; that is also what makes rolling back
free.

The layer caches offer what mlx-lm's models call (`offset`, `update_and_fetch`, `make_mask`). Where all rows of a
forward have one length the offset is an int and the mask is left to the kernel, as in mlx-lm's single-row path. It
knows which row stands in which slot, and no row's length.
"""

from collections.abc import Sequence
from typing import Any

from basemlx.engine.kv.rows import RowKey
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
"""((key heads, key dim), (value heads, value dim), dtype) of a layer."""


class Rectangle:
    """The slots of some rows, in every layer."""

    def __init__(self, layer_shapes: Sequence[LayerShape]) -> None:
        self._shapes = list(layer_shapes)
        self._geometry = Geometry()
        self.layers = [LayerCache(self._geometry) for _ in self._shapes]
        self._slots: list[RowKey | None] = []  # slot -> row
        self._slot_of: dict[RowKey, int] = {}
        self._room: dict[RowKey, int] = {}  # tokens that a row has needed so far
        self.capacity = 0

    def __contains__(self, key: RowKey) -> bool:
        return key in self._slot_of

    @property
    def rows(self) -> list[RowKey]:
        """In the order of their slots."""
        return [key for key in self._slots if key is not None]

    def take(self, key: RowKey, tokens: int) -> None:
        """A slot for a new row, with room for so many tokens."""
        slot = self._slots.index(None) if None in self._slots else len(self._slots)
        if slot == len(self._slots):
            self._slots.append(key)
        else:
            self._slots[slot] = key
        self._slot_of[key] = slot
        self._room[key] = tokens
        self.reserve(tokens)

    def free(self, key: RowKey) -> None:
        self._slots[self._slot_of.pop(key)] = None
        del self._room[key]
        self._trim()
        if not self._slots:  # idle: the memory goes back, the next row starts with a small rectangle
            self.capacity = 0
            for layer in self.layers:
                layer.keys = layer.values = None

    def reserve(self, tokens: int) -> None:
        """Grows to the slots in use and to `tokens` positions, the former by doubling."""
        held = self._held
        slots = held if held >= len(self._slots) else max(len(self._slots), 2 * held)
        capacity = max(self.capacity, capacity_for(tokens))
        if slots != held or capacity != self.capacity:
            self._resize(slots, capacity)

    def shrink(self, lengths: dict[RowKey, int]) -> None:
        """Gives memory back where the rows that are left need half of it or less; may move them."""
        slots, capacity = len(self.rows), capacity_for(max(self._room.values(), default=0))
        if slots and 2 * slots * capacity <= self._held * self.capacity:
            self.gather(self.rows, lengths)
            self._trim()
            self._resize(slots, capacity)

    # forwards

    def run(self, keys: Sequence[RowKey]) -> list[RowKey]:
        """The longest head of `keys` that stands in neighbouring slots, in their order."""
        run = [keys[0]]
        slots = {self._slot_of[key]: key for key in keys if key in self._slot_of}
        while (following := self._slot_of[run[-1]] + 1) in slots:
            run.append(slots[following])
        return run

    def gather(self, keys: Sequence[RowKey], lengths: dict[RowKey, int]) -> list[RowKey]:
        """Moves these rows to the first slots, and returns them in the order in which they stand there."""
        wanted = set(keys)
        free = [slot for slot in range(len(keys)) if self._slots[slot] not in wanted]
        for key in keys:
            if self._slot_of[key] >= len(keys):
                self._move(key, free.pop(), lengths)
        return [key for key in self._slots[: len(keys)] if key is not None]

    def aim(self, keys: Sequence[RowKey], lengths: Sequence[int], width: int) -> None:
        """The next forward is of these rows, in neighbouring slots, from these lengths on, `width` tokens each."""
        first = self._slot_of[keys[0]]
        assert [self._slot_of[key] for key in keys] == list(range(first, first + len(keys)))
        for key, length in zip(keys, lengths, strict=True):
            self._room[key] = max(self._room[key], length + width)
        self.reserve(max(lengths) + width)
        self._geometry.set(first, lengths, width)

    # copies

    def arrays(self) -> list[mx.array]:
        """Keys and values of every layer, layer by layer; none while idle."""
        return [array for layer in self.layers for array in (layer.keys, layer.values) if array is not None]

    def read(self, key: RowKey, start: int, stop: int) -> list[mx.array]:
        """A row's positions start…stop-1, with memory of their own."""
        slot = self._slot_of[key]
        pieces = [mx.contiguous(array[slot : slot + 1, :, start:stop]) for array in self.arrays()]
        # Evaluated at once: a pending view would keep the rectangle from being updated in place.
        mx.eval(pieces)
        return pieces

    def write(self, key: RowKey, start: int, pieces: Sequence[mx.array], count: int) -> None:
        """The first `count` positions of the pieces (keys and values of every layer), from `start` of a row on."""
        slot, pairs = self._slot_of[key], iter(pieces)
        for layer in self.layers:
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys[slot : slot + 1, :, start : start + count] = next(pairs)[:, :, :count]
            layer.values[slot : slot + 1, :, start : start + count] = next(pairs)[:, :, :count]

    def copy(self, other: "Rectangle", key: RowKey, count: int) -> None:
        """The first `count` positions of a row that stands in both, layer by layer: one layer is held twice at most."""
        slot, theirs = self._slot_of[key], other._slot_of[key]
        for layer, source in zip(self.layers, other.layers, strict=True):
            assert layer.keys is not None
            assert layer.values is not None
            assert source.keys is not None
            assert source.values is not None
            layer.keys[slot : slot + 1, :, :count] = source.keys[theirs : theirs + 1, :, :count]
            layer.values[slot : slot + 1, :, :count] = source.values[theirs : theirs + 1, :, :count]
            mx.eval(layer.keys, layer.values)

    # books

    def check_integrity(self) -> None:
        occupied = {key: slot for slot, key in enumerate(self._slots) if key is not None}
        assert occupied == self._slot_of, "slot table and row table disagree"
        assert self._room.keys() == self._slot_of.keys(), "a row whose room is not known"
        assert self._slots or not self.arrays(), "an idle rectangle holds memory"

    # inside

    @property
    def _held(self) -> int:
        """Slots that there is memory for."""
        return self.layers[0].keys.shape[0] if self.layers[0].keys is not None else 0

    def _resize(self, slots: int, capacity: int) -> None:
        for layer, shape in zip(self.layers, self._shapes, strict=True):
            layer.resize(slots, capacity, shape)
        self.capacity = capacity

    def _trim(self) -> None:
        while self._slots and self._slots[-1] is None:
            self._slots.pop()

    def _move(self, key: RowKey, slot: int, lengths: dict[RowKey, int]) -> None:
        """Puts a row into `slot`; a row that stands there changes places with it."""
        source, other = self._slot_of[key], self._slots[slot]
        length = max(lengths[row] for row in (key, other) if row is not None)
        moved = self.read(key, 0, length)
        displaced = self.read(other, 0, length) if other is not None else []
        self._slots[source], self._slots[slot] = other, key
        self._slot_of[key] = slot
        self.write(key, 0, moved, length)
        if other is not None:
            self._slot_of[other] = source
            self.write(other, 0, displaced, length)
        self._trim()


def capacity_for(tokens: int) -> int:
    """Positions that a rectangle has for rows of so many."""
    return -(-tokens // CAPACITY_STEP_TOKENS) * CAPACITY_STEP_TOKENS

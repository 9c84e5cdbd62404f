"""KV rows for models with sliding-window, recurrent or other layers, on mlx-lm's own cache classes.

Such a row cannot be cut or rolled back, so it decodes one token at a time and prefixes are reused only at checkpoints.
A prompt is computed alone, in its own caches (no padding can reach a recurrent state), and a row that decodes alone
stays there: mlx-lm's batch caches pay for their masks with up to a third of the speed. Several rows that decode are
merged into one batch where every cache class can merge, extend, filter and extract; where one cannot, each decodes in
a forward of its own: slower, never wrong.

It knows mlx-lm's cache protocol and nothing of any single architecture.
"""

from collections.abc import Callable, Sequence
from typing import Any

from basemlx.engine.kv.rows import RowKey, Segment
from basemlx.engine.runtime import mx, tree_flatten, tree_map

MakeCache = Callable[[], list[Any]]


class CheckpointedRows:
    """Rows of caches made by `make_cache` (one list of layer caches per row)."""

    sliceable = False

    def __init__(self, make_cache: MakeCache) -> None:
        self._make_cache = make_cache
        caches = make_cache()
        self.num_layers = len(caches)
        self._mergeable = all(_can_merge(cache) for cache in caches)
        self._alone: dict[RowKey, list[Any]] = {}  # rows that are not in the batch
        self._batch: list[Any] = []  # merged layer caches of the rows in _order
        self._order: list[RowKey] = []
        self._lengths: dict[RowKey, int] = {}
        self._fixed_bytes, self._bytes_per_token = 0, 0

    # rows

    def open(self, key: RowKey, segments: Sequence[tuple[Segment, int]], capacity_tokens: int) -> None:
        assert key not in self._lengths
        if segments:
            (segment, count) = segments[-1]
            assert count == segment.stop
            self._alone[key] = _restore(segment)
            self._lengths[key] = count
        else:
            self._alone[key] = self._make_cache()
            self._lengths[key] = 0

    def close(self, key: RowKey) -> None:
        if self._lengths.pop(key, None) is None:
            return
        self._alone.pop(key, None)
        if key in self._order:
            self._leave({key})

    def fork(self, source: RowKey, keys: Sequence[RowKey]) -> None:
        if not keys:
            return
        copy = self.snapshot(source, 0, self._lengths[source])
        for key in keys:
            self.open(key, [(copy, copy.stop)] if copy.stop else [], copy.stop)

    def __contains__(self, key: RowKey) -> bool:
        return key in self._lengths

    def length(self, key: RowKey) -> int:
        return self._lengths[key]

    def truncate(self, key: RowKey, length: int) -> None:
        raise RuntimeError("these rows cannot be rolled back")

    # forwards

    def group(self, keys: Sequence[RowKey]) -> list[RowKey]:
        return [keys[0]]

    def prefill(self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]) -> None:
        (key,) = keys
        model(tokens[:, : counts[0]], cache=self._alone[key])
        self._lengths[key] += counts[0]

    def layers(self, keys: Sequence[RowKey]) -> list[list[mx.array]]:
        rows = [self._alone[key] for key in keys]
        return [_arrays([cache.state for cache in layer]) for layer in zip(*rows, strict=True)]

    def measure(self, caches: Sequence[Any]) -> None:
        """Learns what a row costs from one that holds something: arrays of four axes grow with its length (or up to
        a window; the estimate is on the safe side), the others stay."""
        arrays = _arrays([cache.state for cache in caches])
        growing = [array for array in arrays if array.ndim == 4]
        self._bytes_per_token = sum(array.nbytes // max(1, array.shape[2]) for array in growing)
        self._fixed_bytes = sum(array.nbytes for array in arrays if array.ndim != 4)

    def decode_order(self, keys: Sequence[RowKey]) -> list[RowKey]:
        if not self._mergeable:
            return list(keys)
        wanted = set(keys)
        if leaving := set(self._order) - wanted:  # a row that pauses goes back to caches of its own
            self._extract(leaving)
        if len(wanted) == 1:
            self._extract(wanted & set(self._order))
            return list(keys)
        if joining := [key for key in keys if key in self._alone]:
            rows = [self._alone.pop(key) for key in joining]
            merged = [type(layer[0]).merge(list(layer)) for layer in zip(*rows, strict=True)]
            if self._order:
                for cache, other in zip(self._batch, merged, strict=True):
                    cache.extend(other)
            else:
                self._batch = merged
            self._order += joining
        return list(self._order)

    def decode(self, model: Any, keys: Sequence[RowKey], tokens: mx.array, counts: Sequence[int]) -> mx.array:
        assert tokens.shape[1] == 1
        if self._order:
            logits: mx.array = model(tokens, cache=self._batch)
        else:
            rows = [model(tokens[i : i + 1], cache=self._alone[key]) for i, key in enumerate(keys)]
            logits = rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=0)
        for key in keys:
            self._lengths[key] += 1
        return logits

    # copies

    def snapshot(self, key: RowKey, start: int, stop: int) -> Segment:
        assert stop == self._lengths[key], "a checkpoint is of the whole row"
        if key in self._alone:
            caches = self._alone[key]
        else:
            index = self._order.index(key)
            caches = [cache.extract(index) for cache in self._batch]
        states = _copied([cache.state for cache in caches])
        arrays = tuple(_arrays(states))
        mx.eval(arrays)
        return Segment(arrays, 0, stop, state=([type(cache) for cache in caches], states))

    # books

    def bytes_for(self, rows: int, tokens: int) -> int:
        return rows * (self._fixed_bytes + tokens * self._bytes_per_token)

    @property
    def nbytes(self) -> int:
        rows = [self._batch, *self._alone.values()]
        states = [cache.state for row in rows for cache in row if not cache.empty()]
        return sum(array.nbytes for array in _arrays(states))

    @property
    def num_rows(self) -> int:
        return len(self._lengths)

    def check_integrity(self) -> None:
        assert self._lengths.keys() == set(self._alone) | set(self._order), (
            "a row without caches, or the reverse"
        )
        assert not set(self._alone) & set(self._order), "a row in two places"
        assert self._order or not self._batch, "an idle batch holds memory"

    # inside

    def _extract(self, keys: set[RowKey]) -> None:
        """Gives rows of the batch caches of their own again."""
        for key in keys:
            index = self._order.index(key)
            self._alone[key] = [cache.extract(index) for cache in self._batch]
        if keys:
            self._leave(keys)

    def _leave(self, keys: set[RowKey]) -> None:
        keep = [index for index, key in enumerate(self._order) if key not in keys]
        self._order = [self._order[index] for index in keep]
        if keep:
            indices = mx.array(keep, dtype=mx.int32)
            for cache in self._batch:
                cache.filter(indices)
        else:
            self._batch = []


def _can_merge(cache: Any) -> bool:
    """Whether a cache class, and the batch class it merges into, offer everything a batch needs."""
    parts = getattr(cache, "caches", None)
    if parts is not None:
        return all(_can_merge(part) for part in parts)
    if getattr(cache, "keep", 0):  # mlx-lm's merge drops the kept head of a rotating cache
        return False
    if not hasattr(cache, "merge"):
        return False
    batch = type(cache).merge([cache])
    return all(hasattr(batch, name) for name in ("extend", "filter", "extract"))


def _arrays(states: Any) -> list[mx.array]:
    return [leaf for leaf in dict(tree_flatten(states)).values() if isinstance(leaf, mx.array)]


def _copied(states: Any) -> Any:
    """The same tree with array objects of its own: mlx-lm's caches assign into theirs in place."""
    return tree_map(lambda value: mx.array(value) if isinstance(value, mx.array) else value, states)


def _restore(segment: Segment) -> list[Any]:
    classes, states = segment.state
    return [cls.from_state(state) for cls, state in zip(classes, _copied(states), strict=True)]

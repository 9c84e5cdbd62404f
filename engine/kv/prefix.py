"""Computed prefixes kept for reuse: a radix tree over token ids, with a byte budget, least-recently-used eviction and
leases.

    root ── [system prompt …] ─┬─ [question A …]          each node: the tokens of its edge and their payload
                               └─ [question B …] ── [answer B …]

Keys are compared token by token, so no hash collision can serve somebody else's cache; trees of different namespaces
(model, adapter, salt) never meet. It touches payloads only through `Payload`, imports no MLX and starts no thread.

Two kinds of payload: a *sliceable* one covers its node's own tokens and may be used in part; a *checkpoint* covers
everything from the root to its node's end and is used whole or not at all.

The radix tree over a shared cache follows RadixAttention (Zheng et al., "SGLang: Efficient Execution of Structured
Language Model Programs", 2023).
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Payload(Protocol):
    """What a node keeps; engine.kv.rows.Segment is one."""

    @property
    def nbytes(self) -> int: ...

    def split(self, at: int) -> "tuple[Payload, Payload]": ...


P = TypeVar("P", bound=Payload)
Tokens = tuple[int, ...]


class _Node(Generic[P]):
    __slots__ = ("children", "leases", "parent", "payload", "stamp", "start", "tokens")

    def __init__(self, tokens: Tokens, start: int, parent: "_Node[P] | None", payload: P | None) -> None:
        self.tokens = tokens
        self.start = start  # position of the first token of this edge
        self.parent = parent
        self.payload = payload
        self.children: dict[int, _Node[P]] = {}
        self.leases = 0
        self.stamp = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)


class Lease(Generic[P]):
    """A matched prefix: `length` tokens held by `parts`, (payload, tokens of it to use) from the start on.

    What it covers is not evicted until `release`, which may be called more than once. Usable as a context manager.
    """

    def __init__(self, length: int, parts: list[tuple[P, int]], node: "_Node[P] | None") -> None:
        self.length = length
        self.parts = parts
        self._node = node  # the deepest one: what lies above it has a child and stays
        if node is not None:
            node.leases += 1

    def release(self) -> None:
        if self._node is not None:
            self._node.leases -= 1
        self._node, self.parts = None, []

    def __enter__(self) -> "Lease[P]":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class PrefixCache(Generic[P]):
    """See the module. `budget_bytes` 0 keeps nothing."""

    def __init__(self, budget_bytes: int, *, sliceable: bool) -> None:
        self.budget_bytes = budget_bytes
        self._sliceable = sliceable
        self._roots: dict[Hashable, _Node[P]] = {}
        self._nbytes = 0
        self._num_entries = 0
        self._clock = 0  # a count of uses, not a time

    @property
    def nbytes(self) -> int:
        return self._nbytes

    @property
    def num_entries(self) -> int:
        return self._num_entries

    @property
    def num_leases(self) -> int:
        return sum(node.leases for node in self._walk())

    def match(self, namespace: Hashable, tokens: Sequence[int]) -> Lease[P]:
        """The longest kept prefix of `tokens`, leased. A lease of length 0 is a miss."""
        path, matched = self._descend(namespace, tokens)
        for node in path:
            self._touch(node)
        if self._sliceable:
            parts = [(n.payload, min(n.stop, matched) - n.start) for n in path if n.payload is not None]
            return Lease(matched, parts, path[-1] if path else None)
        for node in reversed(path):
            if node.payload is not None and node.stop <= matched:
                return Lease(node.stop, [(node.payload, node.stop)], node)
        return Lease(0, [], None)

    def covered(self, namespace: Hashable, tokens: Sequence[int]) -> int:
        """How many of `tokens` are kept already: what `insert` needs a payload for starts there."""
        path, matched = self._descend(namespace, tokens)
        if self._sliceable:
            return matched
        complete = path and path[-1].stop == matched == len(tokens) and path[-1].payload is not None
        return len(tokens) if complete else 0

    def insert(self, namespace: Hashable, tokens: Sequence[int], payload: P) -> bool:
        """Keeps `payload` for `tokens` from `covered(…)` on (all of them for a checkpoint). False if there was no room.

        Other entries are evicted to make room, least recently used first, leased ones never.
        """
        size = payload.nbytes
        path, matched = self._descend(namespace, tokens)
        for node in path:
            self._touch(node)
        with Lease(
            matched, [], path[-1] if path else None
        ):  # what the new node hangs on survives the eviction
            fits = size <= self.budget_bytes and self._evict_to(self.budget_bytes - size)
        if not fits:
            if path:  # which may have lost what it kept, and its children, meanwhile
                self._prune(path[-1])
            return False
        parent = self._node_ending_at(namespace, path, matched)
        if matched < len(tokens):
            node = _Node(tuple(tokens[matched:]), matched, parent, payload)
            parent.children[node.tokens[0]] = node
        else:
            node = parent
            if node.payload is not None or node.parent is None:
                return True
            node.payload = payload
        self._nbytes += size
        self._num_entries += 1
        self._touch(node)
        if path:
            self._prune(path[-1])  # the far side of a split may have lost all that hung on it to the eviction
        return True

    def evict(self, to_bytes: int) -> bool:
        """Evicts until at most `to_bytes` are held; False if leases prevent it."""
        return self._evict_to(to_bytes)

    def clear(self) -> None:
        """Drops everything that is not leased."""
        self._evict_to(0)

    def check_integrity(self) -> None:
        """Raises AssertionError when the tree, the byte count or the leases do not add up."""
        total = entries = 0
        for node in self._walk():
            entries += node.payload is not None
            total += node.payload.nbytes if node.payload is not None else 0
            assert node.leases >= 0, "a lease released twice"
            if node.parent is None:
                continue
            assert node.tokens, "an empty edge"
            assert node.parent.children.get(node.tokens[0]) is node, "a node its parent does not know"
            assert node.start == node.parent.stop, "a gap between a node and its parent"
            assert node.payload is not None or node.children, "a node that keeps nothing"
            assert not self._sliceable or node.payload is not None, "a hole in a sliceable path"
        assert entries == self._num_entries, (
            f"{self._num_entries} entries in the books, {entries} in the tree"
        )
        assert total == self._nbytes, f"{self._nbytes} bytes in the books, {total} in the tree"
        assert self._nbytes <= self.budget_bytes, "over budget"

    # inside

    def _descend(self, namespace: Hashable, tokens: Sequence[int]) -> "tuple[list[_Node[P]], int]":
        """The nodes that agree with `tokens`, the last perhaps in part, and the number of tokens that agree."""
        root = self._roots.get(namespace)
        path: list[_Node[P]] = []
        matched = 0
        node = root
        while node is not None and matched < len(tokens):
            child = node.children.get(tokens[matched])
            if child is None:
                break
            agreed = _common_length(child.tokens, tokens, matched)
            path.append(child)
            matched += agreed
            if agreed < len(child.tokens):
                break
            node = child
        return path, matched

    def _node_ending_at(self, namespace: Hashable, path: "list[_Node[P]]", position: int) -> "_Node[P]":
        """The node at whose end `position` lies, splitting the last of `path` where it lies inside."""
        if not path:
            return self._roots.setdefault(namespace, _Node((), 0, None, None))
        node = path[-1]
        return node if node.stop == position else self._split(node, position)

    def _split(self, node: "_Node[P]", position: int) -> "_Node[P]":
        assert node.parent is not None
        cut = position - node.start
        head: _Node[P] = _Node(node.tokens[:cut], node.start, node.parent, None)
        head.stamp = node.stamp
        if self._sliceable and node.payload is not None:
            before = node.payload.nbytes
            first, second = node.payload.split(position)
            head.payload, node.payload = first, second  # type: ignore[assignment]  # split keeps the type
            self._nbytes += first.nbytes + second.nbytes - before
            self._num_entries += 1
        node.parent.children[head.tokens[0]] = head
        node.tokens, node.start, node.parent = node.tokens[cut:], position, head
        head.children[node.tokens[0]] = node
        return head

    def _evict_to(self, to_bytes: int) -> bool:
        while self._nbytes > max(0, to_bytes):
            victims = [n for n in self._walk() if not n.leases and n.payload is not None and self._is_free(n)]
            if not victims:
                return False
            for victim in sorted(victims, key=lambda node: node.stamp):  # then what became a leaf, if need be
                assert victim.payload is not None
                self._nbytes -= victim.payload.nbytes
                self._num_entries -= 1
                victim.payload = None
                self._prune(victim)
                if self._nbytes <= max(0, to_bytes):
                    break
        return True

    def _is_free(self, node: "_Node[P]") -> bool:
        """A sliceable payload serves its children's prefixes too, so only leaves go; a checkpoint stands alone."""
        return not self._sliceable or not node.children

    def _prune(self, node: "_Node[P]") -> None:
        while node.parent is not None and node.payload is None and not node.children and not node.leases:
            del node.parent.children[node.tokens[0]]
            node = node.parent
        if node.parent is None and not node.children:
            self._roots = {name: root for name, root in self._roots.items() if root is not node}

    def _touch(self, node: "_Node[P]") -> None:
        self._clock += 1
        node.stamp = self._clock

    def _walk(self) -> "Iterator[_Node[P]]":
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def _common_length(edge: Tokens, tokens: Sequence[int], start: int) -> int:
    length = min(len(edge), len(tokens) - start)
    if tuple(tokens[start : start + length]) == edge[:length]:
        return length
    return next(index for index in range(length) if edge[index] != tokens[start + index])

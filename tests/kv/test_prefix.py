"""The prefix cache's tree, budget and leases, with payloads that know which tokens they stand for."""

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from basemlx.engine.kv.prefix import Lease, PrefixCache

BYTES_PER_TOKEN = 10


@dataclass(frozen=True)
class Stored:
    """A payload for tokens[start:]: what it covers can be read back."""

    tokens: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return BYTES_PER_TOKEN * (len(self.tokens) - self.start)

    def split(self, at: int) -> "tuple[Stored, Stored]":
        return Stored(self.tokens[:at], self.start), Stored(self.tokens, at)


def keep(cache: PrefixCache[Stored], tokens: list[int], namespace: str = "") -> bool:
    covered = cache.covered(namespace, tokens)
    if covered == len(tokens):
        return True
    return cache.insert(namespace, tokens, Stored(tuple(tokens), covered))


def read(lease: Lease[Stored]) -> list[int]:
    """The tokens that the leased parts stand for."""
    found: list[int] = []
    for payload, count in lease.parts:
        assert payload.start == len(found)
        found += payload.tokens[payload.start : payload.start + count]
    return found


def test_a_prefix_is_found_to_the_token() -> None:
    cache: PrefixCache[Stored] = PrefixCache(10_000, sliceable=True)
    keep(cache, [1, 2, 3, 4, 5])
    keep(cache, [1, 2, 3, 9, 9])
    assert read(cache.match("", [1, 2, 3, 4, 7])) == [1, 2, 3, 4]
    assert read(cache.match("", [1, 2, 3, 9, 9, 9])) == [1, 2, 3, 9, 9]
    assert read(cache.match("", [2])) == []
    assert cache.nbytes == 7 * BYTES_PER_TOKEN  # the shared head is held once


def test_namespaces_never_meet() -> None:
    cache: PrefixCache[Stored] = PrefixCache(10_000, sliceable=True)
    keep(cache, [1, 2, 3], "a")
    assert cache.match("b", [1, 2, 3]).length == 0


def test_the_least_recently_used_leaf_goes_first() -> None:
    cache: PrefixCache[Stored] = PrefixCache(6 * BYTES_PER_TOKEN, sliceable=True)
    keep(cache, [1, 1, 1])
    keep(cache, [2, 2, 2])
    cache.match("", [1, 1, 1]).release()
    keep(cache, [3, 3, 3])
    assert cache.match("", [2, 2, 2]).length == 0
    assert read(cache.match("", [1, 1, 1])) == [1, 1, 1]


def test_what_is_leased_is_not_evicted_and_what_does_not_fit_is_refused() -> None:
    cache: PrefixCache[Stored] = PrefixCache(4 * BYTES_PER_TOKEN, sliceable=True)
    keep(cache, [1, 1, 1])
    with cache.match("", [1, 1]) as lease:
        assert not keep(cache, [2, 2, 2])
        assert read(lease) == [1, 1]
    assert keep(cache, [2, 2, 2])
    assert cache.match("", [1, 1]).length == 0
    assert not keep(cache, [5] * 5)


def test_a_budget_of_nothing_keeps_nothing() -> None:
    cache: PrefixCache[Stored] = PrefixCache(0, sliceable=True)
    assert not keep(cache, [1])
    assert cache.num_entries == 0


def test_a_checkpoint_serves_only_as_a_whole() -> None:
    cache: PrefixCache[Stored] = PrefixCache(10_000, sliceable=False)
    cache.insert("", [1, 2, 3, 4], Stored((1, 2, 3, 4), 0))
    cache.insert("", [1, 2], Stored((1, 2), 0))
    assert read(cache.match("", [1, 2, 3, 5])) == [1, 2]
    assert read(cache.match("", [1, 2, 3, 4, 5])) == [1, 2, 3, 4]
    assert cache.match("", [1, 9]).length == 0
    assert cache.covered("", [1, 2, 3]) == 0
    cache.check_integrity()


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)


class TreeMachine(RuleBasedStateMachine):
    """Any order of keeping, matching, releasing and evicting leaves whole books, and never serves a wrong prefix."""

    sliceable = True

    def __init__(self) -> None:
        super().__init__()
        self.cache: PrefixCache[Stored] = PrefixCache(20 * BYTES_PER_TOKEN, sliceable=self.sliceable)
        self.leases: list[tuple[Lease[Stored], list[int]]] = []

    @rule(tokens=TOKENS, namespace=st.sampled_from("ab"))
    def keep(self, tokens: list[int], namespace: str) -> None:
        if self.sliceable:
            kept = keep(self.cache, tokens, namespace)
        else:
            kept = self.cache.insert(namespace, tokens, Stored(tuple(tokens), 0))
        if kept:
            with self.cache.match(namespace, tokens) as lease:
                assert lease.length == len(tokens)

    @rule(tokens=TOKENS, namespace=st.sampled_from("ab"))
    def match(self, tokens: list[int], namespace: str) -> None:
        lease = self.cache.match(namespace, tokens)
        self.leases.append((lease, tokens))

    @rule()
    def release(self) -> None:
        if self.leases:
            lease, _ = self.leases.pop(0)
            lease.release()
            lease.release()

    @rule(share=st.floats(0, 1))
    def evict(self, share: float) -> None:
        self.cache.evict(int(share * self.cache.nbytes))

    @invariant()
    def books_are_whole(self) -> None:
        self.cache.check_integrity()
        for lease, tokens in self.leases:
            assert read(lease) == tokens[: lease.length]

    def teardown(self) -> None:
        for lease, _ in self.leases:
            lease.release()
        self.cache.clear()
        self.cache.check_integrity()
        assert self.cache.nbytes == self.cache.num_entries == self.cache.num_leases == 0


class CheckpointMachine(TreeMachine):
    """The same for checkpoints."""

    sliceable = False

    @invariant()
    def books_are_whole(self) -> None:
        self.cache.check_integrity()
        for lease, tokens in self.leases:
            assert all(payload.tokens == tuple(tokens[: lease.length]) for payload, _ in lease.parts)


@pytest.mark.parametrize("machine", [TreeMachine, CheckpointMachine])
def test_any_order_of_use_leaves_whole_books(machine: type[TreeMachine]) -> None:
    case = machine.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    case("runTest").runTest()

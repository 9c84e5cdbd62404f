"""The pool's decisions: one by one, and under random histories."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from basemlx.engine.models.pool import Grant, Load, ModelPool, Refuse, Room, State, Taken, Unload, Wait

TEN = Taken(10, 10)


def make_pool(ceiling: int, *loaded: str, now_s: float = 0.0) -> ModelPool:
    """A pool with models of 10 bytes, loaded and last used in the order given, one second apart."""
    pool = ModelPool(Room(ceiling))
    for index, name in enumerate(loaded):
        pool.want(name, 10)
        assert pool.next_action(now_s + index) == Load(name)
        pool.loaded(name, TEN, now_s + index)
    return pool


def test_a_model_that_fits_is_loaded_beside_the_others() -> None:
    pool = make_pool(30, "a", "b")
    pool.want("c", 10)
    assert pool.next_action(5.0) == Load("c")
    assert pool.held_bytes == 30


def test_the_least_recently_used_idle_model_makes_room() -> None:
    pool = make_pool(20, "a", "b")
    assert pool.acquire("a", 9.0)
    pool.release("a", 9.0)
    pool.want("c", 10)
    assert pool.next_action(10.0) == Unload("b", "room")
    assert pool.next_action(10.0) == Wait(None), "it waits for what is on its way out"
    pool.unloaded("b")
    assert pool.next_action(10.0) == Load("c")


def test_a_model_in_use_is_waited_for_and_takes_no_new_users() -> None:
    pool = make_pool(10, "a")
    assert pool.acquire("a", 1.0)
    pool.want("b", 10)
    assert pool.next_action(1.0) == Wait(None)
    assert not pool.acquire("a", 2.0), "b was first"
    pool.want("a", 10)
    pool.release("a", 3.0)
    assert pool.next_action(3.0) == Unload("a", "room")
    pool.unloaded("a")
    assert pool.next_action(3.0) == Load("b")
    pool.loaded("b", TEN, 4.0)
    pool.grant("b", 1, 4.0)
    assert pool.next_action(4.0) == Wait(None), "a waits for its turn"
    pool.release("b", 5.0)
    assert pool.next_action(5.0) == Unload("b", "room")


def test_a_model_whose_rival_gave_up_is_handed_out_again() -> None:
    pool = make_pool(10, "a")
    assert pool.acquire("a", 1.0)
    pool.want("b", 10)
    pool.next_action(1.0)
    pool.want("a", 10)
    pool.forget("b")
    assert pool.next_action(2.0) == Grant("a")


def test_what_can_never_fit_is_refused_with_the_figures() -> None:
    pool = make_pool(30, "a", "b")
    pool.keep("a", pinned=True)
    pool.want("c", 25)
    assert pool.next_action(1.0) == Refuse("c", 25, 30, 10)
    assert pool.find("b") is not None, "nothing was unloaded in vain"


def test_an_idle_model_leaves_when_its_time_is_over_and_a_pinned_one_does_not() -> None:
    pool = make_pool(30, "a", "b")
    pool.keep("a", idle_ttl_s=60.0)
    pool.keep("b", idle_ttl_s=60.0, pinned=True)
    assert pool.next_action(59.0) == Wait(60.0)
    assert pool.acquire("a", 59.5)
    assert pool.next_action(100.0) == Wait(None), "its time counts from the last release"
    pool.release("a", 100.0)
    assert pool.next_action(159.0) == Wait(160.0)
    assert pool.next_action(160.0) == Unload("a", "idle")


def test_asked_to_leave_it_goes_when_its_last_user_is_done() -> None:
    pool = make_pool(10, "a")
    pool.keep("a", pinned=True)
    assert pool.acquire("a", 1.0)
    assert pool.ask_to_leave("a")
    assert not pool.acquire("a", 1.0)
    assert pool.next_action(1.0) == Wait(None)
    pool.release("a", 2.0)
    assert pool.next_action(2.0) == Unload("a", "asked")
    assert not pool.ask_to_leave("nobody")


def test_a_failed_load_leaves_nothing_behind() -> None:
    pool = make_pool(10)
    pool.want("a", 10)
    assert pool.next_action(0.0) == Load("a")
    pool.load_failed("a")
    assert (pool.held_bytes, pool.find("a"), pool.wanted) == (0, None, [])
    pool.want("a", 10)
    assert pool.next_action(0.0) == Load("a"), "the next try is a try"


def test_models_larger_than_estimated_make_the_older_ones_leave() -> None:
    pool = make_pool(20, "a")
    pool.want("b", 10)
    assert pool.next_action(1.0) == Load("b")
    pool.loaded("b", Taken(15, 15), 1.0)
    assert pool.next_action(1.0) == Unload("a", "room")
    pool.unloaded("a")
    assert pool.next_action(1.0) == Wait(None)


def test_no_model_leaves_in_vain_where_the_machine_would_get_back_too_little() -> None:
    """It counts with what it may need, and holds less."""
    pool = make_pool(100)
    pool.room = Room(100, spare_bytes=12)
    pool.want("a", 10)
    assert pool.next_action(0.0) == Load("a")
    pool.loaded("a", Taken(10, 4), 0.0)
    pool.room = Room(100, spare_bytes=8)
    pool.want("b", 15)
    assert isinstance(pool.next_action(1.0), Refuse)
    assert pool.find("a") is not None
    pool.want("b", 12)
    assert pool.next_action(2.0) == Unload("a", "room"), "4 of its 10 are enough"


def test_a_model_in_use_may_hold_more_than_it_surely_does_and_is_waited_for() -> None:
    pool = make_pool(100, "a")
    resident = pool.find("a")
    assert resident is not None
    resident.freed_bytes = 4
    assert pool.acquire("a", 1.0)
    pool.room = Room(100, spare_bytes=2)
    pool.want("b", 6)
    assert pool.next_action(1.0) == Wait(None), "what its running rows take comes back, too"
    pool.release("a", 2.0)
    pool.room = Room(100, spare_bytes=5)
    assert pool.next_action(2.0) == Unload("a", "room")


def test_releasing_more_than_was_acquired_is_a_bug() -> None:
    pool = make_pool(10, "a")
    with pytest.raises(AssertionError):
        pool.release("a", 0.0)


NAMES = ("a", "b", "c", "d")
SIZES = {"a": 10, "b": 10, "c": 6, "d": 18}


class PoolHistories(RuleBasedStateMachine):
    """Users come, wait, give up and go; loads take time, fail or turn out larger; time passes; models are pinned and
    asked to leave. A carrier does what the pool says, one thing at a time, as the keeper does."""

    users = Bundle("users")

    def __init__(self) -> None:
        super().__init__()
        self.pool = ModelPool(Room(20))
        self.now_s = 0.0
        self.held: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self.doing: Load | Unload | None = None
        self.num_turned_away = 0

    @rule(target=users, name=st.sampled_from(NAMES))
    def come(self, name: str) -> str:
        if self.pool.acquire(name, self.now_s):
            resident = self.pool.find(name)
            assert resident is not None
            assert resident.state is State.LOADED
            self.held[name] += 1
        else:
            self.waiting[name] += 1
            self.pool.want(name, SIZES[name])
        return name

    @rule(name=users)
    def go(self, name: str) -> None:
        if self.held[name]:
            self.held[name] -= 1
            self.pool.release(name, self.now_s)

    @rule(name=users)
    def give_up(self, name: str) -> None:
        if self.waiting[name]:
            self.waiting[name] -= 1
            if not self.waiting[name]:
                self.pool.forget(name)

    @rule(name=st.sampled_from(NAMES), pinned=st.booleans(), ttl=st.sampled_from([None, 1.0, 5.0]))
    def keep(self, name: str, pinned: bool, ttl: float | None) -> None:
        if self.pool.find(name) is not None:
            self.pool.keep(name, pinned=pinned, idle_ttl_s=ttl)

    @rule(name=st.sampled_from(NAMES), really=st.booleans())
    def ask_to_leave(self, name: str, really: bool) -> None:
        if self.pool.ask_to_leave(name) and not really:
            self.pool.let_stay(name)

    @rule(seconds=st.floats(0.0, 10.0))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(limit=st.sampled_from([12, 20, 40]), spare=st.sampled_from([None, 0, 5, 10, 30]))
    def change_room(self, limit: int, spare: int | None) -> None:
        self.pool.room = Room(limit, spare)

    @precondition(lambda self: self.doing is None)
    @rule()
    def begin(self) -> None:
        self.act()

    @precondition(lambda self: self.doing is not None)
    @rule(outcome=st.sampled_from(["well", "well", "larger", "failed"]))
    def finish(self, outcome: str) -> None:
        self.end(outcome)

    def act(self) -> bool:
        """One decision, as the keeper takes it; whether there was one."""
        queued = self.pool.wanted
        before = {resident.name: (resident.refs, resident.pinned, resident.leaving) for resident in self.pool}
        action = self.pool.next_action(self.now_s)
        if isinstance(action, Load):
            assert queued[0] == action.name, "served out of order"
            assert self.pool.held_bytes <= self.pool.ceiling_bytes, "loading over the ceiling"
            self.doing = action
        elif isinstance(action, Unload):
            refs, pinned, leaving = before[action.name]
            assert refs == 0, "unloaded in use"
            assert leaving or not pinned, "a pinned model was made to leave"
            self.doing = action
        elif isinstance(action, Grant):
            self.hand_out(action.name)
        elif isinstance(action, Refuse):
            assert action.needed_bytes > action.ceiling_bytes - action.pinned_bytes
            self.num_turned_away += self.waiting.pop(action.name, 0)
        else:
            return False
        return True

    def end(self, outcome: str) -> None:
        action, self.doing = self.doing, None
        if isinstance(action, Unload):
            self.pool.unloaded(action.name)
        elif isinstance(action, Load) and outcome == "failed":
            self.pool.load_failed(action.name)
            self.num_turned_away += self.waiting.pop(action.name, 0)
            self.pool.forget(action.name)
        elif isinstance(action, Load):
            larger = 3 if outcome == "larger" else 0
            num_bytes = SIZES[action.name] + larger
            self.pool.loaded(action.name, Taken(num_bytes, num_bytes // 2), self.now_s)
            self.pool.keep(action.name, idle_ttl_s=1.0)  # as the keeper does; a rule may change it
            self.hand_out(action.name)

    def hand_out(self, name: str) -> None:
        count = self.waiting.pop(name, 0)
        self.pool.grant(name, count, self.now_s)
        self.pool.forget(name)
        self.held[name] += count

    @invariant()
    def books_agree(self) -> None:
        self.pool.check_integrity()
        for name, count in self.held.items():
            resident = self.pool.find(name)
            assert count == 0 or (resident is not None and resident.state is State.LOADED), (
                f"{name} left under its user"
            )
            assert resident is None or resident.refs == count

    def teardown(self) -> None:
        """Nobody starves: when users go and loads succeed, everybody who waits is served or refused."""
        for _ in range(200):
            if self.doing is not None:
                self.end("well")
            elif not self.act():
                users = [name for name, count in self.held.items() if count]
                for name in users:
                    self.held[name] -= 1
                    self.pool.release(name, self.now_s)
                if not users:
                    break
        assert not +self.waiting, "somebody waits for ever"
        assert not self.pool.wanted
        self.books_agree()


PoolHistories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPoolHistories = PoolHistories.TestCase

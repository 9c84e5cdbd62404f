"""Which models are in memory and which has to go for another: the books and the decisions, nothing else.

    want ──▶ queue ──▶ next_action ──▶ Load │ Unload │ Grant │ Refuse │ Wait      carried out by engine.models.keeper

A model is held by reference counts: what is in use is never unloaded. Idle models leave in order of last use when
another needs their room under the ceiling, or when their idle time is over; pinned ones only when asked to. The queue
of wanted models is served strictly in order. Those that must make room for its head take no new users meanwhile: a busy
model cannot keep another out, and two models that do not fit together take turns instead of swapping at every request,
since whoever asks while the other runs is served together in the next turn.

Imports no MLX, starts no thread and reads no clock; its caller holds a lock around every method. Times in seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class Room:
    """`limit_bytes`: what models may take in all. `spare_bytes`: what the machine could give beyond what they hold;
    None if that is not looked at."""

    limit_bytes: int
    spare_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a loaded model counts as, with what it may yet need, and what the machine surely gets back when it goes."""

    num_bytes: int
    freed_bytes: int


class State(Enum):
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"


@dataclass(slots=True)
class Resident:
    """A model in memory, or on its way in or out. `num_bytes` is an estimate until it is loaded, and `freed_bytes` 0.

    `idle_ttl_s`: how long it may be idle before it leaves; None for ever. `leaving`: asked to unload.
    """

    name: str
    num_bytes: int
    state: State = State.LOADING
    freed_bytes: int = 0
    refs: int = 0
    pinned: bool = False
    idle_ttl_s: float | None = None
    last_used_s: float = 0.0
    leaving: bool = False

    @property
    def is_idle(self) -> bool:
        return self.state is State.LOADED and not self.refs

    @property
    def expires_s(self) -> float | None:
        """When its idle time is over, as it stands now."""
        if not self.is_idle or self.pinned or self.idle_ttl_s is None:
            return None
        return self.last_used_s + self.idle_ttl_s


@dataclass(frozen=True, slots=True)
class Load:
    """Load it; answer with `loaded` or `load_failed`."""

    name: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload it; answer with `unloaded`. `reason` is for the log: asked, idle or room."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """It is loaded after all: whoever waits for it may have it."""

    name: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot fit: `ceiling_bytes` less the `pinned_bytes` is less than the `needed_bytes`."""

    name: str
    needed_bytes: int
    ceiling_bytes: int
    pinned_bytes: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before something is released, wanted or done, or before `until_s`."""

    until_s: float | None = None


Action = Load | Unload | Grant | Refuse | Wait


@dataclass(slots=True)
class ModelPool:
    """See the module. `room` may be changed at any time."""

    room: Room
    _residents: dict[str, Resident] = field(default_factory=dict)
    _wanted: dict[str, int] = field(default_factory=dict)  # name -> bytes, in order of asking
    _making_room: set[str] = field(default_factory=set)  # they take no new users

    # what is where

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._residents.values())

    def find(self, name: str) -> Resident | None:
        return self._residents.get(name)

    @property
    def held_bytes(self) -> int:
        return sum(resident.num_bytes for resident in self._residents.values())

    @property
    def ceiling_bytes(self) -> int:
        """What models may take now: the limit, or less where the machine has less to give."""
        spare_bytes = self.room.spare_bytes
        limit_bytes = self.room.limit_bytes
        return limit_bytes if spare_bytes is None else min(limit_bytes, self.held_bytes + spare_bytes)

    @property
    def wanted(self) -> list[str]:
        """Names in the queue, first come first."""
        return list(self._wanted)

    # users

    def acquire(self, name: str, now_s: float) -> bool:
        """Takes a reference; False if it is not there to be had, then `want` it."""
        resident = self._residents.get(name)
        if resident is None or resident.state is not State.LOADED or resident.leaving:
            return False
        if name in self._making_room:
            return False
        resident.refs += 1
        resident.last_used_s = now_s
        return True

    def share(self, name: str, now_s: float) -> bool:
        """Another reference for somebody who holds one, even where no new users are taken; False if nobody does."""
        resident = self._residents.get(name)
        if resident is None or not resident.refs:
            return False
        resident.refs += 1
        resident.last_used_s = now_s
        return True

    def release(self, name: str, now_s: float) -> None:
        resident = self._residents[name]
        assert resident.refs > 0, f"{name} was released more often than acquired"
        resident.refs -= 1
        resident.last_used_s = now_s

    def want(self, name: str, num_bytes: int) -> None:
        """Queues a model that could not be acquired. Asking again changes nothing."""
        resident = self._residents.get(name)
        if resident is not None and resident.state is State.LOADING and not resident.leaving:
            return
        self._wanted.setdefault(name, num_bytes)

    def forget(self, name: str) -> None:
        """Nobody waits for it any more. A load that has begun goes on."""
        self._wanted.pop(name, None)

    def keep(self, name: str, *, pinned: bool | None = None, idle_ttl_s: float | None = None) -> None:
        """Sets how long a model stays: a pin, or an idle time (None: for ever)."""
        resident = self._residents[name]
        resident.idle_ttl_s = idle_ttl_s
        if pinned is not None:
            resident.pinned = pinned

    # leaving

    def ask_to_leave(self, name: str) -> bool:
        """Unloads it when its last user is done; it takes no new ones. False if it is not there."""
        resident = self._residents.get(name)
        if resident is None:
            return False
        resident.leaving = True  # or is on its way already
        return True

    def let_stay(self, name: str) -> None:
        """Takes `ask_to_leave` back, if it is not too late."""
        resident = self._residents.get(name)
        if resident is not None and resident.state is not State.UNLOADING:
            resident.leaving = False

    # what was carried out

    def loaded(self, name: str, taken: Taken, now_s: float) -> None:
        resident = self._residents[name]
        assert resident.state is State.LOADING
        resident.state, resident.last_used_s = State.LOADED, now_s
        resident.num_bytes, resident.freed_bytes = taken.num_bytes, taken.freed_bytes

    def grant(self, name: str, count: int, now_s: float) -> None:
        """References for `count` that waited, whatever else is going on."""
        resident = self._residents[name]
        assert resident.state is State.LOADED
        resident.refs += count
        resident.last_used_s = now_s

    def load_failed(self, name: str) -> None:
        assert self._residents[name].state is State.LOADING
        del self._residents[name]

    def unloaded(self, name: str) -> None:
        assert self._residents[name].state is State.UNLOADING
        del self._residents[name]

    # decisions

    def next_action(self, now_s: float) -> Action:
        """What to do now. Load and Unload are noted as begun."""
        self._making_room.clear()
        for resident in self._residents.values():
            if resident.leaving and resident.is_idle:
                return self._unload(resident, "asked")
        for resident in self._residents.values():
            expires_s = resident.expires_s
            if expires_s is not None and expires_s <= now_s and resident.name not in self._wanted:
                return self._unload(resident, "idle")
        if self._wanted:
            action = self._serve_head()
            if action is not None:
                return action
        elif self.held_bytes > self.ceiling_bytes and (surplus := self._surplus()) is not None:
            return self._unload(surplus, "room")
        expiries = [r.expires_s for r in self._residents.values() if r.expires_s is not None]
        return Wait(min(expiries, default=None))

    def _serve_head(self) -> Action | None:
        """What the first in the queue needs next; None while that is for others to do."""
        name, needed_bytes = next(iter(self._wanted.items()))
        resident = self._residents.get(name)
        if resident is not None and resident.state is State.LOADED and not resident.leaving:
            del self._wanted[name]
            return Grant(name)
        if resident is not None or any(r.state is not State.LOADED for r in self._residents.values()):
            return None  # on its way out, or another is on its way in or out: one at a time
        victims: list[Resident] = []
        candidates = self._in_order_of_leaving()
        while candidates and self._room_without(victims) < needed_bytes:
            victims.append(candidates.pop(0))
        if (most_bytes := self._room_without(victims)) < needed_bytes:
            del self._wanted[name]
            pinned_bytes = sum(r.num_bytes for r in self._residents.values() if r.pinned)
            return Refuse(name, needed_bytes, most_bytes + pinned_bytes, pinned_bytes)
        if not victims:
            del self._wanted[name]
            self._residents[name] = Resident(name, needed_bytes)
            return Load(name)
        self._making_room = {victim.name for victim in victims}
        return self._unload(victims[0], "room") if victims[0].is_idle else None

    def _room_without(self, victims: list[Resident]) -> int:
        """What there would be room for if these left. What they count as is free under the limit then; the machine gets
        back what they surely hold, which may be less: none is made to leave in vain. Of one in use that is not known
        before it is idle, and is looked at again then."""
        room_bytes = self.room.limit_bytes - self.held_bytes + sum(victim.num_bytes for victim in victims)
        if self.room.spare_bytes is None:
            return room_bytes
        freed_bytes = sum(victim.freed_bytes if victim.is_idle else victim.num_bytes for victim in victims)
        return min(room_bytes, self.room.spare_bytes + freed_bytes)

    def _in_order_of_leaving(self) -> list[Resident]:
        """Idle ones before busy ones, each least recently used first; pinned ones never."""
        candidates = [r for r in self._residents.values() if r.state is State.LOADED and not r.pinned]
        return sorted(candidates, key=lambda r: (not r.is_idle, r.last_used_s))

    def _surplus(self) -> Resident | None:
        """Who leaves when more is held than allowed (a model turned out larger than estimated): never the one that was
        used last, which would only be loaded again."""
        newest = max(self._residents.values(), key=lambda r: r.last_used_s, default=None)
        return next((r for r in self._in_order_of_leaving() if r.is_idle and r is not newest), None)

    def _unload(self, resident: Resident, reason: str) -> Unload:
        assert resident.is_idle, "a model in use cannot be unloaded"
        resident.state = State.UNLOADING
        return Unload(resident.name, reason)

    def check_integrity(self) -> None:
        """Raises AssertionError when the books do not agree."""
        for name, resident in self._residents.items():
            assert resident.name == name
            assert resident.refs >= 0
            assert resident.state is State.LOADED or not resident.refs, f"{name} is in use and not loaded"
        moving = [r for r in self._residents.values() if r.state is State.LOADING]
        assert len(moving) <= 1, "two loads at once"

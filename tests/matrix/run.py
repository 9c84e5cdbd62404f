"""Asks a server for cells of the matrix, one request at a time or eight at once, and tallies what the judge says.

Every request is asked whole and streamed, which has to come to the same. What was cut off is asked once more with room
to end: the cut answer has to be its beginning.

A draw that falls between two tokens, to the last bits of what the model computed, is decided by these bits, which
differ with the batch and with what of the prompt is known already. So where two answers differ, both are asked again in
the end, one after the other with nothing beside them. Then they have to agree, and with one of those from before: the
draw was a near tie. These are counted, and there must be few.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

import httpx

from tests.matrix.cells import MAX_TOKENS, Cell, Request
from tests.matrix.client import BrokenStream, Refused, ask, comparable
from tests.matrix.judge import problems
from tests.matrix.refusals import REFUSALS

CALLERS = 8
TIMEOUT_S = 300.0

T = TypeVar("T")


@dataclass(slots=True)
class Failure:
    what: str
    problem: str
    body: dict[str, Any]
    answer: Any = None

    def __str__(self) -> str:
        shown = f"\n    answer {json.dumps(self.answer, ensure_ascii=False)}" if self.answer else ""
        return f"{self.what}\n    {self.problem}\n    body {json.dumps(self.body, ensure_ascii=False)}{shown}"


@dataclass(slots=True)
class Tally:
    """`samples` counts choices by cell; `ends` by finish reason, and calls and thoughts beside them. `grown`: requests
    that were cut off and asked again. `near_ties`: requests whose answers differed in a draw that goes both ways."""

    samples: Counter[Cell] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    grown: int = 0
    near_ties: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    failed: set[Cell] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def most_near_ties(self) -> int:
        """How many there may be. Where thousands of tokens are about as likely, boundaries between them lie so close
        that one draw in some thousand falls onto one; few tokens are drawn from so flat a distribution."""
        return max(1, self.pairs // 100)

    @property
    def num_samples(self) -> int:
        return self.samples.total()

    def add(self, cell: Cell, response: dict[str, Any]) -> None:
        with self._lock:
            for choice in response["choices"]:
                self.samples[cell] += 1
                self.ends[choice["finish_reason"]] += 1
                self.ends["calls"] += len(choice["message"].get("tool_calls") or ())
                self.ends["with reasoning"] += bool(choice["message"].get("reasoning_content"))
                self.ends["with content"] += bool(choice["message"]["content"])

    def count(self, name: str) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)

    def fail(self, cell: Cell | None, failure: Failure) -> None:
        with self._lock:
            self.failures.append(failure)
            if cell is not None:
                self.failed.add(cell)


class Runner:
    """`client` has the server's address and key. What is cut off before `most_tokens` is asked once more, with these.
    After `seconds` no further request is begun. Safe to use from any thread."""

    def __init__(
        self,
        client: httpx.Client,
        tally: Tally,
        *,
        most_tokens: int = max(MAX_TOKENS),
        seconds: float = 1e9,
    ) -> None:
        self._client = client
        self._most_tokens = most_tokens
        self._tally = tally
        self._stop_s = time.monotonic() + seconds
        self._twins: dict[int, dict[str, Any]] = {}
        self._unsettled: list[tuple[Request, list[dict[str, Any]]]] = []
        self._lock = threading.Lock()

    def alone(self, requests: Iterable[Request], seed: int) -> None:
        """In any order, so that a run that ends early has seen some of everything."""
        for request in _shuffled(requests, seed):
            self._ask(request, stream=False)
            self._ask(request, stream=True)
        self._settle()

    def mixed(self, requests: Iterable[Request], seed: int) -> None:
        """In any order, so that what runs together has little in common, CALLERS requests at any time."""
        jobs = _shuffled(product(requests, (False, True)), seed)
        with ThreadPoolExecutor(CALLERS) as callers:
            for done in [callers.submit(self._ask, request, stream=stream) for request, stream in jobs]:
                done.result()
        self._settle()

    def refusals(self) -> None:
        for (name, (fields, param)), stream, thinking, n in product(
            REFUSALS.items(), (False, True), (False, True), (1, 2)
        ):
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 8,
                "n": n,
                "chat_template_kwargs": {"enable_thinking": thinking},
                **fields,
            }
            try:
                answer = ask(self._client, body, stream=stream)
            except Refused as refusal:
                if refusal.status == 400 and refusal.error["param"] == param:
                    self._tally.refused[name] += 1
                else:
                    problem = f"{refusal.status} naming {refusal.error['param']}, not {param}: {refusal}"
                    self._tally.fail(None, Failure(name, problem, body))
            else:
                self._tally.fail(None, Failure(name, "is not refused", body, answer))

    def _ask(self, request: Request, *, stream: bool) -> None:
        if time.monotonic() > self._stop_s:
            return
        cell = replace(request.cell, stream=stream)
        try:
            response = ask(self._client, request.body, stream=stream)
        except (Refused, BrokenStream, httpx.HTTPError) as error:
            self._tally.fail(cell, Failure(str(cell), f"{type(error).__name__}: {error}", request.body))
            return
        self._tally.add(cell, response)
        for problem in problems(request.body, response, request.loose):
            self._tally.fail(cell, Failure(str(cell), problem, request.body, response["choices"]))
        self._compare(request, cell, response)

    def _compare(self, request: Request, cell: Cell, response: dict[str, Any]) -> None:
        """With the twin, once it is there; what was cut, then with what it would have become."""
        with self._lock:
            twin = self._twins.pop(id(request), None)
            if twin is None:
                self._twins[id(request)] = response
                return
        self._tally.count("pairs")
        if comparable(twin) != comparable(response):
            self._unsettled.append((request, [twin, response]))
            return
        is_cut = any(choice["finish_reason"] == "length" for choice in response["choices"])
        if is_cut and request.body["max_tokens"] < self._most_tokens:
            self._grow(request, cell, response)

    def _grow(self, request: Request, cell: Cell, response: dict[str, Any]) -> None:
        body = request.body | {"max_tokens": self._most_tokens}
        try:
            grown = ask(self._client, body, stream=False)
        except (Refused, httpx.HTTPError) as error:
            self._tally.fail(cell, Failure(str(cell), f"grown: {error}", body))
            return
        self._tally.count("grown")
        for problem in problems(body, grown, request.loose):
            self._tally.fail(cell, Failure(str(cell), f"grown: {problem}", body, grown["choices"]))
        if _unlike_beginning(response, grown):
            self._unsettled.append((request, [response, grown]))

    def _settle(self) -> None:
        """Asks again what came out differently."""
        unsettled, self._unsettled = self._unsettled, []
        for request, before in unsettled:
            whole, streamed = (ask(self._client, request.body, stream=stream) for stream in (False, True))
            grown = ask(self._client, request.body | {"max_tokens": self._most_tokens}, stream=False)
            known = [comparable(answer) for answer in before]
            if comparable(whole) != comparable(streamed):
                problem = "streamed and whole differ"
            elif _unlike_beginning(whole, grown):
                problem = "cut off, it is not the beginning of what it would have become"
            elif comparable(whole) not in known and comparable(grown) not in known:
                problem = "differs from what it was, twice"
            else:
                self._tally.count("near_ties")
                continue
            shown = [*known, comparable(whole), comparable(streamed), comparable(grown)]
            self._tally.fail(request.cell, Failure(str(request.cell), problem, request.body, shown))


def _shuffled(values: Iterable[T], seed: int) -> list[T]:
    shuffled = list(values)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _unlike_beginning(short: dict[str, Any], long: dict[str, Any]) -> bool:
    """Whether an answer is not the beginning of the one that had more room."""
    pairs = zip(short["choices"], long["choices"], strict=True)
    return not all(_begins(one["message"], other["message"]) for one, other in pairs)


def _begins(short: dict[str, Any], long: dict[str, Any]) -> bool:
    """White space at the end may belong to what follows it."""
    for name in ("content", "reasoning_content"):
        if not (long.get(name) or "").startswith((short.get(name) or "").rstrip()):
            return False
    calls, all_calls = ([made["function"] for made in each.get("tool_calls") or ()] for each in (short, long))
    return len(calls) <= len(all_calls) and all(
        call["name"] == whole["name"] and whole["arguments"].startswith(call["arguments"])
        for call, whole in zip(calls, all_calls, strict=False)
    )

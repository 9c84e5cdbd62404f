"""Schemas made to hurt, sent to the process that users start: each is a 400 within seconds, and everybody else is still
served meanwhile.
"""

import threading
import time
from typing import Any

import pytest

from tests.serving import API_KEY, PATIENCE_S, Answer, ServerProcess, ask, get, wait_until

KEY = f"Authorization: Bearer {API_KEY}"
PATH = "/v1/chat/completions"
LONGEST_S = 6.0
HELD_UP_S = 3.5
"""A question takes tens of milliseconds, on a busy machine some hundreds. Who waits for another's schema, 5 seconds."""


def _nested(depth: int, width: int) -> dict[str, Any]:
    if depth == 0:
        return {"type": "string"}
    options = [{"type": "object", "properties": {f"p{at}": _nested(depth - 1, width)}} for at in range(width)]
    return {"oneOf": options}


def _document(schema: Any) -> dict[str, Any]:
    described = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _function(schema: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": schema, "strict": True}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


SCHEMA, PARAMETERS = "response_format.json_schema.schema", "tools[0].function.parameters"
PRODUCT = {"allOf": [{"anyOf": [{"required": [f"a{i}{j}"]} for j in range(6)]} for i in range(10)]}
# An automaton with a state for every remainder: llguidance would build it for minutes.
ENDLESS = 'start: %json {{"type": "integer", "multipleOf": {}}}'

KILLERS: dict[str, tuple[dict[str, Any], str]] = {
    "product": (_document(PRODUCT), SCHEMA),
    "product of a function": (_function(PRODUCT), PARAMETERS),
    "nested alternatives": (_document(_nested(8, 3)), SCHEMA),
    "multiples": (_document({"type": "integer", "multipleOf": 123456789}), SCHEMA),
    "repetition": (_document({"pattern": "((a{1,1000}){1,1000}){1,1000}b{100001}"}), SCHEMA),
    "groups": (_function({"properties": {"a": {"pattern": "(" * 2000 + "a" + ")" * 2000}}}), PARAMETERS),
    "properties": (_document({"properties": {f"p{at}": {"type": "string"} for at in range(2000)}}), SCHEMA),
    "enum": (_document({"enum": [str(at) for at in range(20_000)]}), SCHEMA),
}


class _Bystander:
    """Somebody who asks short questions all the time, one with a schema among them. `waits_s`: how long each took."""

    def __init__(self, port: int) -> None:
        self.waits_s: list[float] = []
        self.answers: list[Answer] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        fields: list[dict[str, Any]] = [
            {},
            {"stream": True},
            {"model": "tiny", **_document({"enum": ["yes", "no"]})},
        ]
        while not self._stop.is_set():
            for more in fields:
                began_s = time.monotonic()
                self.answers.append(ask(self._port, PATH, KEY, **more))
                self.waits_s.append(time.monotonic() - began_s)

    def __enter__(self) -> "_Bystander":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)


@pytest.mark.parametrize("name", KILLERS)
def test_a_schema_made_to_hurt_is_a_400_and_others_are_served_meanwhile(
    served: ServerProcess, name: str
) -> None:
    fields, param = KILLERS[name]
    pid = served.pid
    with _Bystander(served.port) as bystander:
        wait_until(lambda: bystander.answers, "the bystander to be served")
        before = len(bystander.answers)
        began_s = time.monotonic()
        refused = ask(served.port, PATH, KEY, model="tiny", **fields)
        took_s = time.monotonic() - began_s
        meanwhile = len(bystander.answers) - before
    assert (refused.status, refused.json["error"]["param"]) == (400, param)
    assert took_s < LONGEST_S
    assert all(answer.status == 200 for answer in bystander.answers)
    assert max(bystander.waits_s) < HELD_UP_S
    assert meanwhile >= int(took_s)
    assert (served.is_running, served.pid) == (True, pid)
    assert get(served.port, "/health").status == 200


def test_what_runs_into_the_deadline_holds_up_nobody_who_asks_without_a_schema(served: ServerProcess) -> None:
    """More at once than there are workers to compile, and threads that read requests."""
    answers: list[tuple[float, Answer]] = []

    def attack(number: int) -> None:
        grammar = {"grammar": ENDLESS.format(123456791 + number)}
        began_s = time.monotonic()
        answer = ask(served.port, PATH, KEY, model="tiny", structured_outputs=grammar)
        answers.append((time.monotonic() - began_s, answer))

    attackers = [threading.Thread(target=attack, args=(number,)) for number in range(6)]
    for attacker in attackers:
        attacker.start()
    waits_s = []
    while any(attacker.is_alive() for attacker in attackers):
        asked_s = time.monotonic()
        assert ask(served.port, PATH, KEY).status == 200
        waits_s.append(time.monotonic() - asked_s)
    assert max(waits_s) < HELD_UP_S
    assert len(waits_s) >= 5
    refused = [answer for _, answer in answers if answer.status == 400]
    assert len(refused) >= 2  # as many as there are workers; what waits for one in vain is told to come again
    assert all(answer.json["error"]["param"] == "structured_outputs.grammar" for answer in refused)
    assert {answer.status for _, answer in answers} <= {400, 429}
    assert max(took_s for took_s, _ in answers) < LONGEST_S
    # The workers that were killed have successors.
    assert ask(served.port, PATH, KEY, model="tiny", **_document({"const": "again"})).status == 200

"""/metrics: Prometheus' format, figures that follow what happened, labels from fixed sets."""

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from tests.serving import API_KEY, LiveServer, ServerProcess, ask, get

KEY = f"Authorization: Bearer {API_KEY}"


def samples(live: LiveServer | ServerProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = get(live.port, "/metrics", KEY)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def test_a_finished_request_shows_in_every_figure_it_touches(live: LiveServer) -> None:
    before = samples(live)
    assert ask(live.port, n=2, max_tokens=5).status == 200
    after = samples(live)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("basemlx_completion_tokens_total") == 10
    assert grown("basemlx_prompt_tokens_total") > 10
    assert grown("basemlx_steps_total") >= 5
    assert grown("basemlx_choices_total", model="noise", finish_reason="length") == 2
    assert grown("basemlx_ttft_seconds_count", model="noise") == 1
    assert grown("basemlx_request_seconds_count", model="noise") == 1
    route = "/v1/chat/completions"
    assert grown("basemlx_http_requests_total", route=route, method="POST", status="200") == 1
    assert value(after, "basemlx_up") == 1
    assert value(after, "basemlx_running") == 0
    assert value(after, "basemlx_kv_bytes") == 0
    assert value(after, "basemlx_active_bytes") > 0
    assert value(after, "basemlx_http_in_flight") == 1  # the scrape itself


def test_answers_that_were_validated_are_counted_by_what_came_of_it(served: ServerProcess) -> None:
    """In the process that users start: there it has to be wired."""
    schema = {
        "type": "array",
        "items": {"type": "boolean"},
        "minItems": 3,
        "maxItems": 4,
        "contains": {"const": True},
    }
    loose = {"type": "array", "items": {"type": "number"}, "uniqueItems": True, "maxItems": 2}

    def asked(schema: object) -> dict[str, object]:
        described = {"name": "answer", "schema": schema}
        form = {"type": "json_schema", "json_schema": described}
        fields = {"response_format": form, "n": 4, "max_tokens": 12, "temperature": 1.0, "ignore_eos": False}
        answer = ask(served.port, "/v1/chat/completions", KEY, model="tiny", **fields)
        assert answer.status == 200
        return dict(answer.json)

    before = samples(served)
    validation = asked(loose)["basemlx"]["validation"]  # type: ignore[index]
    outcomes = Counter("valid" if entry["valid"] else "invalid" for entry in validation)
    assert outcomes.total() == 4
    assert "basemlx" not in asked(schema)  # enforced in full, so there is nothing to count
    after = samples(served)
    name = "basemlx_checked_answers_total"
    for outcome in ("valid", "invalid"):
        key = name, frozenset({("outcome", outcome)})
        assert after[key] - before[key] == outcomes[outcome]


def test_what_clients_make_up_makes_no_new_labels(live: LiveServer) -> None:
    for index in range(3):  # those that a first odd request of each kind brings
        get(live.port, f"/warm{index}")
        ask(live.port, model=f"warm{index}")
    before = set(samples(live))
    for index in range(50):
        assert get(live.port, f"/random{index}").status == 404
        assert ask(live.port, model=f"random{index}").status == 404
        assert ask(live.port, "/v1/chat/completions", f"x-request-id: random{index}", model="").status == 400
    odd = set(samples(live)) - before
    assert len(odd) <= 2  # the first 400: its count and its beginning
    assert "random" not in str(odd)

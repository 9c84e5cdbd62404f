"""The log of a process that served: one line for each request and each generation, and not a word of what was said."""

import re

import httpx

from tests.serving import API_KEY, NOISE, ServerProcess, wait_until

CANARIES = [
    f"canary{name}7d1"
    for name in ("prompt", "system", "stop", "user", "tool", "field", "path", "salt", "body")
]
GEN_DONE = re.compile(
    rf"gen done id=log-1 model={NOISE} prompt_tokens=\d+ cached_tokens=\d+ completion_tokens=3 ttft_ms=\d+\.\d "
    r"elapsed_ms=\d+\.\d tok_s=\d+\.\d finish=length active_mb=\d+\.\d cache_mb=\d+\.\d peak_mb=\d+\.\d"
)


def test_a_generation_leaves_one_line_of_figures_and_a_request_one(served: ServerProcess) -> None:
    headers = {"x-api-key": API_KEY, "x-request-id": "log-1"}
    body = {"model": NOISE, "prompt": "Hi", "max_tokens": 3, "ignore_eos": True}
    assert (
        httpx.post(f"{served.url}/v1/completions", json=body, headers=headers, timeout=60).status_code == 200
    )
    wait_until(lambda: served.log.count("id=log-1") == 2, "both lines")
    assert GEN_DONE.search(served.log)
    assert re.search(
        r"http id=log-1 client=127\.0\.0\.1 method=POST path=/v1/completions status=200 elapsed_ms=\d",
        served.log,
    )


def test_no_text_of_prompts_answers_errors_or_keys_is_logged(served: ServerProcess) -> None:
    prompt, system, stop, user, tool, field, path, salt, broken = CANARIES
    messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    good = {
        "model": NOISE, "messages": messages, "stop": [stop], "user": user, "cache_salt": salt, "max_tokens": 4,
        field: field, "seed": 5, "ignore_eos": True, "metadata": {"a": prompt},
    }  # fmt: skip
    bad = [
        good | {"temperature": prompt},
        good | {"tools": [{"type": "function", "function": {"name": tool}}]},
        good | {"messages": [{"role": prompt, "content": prompt}]},
        good | {"messages": [{"role": "user", "content": prompt * 5000}]},
        good | {"chat_template_kwargs": {prompt: prompt, "tokenize": prompt}},
        good | {"logit_bias": {prompt: 1}},
        good | {"model": prompt},
    ]
    with httpx.Client(base_url=served.url, headers={"x-api-key": API_KEY}, timeout=60) as client:
        answer = client.post("/v1/chat/completions", json=good)
        assert answer.status_code == 200
        for body in bad:
            assert client.post("/v1/chat/completions", json=body).status_code in (400, 404)
        raw = client.post(
            "/v1/chat/completions", content='{"a": "' + broken, headers={"content-type": "application/json"}
        )
        assert raw.status_code == 400
        assert client.get(f"/v1/models?{path}").status_code == 200
        assert client.get("/metrics", headers={"x-api-key": "sk-wrong-canary-1"}).status_code == 401
        metrics = client.get("/metrics", headers={"x-request-id": "last-1"}).text
    wait_until(lambda: "id=last-1" in served.log, "the last line")
    said = answer.json()["choices"][0]["message"]["content"].strip()
    assert [
        canary for canary in [*CANARIES, API_KEY, "sk-wrong-canary-1"] if canary in served.log + metrics
    ] == []
    assert len(said) < 2 or said not in served.log
    assert "Traceback" not in served.log

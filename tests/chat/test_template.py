"""Chat templates: real ones render, hostile ones are stopped, bad conversations are refused by name."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.errors import InvalidRequest, ModelCorrupt
from tests.model_zoo import CHAT_TEMPLATE

SHARED = sorted((Path(__file__).parents[3] / "shared" / "data" / "templates").glob("*.jinja"))
NOT_PLAIN_JINJA = {"MiroThinker"}  # assigns to message attributes, which Jinja refuses everywhere
USER = [{"role": "user", "content": "Grüße, 東京?"}]


def render(source: str, messages: Any = USER, **options: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", time_limit_s=0.3).render(
        messages, **options
    )


@pytest.mark.skipif(not SHARED, reason="the collection of released templates is not on this machine")
@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_every_released_template_renders_a_conversation(path: Path) -> None:
    template = ChatTemplate(path.read_text(), bos_token="<s>", eos_token="</s>")
    if path.stem in NOT_PLAIN_JINJA:
        with pytest.raises(InvalidRequest, match="cannot assign"):
            template.render(USER)
        return
    conversation = [
        *USER,
        {"role": "assistant", "content": "Hello there."},
        {"role": "user", "content": "And now?"},
    ]
    started_s = time.perf_counter()
    prompt = template.render(conversation)
    assert time.perf_counter() - started_s < 0.5
    assert prompt.index("東京") < prompt.index("Hello there.") < prompt.index("And now?")


@pytest.mark.skipif(not SHARED, reason="the collection of released templates is not on this machine")
def test_tool_history_comes_out_as_json_in_the_released_templates_that_show_calls() -> None:
    call = {
        "id": "call00001",
        "type": "function",
        "function": {"name": "get_it", "arguments": '{"where": "Oslo"}'},
    }
    conversation = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_it", "content": "12 degrees"},
    ]
    shown = 0
    for path in SHARED:
        try:
            prompt = ChatTemplate(path.read_text(), bos_token="<s>", eos_token="</s>").render(conversation)
        except InvalidRequest:
            continue
        if "get_it" in prompt and "Oslo" in prompt:
            shown += 1
            assert "{'where'" not in prompt, path.stem
            assert '"{\\"where' not in prompt, path.stem
    assert shown >= len(SHARED) // 2


def test_content_parts_join_null_is_empty_and_developer_is_system_where_unknown() -> None:
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        },
        {"role": "assistant", "content": None},
    ]
    prompt = render(CHAT_TEMPLATE, messages)
    assert "<|im_start|>system\nBe brief.<|im_end|>" in prompt
    assert "<|im_start|>assistant\n<|im_end|>" in prompt
    assert "developer" in render("{{ messages[0].role }}{# developer #}", messages)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 7}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "messages[0].content[0].text"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "messages[0].tool_calls[0].function"),
    ],
)
def test_messages_that_cannot_be_rendered_are_refused_by_their_path(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        render(CHAT_TEMPLATE, messages)
    assert refusal.value.param == param


def test_the_last_message_is_left_open_exactly_where_its_text_ends() -> None:
    messages = [*USER, {"role": "assistant", "content": "Once upon a "}]
    prompt = render(CHAT_TEMPLATE, messages, continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\nOnce upon a ")
    with pytest.raises(InvalidRequest, match="assistant"):
        render(CHAT_TEMPLATE, USER, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="does not allow"):
        render("{{ messages | length }}", messages, continue_final_message=True)


def test_templates_get_what_they_expect() -> None:
    assert render("{{ {'a': 'é', 'b': [1]} | tojson }}") == '{"a": "é", "b": [1]}'
    assert render("{{ {'a': 1} | tojson(indent=2) }}") == '{\n  "a": 1\n}'
    assert render("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "1"
    assert render("{% generation %}{{ bos_token }}{% endgeneration %}{{ eos_token }}") == "<s></s>"
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    assert render("{{ mood | default('calm') }}", mood="wild") == "wild"
    assert (
        render(
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
        )
        == "1"
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only system messages') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}{{ (messages | attr('__class__')).__base__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% include 'other' %}",
        "{{ '{0.__class__}'.format(1) }}{{ x.y.z }}",
    ],
)
def test_a_template_that_fails_or_tries_to_get_out_gives_a_refusal(source: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        render(source)
    assert refusal.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 300000000 }}",
        "{{ 300000000 * 'x' }}",
        "{{ ['x'] * 300000000 }}",
        "{{ 'x' | center(300000000) }}",
        "{{ 'x'.ljust(300000000) }}",
        "{{ '%0300000000d' % 1 }}",
        "{{ '%300000000d' | format(1) }}",
        "{{ '{:300000000}'.format(1) }}",
        "{{ 10 ** 1000000000 }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set a = 'x' * 9999 %}{{ a.replace('x', a) }}",
        "{% set a = 'x' * 9999 %}{{ a | replace('x', a) }}",
        "{% set a = 'x' * 9999 %}{{ a.join(range(9999) | list) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'xxxxxxxxxxxxxxxx' }}{% endfor %}{% endfor %}",
        "{% set x %}{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}{% endset %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ range(100000000) | list | length }}",
    ],
)
def test_a_runaway_template_is_stopped_and_others_go_on(source: str) -> None:
    healthy = ChatTemplate(CHAT_TEMPLATE)
    seen: list[float] = []
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            started_s = time.perf_counter()
            healthy.render(USER)
            seen.append(time.perf_counter() - started_s)

    thread = threading.Thread(target=others)
    thread.start()
    started_s = time.perf_counter()
    try:
        with pytest.raises((InvalidRequest, ModelCorrupt)):
            render(source)
        assert time.perf_counter() - started_s < 2.0
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 0
    assert max(seen) < 1.0
    time.sleep(0)  # an exception that was on its way would arrive here
    assert render("{{ 1 + 1 }}") == "2"


def test_a_template_that_does_not_compile_is_the_models_fault() -> None:
    with pytest.raises(ModelCorrupt, match="does not compile"):
        ChatTemplate("{% for %}")
    with pytest.raises(ModelCorrupt, match="1 MiB"):
        ChatTemplate("x" * (2**20 + 1))


@pytest.mark.parametrize(
    "name", ["messages", "tools", "chat_template", "tokenize", "__class__", "add_generation_prompt"]
)
def test_options_cannot_take_the_place_of_what_the_engine_sets(name: str) -> None:
    from basemlx.engine.chat.template import check_options

    with pytest.raises(InvalidRequest, match="chat_template_kwargs"):
        check_options({name: True})
    with pytest.raises(InvalidRequest):
        check_options({"ok": {"nested": 1}})
    check_options({"enable_thinking": True, "effort": "low"})


def test_rendering_costs_well_under_a_millisecond() -> None:
    template = ChatTemplate(CHAT_TEMPLATE)
    template.render(USER)
    started_s = time.perf_counter()
    for _ in range(50):
        template.render(USER)
    assert (time.perf_counter() - started_s) / 50 < 2e-3

"""Chat templates: real ones render, hostile ones are stopped, bad conversations are refused by name."""

import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.chat import renderers
from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.errors import InvalidRequest, ModelCorrupt
from basemlx.engine.text.tokenizer import Tokenizer
from tests.model_zoo import CHAT_TEMPLATE, write_tokenizer

RELEASED = sorted((Path(__file__).parents[3] / "shared" / "data" / "templates").glob("*.jinja"))
NOT_JINJA = {"MiroThinker"}  # assigns to fields of a message, which Jinja refuses everywhere
USER = {"role": "user", "content": "Grüße, 東京?"}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_it", "arguments": '{"where": "Oslo"}'},
}
needs_released = pytest.mark.skipif(not RELEASED, reason="released templates are not on this machine")


def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


def render(source: str, *messages: Any, **options: Any) -> str:
    return template_of(source).render(messages or [USER], **options)


@contextmanager
def suppress_refusal() -> Iterator[None]:
    """Templates may say no to a role, or have no place for calls; then they must say so."""
    try:
        yield
    except InvalidRequest as error:
        if "refuses these messages" not in error.message and "no place for tool calls" not in error.message:
            raise


@needs_released
@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_released_template_renders_conversations(path: Path) -> None:
    template = template_of(path.read_text())
    answer = {"role": "assistant", "content": "Hello the"}
    if path.stem in NOT_JINJA:
        with pytest.raises(InvalidRequest, match="cannot assign"):
            template.render([USER, answer])
        return
    prompt = template.render([USER, answer, {"role": "user", "content": "And now?"}])
    assert prompt.index("東京") < prompt.index("Hello the") < prompt.index("And now?")
    assert template.render([USER, answer], continue_final_message=True).endswith("Hello the")
    with suppress_refusal():
        assert "Be brief." in template.render([{"role": "developer", "content": "Be brief."}, USER])
    past_call = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_it", "content": "12 degrees"},
    ]
    with suppress_refusal():
        prompt = template.render([USER, *past_call])
        assert prompt.index("get_it") < prompt.rindex("12 degrees")
        assert "Oslo" in prompt
        assert "{'where'" not in prompt
        assert '\\"where' not in prompt


def test_null_content_is_empty_and_developer_is_system_where_the_template_has_none() -> None:
    prompt = render(
        CHAT_TEMPLATE, {"role": "developer", "content": "Brief."}, {"role": "assistant", "content": None}
    )
    assert "<|im_start|>system\nBrief.<|im_end|>\n<|im_start|>assistant\n<|im_end|>" in prompt
    knows = "{% for m in messages %}{% if m.role == 'developer' %}D:{% endif %}{{ m.content }}{% endfor %}"
    assert render(knows, {"role": "developer", "content": "Brief."}) == "D:Brief."


def test_content_goes_in_parts_to_a_template_that_reads_only_parts() -> None:
    source = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    assert render(source) == USER["content"]


def test_the_last_message_is_left_open_exactly_where_its_text_ends() -> None:
    open_message = {"role": "assistant", "content": "Once upon a "}
    prompt = render(CHAT_TEMPLATE, USER, open_message, continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\nOnce upon a ")
    mangling = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    for source, messages in ((CHAT_TEMPLATE, [USER]), (mangling, [USER, open_message])):
        with pytest.raises(InvalidRequest) as refusal:
            render(source, *messages, continue_final_message=True)
        assert refusal.value.param == "continue_final_message"


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{{ {'a': 'é', 'b': [1]} | tojson }}", '{"a": "é", "b": [1]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=True, sort_keys=True) }}", '{"a": "\\u00e9", "b": 1}'),
        ("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% generation %}{{ bos_token }}{% endgeneration %}{{ eos_token }}", "<s></s>"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ mood | default('calm') }}", "wild"),
        ("  {% if true %}\n    x\n  {% endif %}\n", "    x\n"),
        (
            "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{% set seen = [] %}{% set _ = seen.append(1) %}{{ seen }}", "[1]"),
    ],
)
def test_templates_find_what_they_are_written_for(source: str, prompt: str) -> None:
    assert render(source, mood="wild") == prompt


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only system messages') }}",
        "{{ messages[7].content.x }}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages.clear() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ (messages | attr('__class__')).__base__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ raise_exception.__globals__.json }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{% include 'other' %}",
        "{{ '{0.__class__.x}'.format(1) }}",
        "{% for %}",
    ],
)
def test_a_template_that_fails_or_tries_to_get_out_is_a_refusal_of_messages(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template") as refusal:
        render(source)
    assert refusal.value.param == "messages"
    assert len(refusal.value.message) < 500


LAUGHS = "{% set ns = namespace(x=['x']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"


def children_s() -> float:
    """What ended children have computed: a machine that is busy otherwise does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 300000000 }}",
        "{{ ['x'] * 3000000000 }}",
        "{{ '%0300000000d' % 1 }}",
        "{{ 10 ** 1000000000 }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        LAUGHS + "{{ ns.x | tojson | length }}",
        LAUGHS + "{% set a = ns.x %}" + LAUGHS + "{{ a == ns.x }}",
    ],
)
def test_a_runaway_template_is_stopped_while_others_go_on(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderers, "TIME_LIMIT_S", 0.5)
    renderers.pool.close()  # what its processes computed for other tests does not count here
    started = [renderers.pool._take() for _ in range(2)]  # what starting one takes does not count either
    for renderer in started:
        renderer.render(b"", {})
        renderers.pool._give_back(renderer)
    healthy = template_of(CHAT_TEMPLATE)
    healthy.render([USER])

    def run_away() -> None:
        with pytest.raises(InvalidRequest):
            render(source)
        was_refused.set()

    was_refused = threading.Event()
    runaway = threading.Thread(target=run_away)
    started_s, computed_s = time.perf_counter(), children_s()
    runaway.start()
    num_renders = 0
    while runaway.is_alive():
        healthy.render([USER])
        num_renders += 1
        time.sleep(0.01)
    assert was_refused.is_set()
    assert children_s() - computed_s < 3.0
    # One that had to wait for the runaway would be the only one; some are stopped at once.
    assert num_renders > 2 or time.perf_counter() - started_s < renderers.TIME_LIMIT_S


def test_a_template_that_always_runs_away_is_stopped_within_two_seconds_and_then_given_up() -> None:
    runaway = template_of("{% for i in range(99999) %}" * 2 + "{% endfor %}" * 2)
    took_s: list[float] = []
    renderers.pool.close()
    for _ in range(4):
        started_s = children_s()
        with pytest.raises(InvalidRequest, match="longer than" if len(took_s) < 3 else "not tried again"):
            runaway.render([USER])
        took_s.append(children_s() - started_s)
    assert min(took_s[:3]) > 1.0
    assert max(took_s) < 2.0
    assert took_s[-1] < 0.1


def test_a_template_that_ran_away_on_some_conversations_is_tried_again_after_a_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(renderers, "TIME_LIMIT_S", 0.1)
    now_s = 100.0
    loops = "{% for i in range(99999) %}" * 2 + "{% endfor %}" * 2
    source = "{% if messages[0].content == 'long' %}" + loops + "{% endif %}fine"
    template = ChatTemplate(source, clock=lambda: now_s)
    template.render([USER])
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="longer than"):
            template.render([{"role": "user", "content": "long"}])
    with pytest.raises(InvalidRequest, match="not tried again"):
        template.render([USER])
    now_s += 61
    assert template.render([USER]) == "fine"
    with pytest.raises(InvalidRequest, match="longer than"):  # once does not count any more
        template.render([{"role": "user", "content": "long"}])
    assert template.render([USER]) == "fine"


def test_a_prompt_many_times_its_input_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="grew beyond"):
        render("{% for i in range(2000) %}{{ messages[0].content * 1000 }}{% endfor %}")


@pytest.mark.parametrize(
    ("files", "prompt"),
    [
        ({"chat_template.jinja": "file", "tokenizer_config.json": {"chat_template": "config"}}, "file"),
        ({"tokenizer_config.json": {"chat_template": "config"}}, "config"),
        ({"chat_template.json": {"chat_template": "other"}, "tokenizer_config.json": {}}, "other"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "tools"},
                        {"name": "default", "template": "plain{{ eos_token }}"},
                    ],
                    "eos_token": "</s>",
                }
            },
            "plain</s>",
        ),
    ],
)
def test_the_template_is_found_where_models_keep_it(
    tmp_path: Path, files: dict[str, Any], prompt: str
) -> None:
    write_tokenizer(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    template = ChatTemplate.from_folder(tmp_path, Tokenizer.from_folder(tmp_path))
    assert template is not None
    assert template.render([USER]) == prompt
    if prompt == "plain</s>":
        assert template.render([USER], tools=[{"type": "function"}]) == "tools"


def test_a_model_without_a_template_has_none_and_a_monstrous_one_is_corrupt(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert ChatTemplate.from_folder(tmp_path, tokenizer) is None
    (tmp_path / "chat_template.jinja").write_text("x" * (2**20 + 1))
    with pytest.raises(ModelCorrupt, match="1 MiB"):
        ChatTemplate.from_folder(tmp_path, tokenizer)


def best_s(action: Callable[[], Any], times: int) -> float:
    def once() -> float:
        started_s = time.perf_counter()
        action()
        return time.perf_counter() - started_s

    return min(once() for _ in range(times))


def test_rendering_costs_well_under_a_millisecond() -> None:
    template = template_of(CHAT_TEMPLATE)
    template.render([USER])
    assert best_s(lambda: template.render([USER]), 50) < 1e-3

"""Past tool calls and their results, through every released template, in the forms that clients send them."""

import json
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.chat.messages import short_id
from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.errors import InvalidRequest
from tests.chat.wire import TEMPLATES

needs_templates = pytest.mark.skipif(not TEMPLATES, reason="released templates are not on this machine")

NOT_JINJA = {"MiroThinker"}  # assigns to fields of a message, which Jinja refuses everywhere
ONE_CALL = {  # Llama's say that they know no more; harmony's and GigaChat's show the first of several
    "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "openai-gpt-oss-120b",
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks something up.",
            "parameters": {
                "type": "object",
                "properties": {"where": {"type": "string", "description": "A place."}},
                "required": ["where"],
            },
        },
    }
    for name in ("get_it", "find_it")
]


def call(call_id: str, name: str, where: str) -> dict[str, Any]:
    arguments = json.dumps({"where": where}, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "Grüße?"}
CALLS = [call("call_0123456789abcdef01234567", "get_it", "Oslo é"), call("call_2", "find_it", "Bergen")]
RESULTS: list[dict[str, Any]] = [
    {"role": "tool", "tool_call_id": CALLS[0]["id"], "content": "12 degrees"},
    {
        "role": "tool",
        "tool_call_id": CALLS[1]["id"],
        "content": [{"type": "text", "text": "13 "}, {"type": "text", "text": "km"}],
    },
]


@needs_templates
@pytest.mark.parametrize("with_tools", [True, False], ids=["tools", "no-tools"])
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_conversation_with_tool_calls_renders(path: Path, with_tools: bool) -> None:
    template = ChatTemplate(path.read_text(), {"bos_token": "<s>", "eos_token": "</s>"})
    count = 1 if path.stem in ONE_CALL else 2
    conversation = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": CALLS[:count]},
        *RESULTS[:count],
        {"role": "assistant", "content": "It is cold."},
        {"role": "user", "content": "And now?"},
    ]
    tools = TOOLS if with_tools else None
    if path.stem in NOT_JINJA:
        with pytest.raises(InvalidRequest):
            template.render(conversation, tools=tools)
        return
    prompt = template.render(conversation, tools=tools)
    conversation_text = prompt[prompt.index("Grüße?") :]
    shown = ["get_it", "Oslo é", "find_it", "Bergen", "12 degrees", "13 km"]
    for part in shown if count == 2 else ["get_it", "Oslo é", "12 degrees"]:
        assert part in conversation_text or json.dumps(part)[1:-1] in conversation_text, part
    assert conversation_text.index("Oslo") < conversation_text.index("12 degrees")
    assert "{'where'" not in conversation_text
    assert '\\"where' not in conversation_text
    # A turn that ends with results is the model's next.
    assert template.render(conversation[: 2 + count], tools=tools)


@needs_templates
def test_ids_that_a_template_does_not_take_become_others_the_same_for_call_and_result() -> None:
    path = next(path for path in TEMPLATES if path.stem == "Mistral-Small-3.2-24B-Instruct-2506")
    template = ChatTemplate(path.read_text(), {"bos_token": "<s>", "eos_token": "</s>"})
    prompt = template.render(
        [USER, {"role": "assistant", "content": "", "tool_calls": CALLS}, *RESULTS], tools=TOOLS
    )
    for known in CALLS:
        assert known["id"] not in prompt
        assert prompt.count(short_id(known["id"])) == 2
    assert short_id("abcDEF123") == "abcDEF123"
    assert len({short_id(f"call_{number}") for number in range(1000)}) == 1000


def test_calls_stand_in_the_content_as_the_model_writes_them_where_a_template_has_no_place_for_them() -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{# <|tool_call_start|> #}"
        "{{ tools | length if tools else '' }}"
    )
    prompt = ChatTemplate(source).render(
        [USER, {"role": "assistant", "content": "Hm.", "tool_calls": CALLS}, *RESULTS]
    )
    assert (
        '[assistant]Hm.\n<|tool_call_start|>[get_it(where="Oslo é"), find_it(where="Bergen")]<|tool_call_end|>'
        in prompt
    )
    assert "[tool]12 degrees\n[tool]13 km" in prompt


def test_results_are_the_users_where_a_template_has_no_place_for_them_either() -> None:
    source = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    )
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": CALLS}, *RESULTS]
    prompt = ChatTemplate(source).render([*messages, {"role": "user", "content": "And?"}])
    assert prompt.count("[user]") == 2
    assert (
        prompt.index("<tool_response>\n12 degrees\n</tool_response>")
        < prompt.index("13 km")
        < prompt.index("And?")
    )


def test_results_get_the_names_of_their_functions() -> None:
    prompt = ChatTemplate("{{ messages | tojson }}").render(
        [USER, {"role": "assistant", "content": None, "tool_calls": CALLS}, *RESULTS]
    )
    names = [message.get("name") for message in json.loads(prompt)]
    assert names == [None, None, "get_it", "find_it"]

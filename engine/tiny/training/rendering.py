"""Conversations to prompts, through the model's own chat template.

The one place where training and evaluation meet the template, so that both see what a server would render: jinja2 with
`tojson` as transformers defines it (no escaping of HTML or of non-ASCII letters, keys in the order given). Knows
nothing of tokens.
"""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from basemlx.engine.tiny import MODEL_DIR

TEMPLATE_FILE = "chat_template.jinja"

Message = dict[str, Any]


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@cache
def chat_template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    return environment.from_string((MODEL_DIR / TEMPLATE_FILE).read_text("utf-8"))


def render_prompt(messages: Sequence[Message], tools: Sequence[Message] | None, thinking: bool) -> str:
    """The text that the model continues: everything said, then the opening of its next turn."""
    return chat_template().render(
        messages=list(messages), tools=tools or None, add_generation_prompt=True, enable_thinking=thinking
    )

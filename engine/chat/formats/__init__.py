"""Wire formats of tool calls, one small file each, and which of them a model uses."""

from collections.abc import Collection

from basemlx.engine.chat.formats.base import Format, new_call_id
from basemlx.engine.chat.formats.cohere import CommandR, CommandRPlus
from basemlx.engine.chat.formats.deepseek import DeepSeekR1, DeepSeekV31
from basemlx.engine.chat.formats.functionary import Functionary
from basemlx.engine.chat.formats.gemma import FunctionGemma, Gemma4
from basemlx.engine.chat.formats.glm import Glm45, Glm47
from basemlx.engine.chat.formats.harmony import Harmony
from basemlx.engine.chat.formats.hermes import Hermes
from basemlx.engine.chat.formats.invoke import DeepSeekV4, DeepSeekV32, MiniMaxM2
from basemlx.engine.chat.formats.json_list import Apriel, Granite, Phi4
from basemlx.engine.chat.formats.kimi import KimiK2
from basemlx.engine.chat.formats.llama import Llama3
from basemlx.engine.chat.formats.mistral import Mistral, MistralOld, MistralWithId
from basemlx.engine.chat.formats.pythonic import Lfm2, Pythonic
from basemlx.engine.chat.formats.qwen_xml import QwenXml, SeedXml
from basemlx.engine.errors import InvalidRequest

# The first that matches is taken, so the more particular come first.
FORMATS: tuple[Format, ...] = (
    Harmony(),
    MiniMaxM2(),
    DeepSeekV32(),
    DeepSeekV4(),
    DeepSeekR1(),
    DeepSeekV31(),
    KimiK2(),
    Gemma4(),
    FunctionGemma(),
    Glm45(),
    Glm47(),
    SeedXml(),
    QwenXml(),
    MistralWithId(),
    Mistral(),
    MistralOld(),
    CommandR(),
    CommandRPlus(),
    Lfm2(),
    Apriel(),
    Hermes(),
    Phi4(),
    Granite(),
    Functionary(),
    Pythonic(),
    Llama3(),
)

_BY_NAME = {form.name: form for form in FORMATS}


def format_of(template: str, vocabulary: Collection[str] = ()) -> Format | None:
    """The format that a chat template writes tool calls in; None if it knows none of ours.

    `vocabulary`: texts of the model's added tokens, for templates that leave calls to the caller.
    """
    return next((form for form in FORMATS if form.matches(template, vocabulary)), None)


def format_named(name: str) -> Format:
    """For overrides. Raises InvalidRequest."""
    if name not in _BY_NAME:
        raise InvalidRequest(f"There is no tool-call format {name!r}. Known: {', '.join(sorted(_BY_NAME))}.")
    return _BY_NAME[name]


__all__ = ["FORMATS", "Format", "format_named", "format_of", "new_call_id"]

"""LangChain's parsers of what has to be whole: a call that is missing and JSON that was cut off are errors. LangChain's
own answer None for the one, and complete the other. Parts of a stream are completed here, too."""

import json
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.utils.json import parse_json_markdown

CUT_OFF = "it was cut off, by max_tokens or a stop string. Allow more tokens."


class ArgumentsOfCall(JsonOutputKeyToolsParser):
    """A dict, of a call."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return _there(super().parse_result(result, partial=partial), result, partial)


class ObjectOfCall(PydanticToolsParser):
    """An object of a pydantic class, of a call."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return _there(super().parse_result(result, partial=partial), result, partial)


class DictOfText(JsonOutputParser):
    """A dict, of a text."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        _check_whole(result, partial)
        return super().parse_result(result, partial=partial)


class ObjectOfText(PydanticOutputParser[Any]):
    """An object of a pydantic class, of a text."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        _check_whole(result, partial)
        return super().parse_result(result, partial=partial)


def _there(parsed: Any, result: list[Generation], partial: bool) -> Any:
    if parsed is None and not partial:
        raw = result[0].message.content if isinstance(result[0], ChatGeneration) else result[0].text
        raise OutputParserException(f"The answer has no whole call: {CUT_OFF}", llm_output=str(raw))
    return parsed


def _check_whole(result: list[Generation], partial: bool) -> None:
    if partial:
        return
    try:
        parse_json_markdown(result[0].text, parser=json.loads)
    except ValueError:
        raise OutputParserException(
            f"The answer is no whole JSON: {CUT_OFF}", llm_output=result[0].text
        ) from None

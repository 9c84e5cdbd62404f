"""LangChain's parsers of a call that had to come: a missing one is an error, where LangChain's own answer None."""

from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation

NO_CALL = "The answer has no whole call: it was cut off, by max_tokens or a stop string. Allow more tokens."


class ArgumentsOfCall(JsonOutputKeyToolsParser):
    """A dict."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return _there(super().parse_result(result, partial=partial), result, partial)


class ObjectOfCall(PydanticToolsParser):
    """An object of a pydantic class."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return _there(super().parse_result(result, partial=partial), result, partial)


def _there(parsed: Any, result: list[Generation], partial: bool) -> Any:
    if parsed is None and not partial:
        raw = result[0].message.content if isinstance(result[0], ChatGeneration) else result[0].text
        raise OutputParserException(NO_CALL, llm_output=str(raw))
    return parsed

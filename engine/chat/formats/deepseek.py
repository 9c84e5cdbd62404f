"""DeepSeek R1 and V3 (arguments in a JSON block), and V3.1 (arguments right behind the name)."""

from collections.abc import Collection

from basemlx.engine.chat.formats.named_json import Frame, NamedJson

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_MARKERS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR)


class DeepSeekR1(NamedJson):
    name = "deepseek-r1"
    markers = _MARKERS
    frame = Frame(
        start=CALLS_BEGIN,
        open=f"{CALL_BEGIN}function{SEPARATOR}",
        middle="\n```json\n",
        close=f"\n```{CALL_END}",
        between="\n",
        end=CALLS_END,
    )

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return CALLS_BEGIN in template and "```json" in template


class DeepSeekV31(NamedJson):
    name = "deepseek-v3.1"
    markers = _MARKERS
    frame = Frame(start=CALLS_BEGIN, open=CALL_BEGIN, middle=SEPARATOR, close=CALL_END, end=CALLS_END)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return CALLS_BEGIN in template

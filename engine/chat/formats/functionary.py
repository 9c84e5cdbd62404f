"""Functionary 3.1, also Llama's custom functions: <function=NAME>{…}</function>."""

from collections.abc import Collection

from basemlx.engine.chat.formats.named_json import Frame, NamedJson


class Functionary(NamedJson):
    name = "functionary-v3.1"
    markers = ()
    frame = Frame(open="<function=", middle=">", close="</function>")

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return "<function=" in template and "</function>" in template and "<parameter=" not in template

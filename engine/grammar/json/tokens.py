"""JSON's own tokens as terminals, with the white space they may bring along.

White space is bounded, or a model may fill its budget with it: after an opening bracket, a comma and before a closing
bracket one space, or a line break and an indentation; after a colon one space. Compact, spaced and indented JSON all
fit, and nothing else does.
"""

from basemlx.engine.grammar.languages import EVERYTHING
from basemlx.engine.grammar.numbers import ANY_NUMBER
from basemlx.engine.grammar.rules import Terminal
from basemlx.engine.grammar.terminals import string_terminal

_SPACE = r"( |\n( {0,40}|\t{0,20}))?"

OPEN_OBJECT = Terminal(rf"/\{{{_SPACE}/")
CLOSE_OBJECT = Terminal(rf"/{_SPACE}\}}/")
OPEN_ARRAY = Terminal(rf"/\[{_SPACE}/")
CLOSE_ARRAY = Terminal(rf"/{_SPACE}\]/")
COMMA = Terminal(rf"/,{_SPACE}/")
COLON = Terminal("/: ?/")

ANY_STRING = string_terminal(EVERYTHING)
ANY_SCALAR = f"({ANY_STRING} | {ANY_NUMBER} | /true|false|null/)"

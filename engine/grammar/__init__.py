"""Grammars that hold a model's output to what was asked: JSON schemas, regular expressions, choices, grammars.

    limits, document, expand, keywords/, cases     a JSON schema, multiplied out into cases
    languages, patterns, formats, numbers          sets of strings and numbers, exact under negation
    rules, terminals, json/                        cases as a context-free grammar
    schema                                         all of this in one call: the plan
    llguidance_backend, xgrammar_backend           engines that walk a grammar token by token
    worker, tasks, cache, compiler                 compiling what strangers send, under limits

`GrammarCompiler` is what the rest of the engine, and `basemlx schema check`, use. The step knows none of it: see
`engine.core.constraint`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basemlx.engine.grammar.compiler import Compiled, GrammarCompiler

__all__ = ["Compiled", "GrammarCompiler"]


def __getattr__(name: str) -> Any:
    """On first use, so that the compile worker starts without what it does not need."""
    if name in __all__:
        from basemlx.engine.grammar import compiler

        return getattr(compiler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

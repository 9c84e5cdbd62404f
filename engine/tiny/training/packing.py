"""Samples to training sequences: token ids and which of them the loss counts, packed without cutting a sample.

What counts: every token of the turn to be written, and the earlier answers of the assistant but for their first tokens
(there, whether thoughts come first is the template's choice, not the model's). Samples are separated by the
end-of-text token and attention is not masked between them: a model that looks past its own conversation is wrong, and
learns not to. numpy only; seeded.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from basemlx.engine.tiny.training.data.dialogue import Sample
from basemlx.engine.tiny.training.data.mixture import samples
from basemlx.engine.tiny.training.tokenizer import END_OF_TEXT, END_OF_TURN, START_OF_TURN, id_of

Tokens = NDArray[np.uint16]
Counted = NDArray[np.bool_]

_WAITING = 48  # samples to choose from when a sequence has room left


class Encoder:
    """Samples to ids and loss marks."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end_of_text = id_of(tokenizer, END_OF_TEXT)
        self.end_of_turn = id_of(tokenizer, END_OF_TURN)
        self.opening: list[int] = tokenizer.encode(f"{START_OF_TURN}assistant\n").ids

    def encode(self, sample: Sample) -> tuple[list[int], list[bool]]:
        prompt: list[int] = self.tokenizer.encode(sample.prompt()).ids
        completion: list[int] = self.tokenizer.encode(sample.completion()).ids
        counted = [False] * len(prompt)
        size = len(self.opening)
        at = 0
        # The last opening in the prompt belongs to the turn to be written.
        while (at := self._next_opening(prompt, at)) >= 0:
            start = at + size + 1
            try:
                end = prompt.index(self.end_of_turn, at)
            except ValueError:
                break
            for place in range(start, end + 1):
                counted[place] = True
            at = end
        return prompt + completion, counted + [True] * len(completion)

    def _next_opening(self, ids: list[int], at: int) -> int:
        first, size = self.opening[0], len(self.opening)
        while True:
            try:
                at = ids.index(first, at)
            except ValueError:
                return -1
            if ids[at : at + size] == self.opening:
                return at
            at += 1


def sequences(
    encoder: Encoder, seed: int, length: int, long_share: float = 0.0
) -> Iterator[tuple[Tokens, Counted]]:
    """Endless: `length` tokens and, for each, whether the loss counts predicting it. End-of-text fills what is left."""
    source = samples(seed, long_share=long_share)
    waiting: list[tuple[list[int], list[bool]]] = []
    while True:
        tokens = np.full(length, encoder.end_of_text, np.uint16)
        counted = np.zeros(length, np.bool_)
        used = 0
        while True:
            while len(waiting) < _WAITING:
                ids, marks = encoder.encode(next(source))
                if len(ids) < length:
                    waiting.append((ids, marks))
            room = length - used
            # The oldest that fits while there is room for anything; the largest that fits at the end.
            fitting = [at for at, (ids, _) in enumerate(waiting) if len(ids) < room]
            if not fitting:
                break
            at = fitting[0] if room > length // 3 else max(fitting, key=lambda place: len(waiting[place][0]))
            ids, marks = waiting.pop(at)
            tokens[used : used + len(ids)] = ids
            counted[used : used + len(ids)] = marks
            used += len(ids) + 1
        yield tokens, counted

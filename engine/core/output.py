"""One choice's way out: sampled tokens in, safe text and the end out.

It joins detokeniser, stop strings, the model's end tokens and the token limit; it knows no scheduler and no wire
format.
"""

from collections.abc import Sequence

from basemlx.engine.text.detokenizer import Detokenizer
from basemlx.engine.text.stop import StopMatcher
from basemlx.engine.types import FinishReason, OutputDelta, SamplingParams, TokenLogprob

INCOMPLETE = "\ufffd"
"""What a detokeniser makes of a character's bytes where the others never came."""


class ChoiceOutput:
    """Turns one sampled token after another into OutputDeltas of choice `index`.

    An end token or a stop token id is no part of the text nor of a delta's `token_ids`, though it was generated and is
    counted. A stop string is cut out of the text; text before it is delivered. A text that the limit cuts off within a
    character ends before it, so that it is the beginning of what it would have become.
    """

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        sampling: SamplingParams,
        end_token_ids: frozenset[int],
        max_tokens: int,
    ) -> None:
        self._index = index
        self._detokenizer = detokenizer
        self._stop = StopMatcher(sampling.stop) if sampling.stop else None
        self._stop_token_ids = frozenset(sampling.stop_token_ids)
        self._end_token_ids = frozenset() if sampling.ignore_eos else end_token_ids
        self._tokens_left = max_tokens

    def push(self, token_id: int, logprob: TokenLogprob | None) -> OutputDelta:
        """The delta for one token; with `finish_reason` set it is the choice's last."""
        self._tokens_left -= 1
        if token_id in self._stop_token_ids:
            return self._end((), (), "stop", token_id)
        if token_id in self._end_token_ids:
            return self._end((), (), "stop", None)
        logprobs = () if logprob is None else (logprob,)
        text, hit = self._matched(self._detokenizer.push(token_id))
        if hit is not None:
            return OutputDelta(self._index, text, (token_id,), logprobs, "stop", hit)
        if not self._tokens_left:
            return self._end((token_id,), logprobs, "length", None, text)
        return OutputDelta(self._index, text, (token_id,), logprobs)

    def _matched(self, text: str) -> tuple[str, str | None]:
        return (text, None) if self._stop is None else self._stop.push(text)

    def _end(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprob],
        reason: FinishReason,
        stop_reason: str | int | None,
        text: str = "",
    ) -> OutputDelta:
        """The last delta: what detokeniser and stop matcher still hold back comes out, a stop string in it counts."""
        rest = self._detokenizer.finish()
        if reason == "length":
            rest = rest.rstrip(INCOMPLETE)
        rest, hit = self._matched(rest)
        text += rest
        if hit is not None:
            reason, stop_reason = "stop", hit
        elif self._stop is not None:
            text += self._stop.finish()
        return OutputDelta(self._index, text, tuple(token_ids), tuple(logprobs), reason, stop_reason)

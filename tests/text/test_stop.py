"""Stop strings against a search in the whole text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from basemlx.engine.text.stop import StopMatcher

PIECES = st.lists(st.text(alphabet="ab.", max_size=4), max_size=10)
STOPS = st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), min_size=1, max_size=3, unique=True)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None, list[str]]:
    matcher = StopMatcher(tuple(stops))
    shown = []
    for piece in pieces:
        text, hit = matcher.push(piece)
        shown.append(text)
        if hit is not None:
            return "".join(shown), hit, shown
    return "".join(shown) + matcher.finish(), None, shown


@settings(max_examples=400)
@given(STOPS, PIECES)
def test_the_text_ends_at_the_first_stop_string_however_it_is_cut(
    stops: list[str], pieces: list[str]
) -> None:
    shown, hit, _ = run(stops, pieces)
    whole = "".join(pieces)
    at = min((found for stop in stops if (found := whole.find(stop)) >= 0), default=None)
    if hit is None:
        assert at is None
        assert shown == whole
    else:
        # With several stops, one that begins later may be complete earlier: it was there first.
        assert whole.startswith(shown + hit)
        assert not any(stop in shown for stop in stops)


@settings(max_examples=400)
@given(STOPS, PIECES)
def test_nothing_is_held_that_cannot_become_a_stop_string(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(tuple(stops))
    given_so_far = shown = ""
    for piece in pieces:
        given_so_far += piece
        text, hit = matcher.push(piece)
        shown += text
        if hit is not None:
            return
        held = given_so_far[len(shown) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
        assert not any(stop.startswith(given_so_far[at:]) for at in range(len(shown)) for stop in stops), (
            "the start of a stop string was shown"
        )


def test_the_longer_of_two_that_begin_together_is_cut() -> None:
    assert run(["ab", "abb"], ["xabb"]) == ("x", "abb", ["x"])

import time

from hypothesis import given
from hypothesis import strategies as st

from basemlx.engine.text.stop import StopMatcher

short = st.text("ab", min_size=1, max_size=4)


def fed(stop: tuple[str, ...], pieces: list[str]) -> tuple[str, str | None]:
    """All the text that came out and the hit, checking on the way that nothing is held that could be shown."""
    matcher = StopMatcher(stop)
    shown = ""
    for end, piece in enumerate(pieces, 1):
        safe, hit = matcher.push(piece)
        shown += safe
        if hit is not None:
            return shown, hit
        held = "".join(pieces[:end])[len(shown) :]
        prefixes = {pattern[:length] for pattern in stop for length in range(len(pattern))}
        longest = max(
            (held_back for held_back in prefixes if "".join(pieces[:end]).endswith(held_back)), key=len
        )
        assert held == longest
    return shown + matcher.finish(), None


def expected(stop: tuple[str, ...], text: str) -> tuple[str, str | None]:
    """By definition: the first end of any stop string, the longest that ends there."""
    for end in range(1, len(text) + 1):
        hits = [pattern for pattern in stop if text[:end].endswith(pattern)]
        if hits:
            hit = max(hits, key=len)
            return text[: end - len(hit)], hit
    return text, None


@given(stop=st.lists(short, max_size=3).map(tuple), pieces=st.lists(st.text("abc", max_size=6), max_size=8))
def test_result_is_that_of_the_whole_text_for_every_split(stop: tuple[str, ...], pieces: list[str]) -> None:
    assert fed(stop or ("zz",), pieces) == expected(stop or ("zz",), "".join(pieces))


def test_a_stop_string_across_pieces_is_never_shown() -> None:
    matcher = StopMatcher(("<end>",))
    assert matcher.push("fine <e") == ("fine ", None)
    assert matcher.push("nd") == ("", None)
    assert matcher.push("> never") == ("", "<end>")


def test_what_turns_out_to_be_no_stop_string_is_let_go_at_once() -> None:
    matcher = StopMatcher(("<end>", "\n\n"))
    assert matcher.push("a<en") == ("a", None)
    assert matcher.push("\n") == ("<en", None)
    assert matcher.push("b") == ("\nb", None)
    assert matcher.push("<") == ("", None)
    assert matcher.finish() == "<"


def test_without_stop_strings_everything_passes() -> None:
    matcher = StopMatcher(())
    assert matcher.push("all of it") == ("all of it", None)
    assert matcher.finish() == ""


def test_cost_is_linear_for_the_worst_of_stop_strings() -> None:
    stop = tuple("a" * length + "b" for length in range(200, 216))

    def seconds(length: int) -> float:
        matcher = StopMatcher(stop)
        started_s = time.perf_counter()
        for _ in range(length):
            matcher.push("aaaa")
        return time.perf_counter() - started_s

    seconds(1000)
    assert min(seconds(20_000) for _ in range(3)) < 5 * min(seconds(10_000) for _ in range(3))

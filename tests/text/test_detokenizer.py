import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basemlx.engine.text.tokenizer import Tokenizer
from tests.text.conftest import BUILDERS

for_each_kind = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def pushed(tokenizer: Tokenizer, token_ids: list[int], *, skip_special_tokens: bool = True) -> list[str]:
    detokenizer = tokenizer.detokenizer(skip_special_tokens=skip_special_tokens)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.finish()]


@for_each_kind
@given(data=st.data(), skip=st.booleans())
def test_any_tokens_one_by_one_give_the_text_of_all(
    tokenizer: Tokenizer, data: st.DataObject, skip: bool
) -> None:
    # Random ids are mostly broken UTF-8; a few beyond the vocabulary, as wider logits can give.
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=24))
    whole = tokenizer.decode(token_ids, skip_special_tokens=skip)
    assert "".join(pushed(tokenizer, token_ids, skip_special_tokens=skip)) == whole


@for_each_kind
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_an_encoded_text_comes_back_without_a_broken_character(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text)
    pieces = pushed(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids)
    if "�" not in tokenizer.decode(token_ids):
        assert not any("�" in piece for piece in pieces)


def test_a_character_of_several_tokens_comes_out_with_the_last_of_them() -> None:
    tokenizer = Tokenizer(BUILDERS["byte_level"]())
    *first, last = tokenizer.encode("🚀")
    assert first
    detokenizer = tokenizer.detokenizer()
    assert [detokenizer.push(token_id) for token_id in first] == [""] * len(first)
    assert detokenizer.push(last) == "🚀"
    detokenizer = tokenizer.detokenizer()
    detokenizer.push(first[0])
    assert detokenizer.finish() == "�"


def test_special_tokens_are_skipped_or_shown_as_asked() -> None:
    tokenizer = Tokenizer(BUILDERS["byte_level"]())
    token_ids = tokenizer.encode("<|im_start|>fox<|im_end|>")
    assert "".join(pushed(tokenizer, token_ids)) == "fox"
    assert "".join(pushed(tokenizer, token_ids, skip_special_tokens=False)) == "<|im_start|>fox<|im_end|>"


def test_token_bytes_of_a_character_join_to_its_utf8() -> None:
    for kind in ("byte_level", "byte_fallback", "byte_fallback_sign"):
        tokenizer = Tokenizer(BUILDERS[kind]())
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode("a 🚀"))) == "a 🚀".encode()


def test_cost_grows_linearly_even_where_no_character_ever_completes() -> None:
    for kind in ("byte_level", "byte_fallback_strip", "metaspace"):
        tokenizer = Tokenizer(BUILDERS[kind]())
        broken = tokenizer.encode("🚀")[0]

        def seconds(num_tokens: int, tokenizer: Tokenizer = tokenizer, broken: int = broken) -> float:
            started_s = time.perf_counter()
            pushed(tokenizer, [broken] * num_tokens)
            return time.perf_counter() - started_s

        seconds(1000)
        assert min(seconds(40_000) for _ in range(3)) < 5 * min(seconds(20_000) for _ in range(3))

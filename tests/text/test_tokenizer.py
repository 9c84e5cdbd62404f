import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from basemlx.engine.errors import InvalidRequest, ModelCorrupt
from basemlx.engine.text.tokenizer import Tokenizer


def test_named_tokens_and_every_end_token_are_read(folder_of: Callable[..., Path]) -> None:
    folder = folder_of(
        tokenizer_config={"bos_token": None, "eos_token": {"content": "<|im_end|>", "lstrip": False}},
        special_tokens_map={"bos_token": "<|im_start|>", "eos_token": "never read"},
        generation_config={"eos_token_id": [3, 7]},
    )
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    [im_end] = tokenizer.encode("<|im_end|>")
    assert tokenizer.eos_token_ids == {3, 7, im_end}
    assert im_end in tokenizer.special_token_ids


def test_bos_is_added_once_where_the_config_asks_for_it(folder_of: Callable[..., Path]) -> None:
    folder = folder_of(tokenizer_config={"add_bos_token": True, "bos_token": "<|im_start|>"})
    tokenizer = Tokenizer.from_folder(folder)
    bos = tokenizer.bos_token_id
    assert tokenizer.encode("fox", add_special_tokens=True) == [bos, *tokenizer.encode("fox")]
    assert tokenizer.encode("<|im_start|>fox", add_special_tokens=True).count(bos or 0) == 1


def test_truncation_and_padding_of_the_file_do_not_apply(folder_of: Callable[..., Path]) -> None:
    path = folder_of() / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(saved))
    assert len(Tokenizer.from_folder(path.parent).encode("x y z x y z")) > 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_broken_tokenizer_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json") as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) not in caught.value.message


def test_a_folder_without_tokenizer_json_says_what_it_has_instead(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "qwen.tiktoken").touch()
    with pytest.raises(ModelCorrupt, match=r"only as qwen\.tiktoken"):
        Tokenizer.from_folder(tmp_path)


def test_a_lone_surrogate_is_refused(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        Tokenizer.from_folder(folder_of()).encode("a\ud800b")


def test_a_text_of_megabytes_is_known_to_be_too_long_at_once(tokenizer: Tokenizer) -> None:
    text = "What is the weather in Tokyo? " * 400_000
    started_s = time.perf_counter()
    assert tokenizer.is_longer_than([text], 4096)
    assert time.perf_counter() - started_s < 0.5
    assert not tokenizer.is_longer_than([text[:300]], 300)

"""Incremental decoding with real tokenizers of every decoder family: joined pieces are the whole, none comes early."""

from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from basemlx.engine.errors import ModelCorrupt
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.tiny import MODEL_DIR

QWEN3 = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "qwen3"
CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "naïve café 東京 🙂 👩‍👩‍👧",
    "  two  spaces\n\n\ttab",
] * 3
TEXTS = st.text(alphabet=st.sampled_from("aé東🙂👩\u200d\u0301 \n\t.<|>The"), max_size=24)
FAMILIES = ["byte-level", "sentencepiece", "gemma", "metaspace", "wordpiece"]


@cache
def tokenizer(family: str) -> Tokenizer:
    if family in ("qwen3", "tiny"):
        folder = QWEN3 if family == "qwen3" else MODEL_DIR
        if not (folder / "tokenizer.json").exists():
            pytest.skip(f"the {family} tokenizer is not on this machine")
        return Tokenizer.from_folder(folder)
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(set("".join(CORPUS)))
    if family == "byte-level":
        built = tokenizers.Tokenizer(models.BPE())
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        built.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif family == "wordpiece":
        built = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        built.pre_tokenizer = pre_tokenizers.Whitespace()
        built.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        built = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        if family == "metaspace":
            built.pre_tokenizer = pre_tokenizers.Metaspace()
            built.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        else:
            built.normalizer = normalizers.Sequence(
                ([normalizers.Prepend("▁")] if family == "sentencepiece" else [])
                + [normalizers.Replace(" ", "▁")]
            )
            steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            built.decoder = decoders.Sequence(
                steps + ([decoders.Strip(" ", 1, 0)] if family == "sentencepiece" else [])
            )
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=special + byte_tokens,
            initial_alphabet=["▁", "a"],
            show_progress=False,
        )
    built.train_from_iterator(CORPUS, trainer)
    built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(built, {"bos_token": "<s>", "eos_token": {"content": "</s>"}})


def pieces(t: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = t.detokenizer()
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3", "tiny"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_joined_pieces_are_what_the_library_decodes(family: str, text: str) -> None:
    t = tokenizer(family)
    ids = t.encode(text)
    shown = pieces(t, ids)
    assert "".join(shown) == t._backend.decode(ids, skip_special_tokens=True)
    if family in ("byte-level", "qwen3", "tiny"):
        assert not any("\ufffd" in piece for piece in shown)


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece", "qwen3", "tiny"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ids_decode_to_the_same_text_however_they_are_cut(family: str, data: st.DataObject) -> None:
    t = tokenizer(family)
    ids = data.draw(st.lists(st.integers(0, t.vocab_size + 5), max_size=12))
    whole = b"".join(t.token_bytes(token) for token in ids if token not in t.special_token_ids)
    text = whole.decode(errors="replace")
    assert "".join(pieces(t, ids)) == (text.removeprefix(" ") if family == "sentencepiece" else text)


def test_a_character_in_parts_is_shown_when_it_is_complete() -> None:
    t = tokenizer("byte-level")
    ids = [token for token in t.encode("🙂") if t.token_bytes(token)]
    parts = [
        token
        for byte in "🙂".encode()
        for token in range(t.vocab_size)
        if t.token_bytes(token) == bytes([byte])
    ]
    assert len(ids) <= len(parts) == 4
    assert pieces(t, parts) == ["", "", "", "🙂", ""]
    assert pieces(t, parts[:3]) == ["", "", "", "\ufffd"]
    assert pieces(t, [*parts[:2], parts[0]])[2] == "\ufffd"


def test_control_tokens_are_skipped_unless_asked_for() -> None:
    t = tokenizer("byte-level")
    ids = [1, *t.encode("The"), 2]
    assert t.decode(ids) == "The"
    assert t.decode(ids, skip_special_tokens=False) == "<s>The</s>"
    assert t.eos_token_ids == {2}
    assert (t.bos_token, t.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.model": b"x"}, "tokenizer.model"),
        ({"tokenizer.json": b"{"}, "tokenizer.json"),
        ({"tokenizer.json": b"[]"}, "tokenizer.json"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused_by_file_name(
    tmp_path: Path, files: dict[str, bytes], named: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelCorrupt, match=named):
        Tokenizer.from_folder(tmp_path)

"""Tokenizers of every kind that models come with: small ones made here, Qwen3's and tiny's where they are at hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

import basemlx.engine
from basemlx.engine.text.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. What's the weather in Tokyo today, at 10:30?",
    '{"name": "Ada", "age": 36, "likes": ["tea", "numbers"]} — naïve café, 東京, 🙂👍🏽',
]
QWEN3 = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizers" / "qwen3"
TINY = Path(str(basemlx.engine.__file__)).parent / "tiny" / "model"


def byte_level() -> HFTokenizer:
    """GPT-2's scheme; an added token with a space and one with other letters are not written in its byte alphabet."""
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    tokenizer.add_tokens([AddedToken("<a b>", normalized=False), AddedToken("東京", normalized=False)])
    return tokenizer


def byte_fallback(*, strip: bool, sign: bool = False) -> HFTokenizer:
    """SentencePiece BPE as Llama 2 (which strips one leading space) and Gemma (which does not) have it; with `sign`,
    spaces are brought back by a Metaspace step."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*sorted(set("▁".join(CORPUS).replace(" ", "▁")) - set("🙂👍🏽東")), "▁▁", "▁t", "▁th", "▁the"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "▁"), ("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    tokenizer = HFTokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if strip else "never", split=False
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if sign:
        steps = [decoders.ByteFallback(), decoders.Metaspace()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def metaspace() -> HFTokenizer:
    tokenizer = HFTokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>"
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece() -> HFTokenizer:
    tokenizer = HFTokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=160, show_progress=False, special_tokens=["[UNK]", "[SEP]"]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def words() -> HFTokenizer:
    """No decoder at all: the library joins with spaces."""
    vocab = {word: index for index, word in enumerate(sorted(set(" ".join(CORPUS).split())))}
    tokenizer = HFTokenizer(models.WordLevel(vocab, unk_token="The"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def word_endings() -> HFTokenizer:
    tokenizer = HFTokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(vocab_size=120, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


BUILDERS: dict[str, Callable[[], HFTokenizer]] = {
    "byte_level": byte_level,
    "byte_fallback_strip": lambda: byte_fallback(strip=True),
    "byte_fallback": lambda: byte_fallback(strip=False),
    "byte_fallback_sign": lambda: byte_fallback(strip=False, sign=True),
    "metaspace": metaspace,
    "word_piece": word_piece,
    "words": words,
    "word_endings": word_endings,
}


@pytest.fixture(scope="session", params=[*BUILDERS, "qwen3", "tiny"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each kind in turn."""
    if request.param in BUILDERS:
        return Tokenizer(BUILDERS[request.param]())
    folder = {"qwen3": QWEN3, "tiny": TINY}[request.param]
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"the {request.param} tokenizer is not on this machine")
    return Tokenizer.from_folder(folder)


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., Path]:
    """A model's folder with a byte-level tokenizer and the given JSON files beside it."""

    def write(**files: dict[str, Any]) -> Path:
        byte_level().save(str(tmp_path / "tokenizer.json"))
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write

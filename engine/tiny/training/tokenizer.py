"""Trains the tokenizer: byte-level BPE on text of the generator, with Qwen3's control tokens behind it.

Words are cut as Qwen3 cuts them, with two differences that help a small model copy names: only a space joins the word
behind it (Qwen3 lets any punctuation do so), and a new word begins at a capital inside a name. So get_weather,
getWeather and "get weather" share their pieces. Digits stand alone. There is no normalisation: every text comes back
byte for byte. Deterministic for a seed.

    python -m basemlx.engine.tiny.training.tokenizer FOLDER
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from basemlx.engine.tiny.training.architecture import SHAPE
from basemlx.engine.tiny.training.data.mixture import samples

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
# Qwen3's control tokens in Qwen3's order; the special ones are those that decoding may skip.
SPECIAL_TOKENS = (
    END_OF_TEXT, START_OF_TURN, END_OF_TURN, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
MARKUP_TOKENS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
CONTROL_TOKENS = SPECIAL_TOKENS + MARKUP_TOKENS

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)(?!\p{L})"
    r"| ?\p{Lu}*[\p{L}&&[^\p{Lu}]]+"
    r"| ?\p{Lu}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def id_of(tokenizer: Tokenizer, content: str) -> int:
    """A control token's id. Raises ValueError for a tokenizer without it."""
    number = tokenizer.token_to_id(content)
    if number is None:
        raise ValueError(f"the tokenizer has no token {content}")
    return number


def corpus(seed: int, count: int) -> Iterator[str]:
    """Texts of the generator without control tokens, which BPE must not merge."""
    for number, sample in enumerate(samples(seed)):
        if number == count:
            return
        text = sample.prompt() + sample.completion()
        for token in CONTROL_TOKENS:
            text = text.replace(token, "\0")
        yield from (piece for piece in text.split("\0") if piece)


def train(seed: int = 11, count: int = 30_000) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocab_size - len(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, count), trainer)
    for content in CONTROL_TOKENS:
        special = content in SPECIAL_TOKENS
        token = AddedToken(content, special=special, normalized=False)
        if special:
            tokenizer.add_special_tokens([token])
        else:
            tokenizer.add_tokens([token])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        str(tokenizer.token_to_id(content)): {
            "content": content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": content in SPECIAL_TOKENS,
        }
        for content in CONTROL_TOKENS
    }
    configuration = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": described,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TURN,
        "errors": "replace",
        "model_max_length": SHAPE.context_tokens,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the built-in model's tokenizer.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--samples", type=int, default=30_000)
    options = parser.parse_args()
    tokenizer = train(options.seed, options.samples)
    save(tokenizer, options.folder)
    print(f"{tokenizer.get_vocab_size()} entries in {options.folder}")


if __name__ == "__main__":
    main()

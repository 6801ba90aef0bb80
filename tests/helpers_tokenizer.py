"""A small tokenizer of Qwen2's kind, trained here, and the older files that such a tokenizer was published in."""

import functools
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
FIRST = 600
"""Id of the first special token."""


@functools.cache
def trained():
    """With merges over letters, spaces, newlines and bytes of longer characters; the text is this project's own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.decoder = normalizers.NFC(), decoders.ByteLevel()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    documents = (Path(__file__).resolve().parent.parent / "docs").glob("*.md")
    text = [path.read_text(encoding="utf-8") for path in sorted(documents)]
    text += ["was geschieht hier? ?\n ?\n\n .\n.\n\n  \n\n \r\n\r\n größer, café, élève, 日本語の動画 👩‍🚀👍🏽\n"] * 40
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=FIRST, initial_alphabet=alphabet, show_progress=False)
    )
    assert tokenizer.get_vocab_size() == FIRST
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def trained_bytes(**changes):
    """Its `tokenizer.json`, with some keys changed."""
    return json.dumps(json.loads(trained().to_str()) | changes).encode()


def write_older_files(directory, *, added=True, config=True):
    """Write `vocab.json`, `merges.txt`, and what lists the added tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    model = json.loads(trained().to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    numbers = {token: FIRST + i for i, token in enumerate(SPECIAL)}
    if added:
        (directory / "added_tokens.json").write_text(json.dumps(numbers), encoding="utf-8")
    if config:
        flags = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
        rows = {str(number): {"content": token, **flags} for token, number in numbers.items()}
        settings = {"added_tokens_decoder": rows, "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory

"""A `tokenizer.json` that a Qwen2 decoder can be asked through: read, and held against what the model needs of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sttm_export.errors import UserError

if TYPE_CHECKING:
    import tokenizers


def load_tokenizer(data: bytes, source: str, remedy: str, vocabulary: int) -> tokenizers.Tokenizer:
    """Return the tokenizer of a file.

    Args:
        data: the file.
        source: what to call it in messages.
        remedy: what to do about a file that is damaged.
        vocabulary: ids that the decoder has embeddings for.

    Raises:
        UserError: damaged, of another kind, or with ids that the decoder does not have.
    """
    import tokenizers

    try:
        loaded = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises plain `Exception`
        raise UserError(f"{source} is damaged or no tokenizer ({error}); {remedy}.") from error
    if not isinstance(loaded.decoder, tokenizers.decoders.ByteLevel):
        raise UserError(
            f"{source} does not write text as bytes, as Qwen2's tokenizers do (its decoder is "
            f"{type(loaded.decoder).__name__}, expected ByteLevel); give the tokenizer of this model."
        )
    largest = max(loaded.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocabulary:
        raise UserError(
            f"{source} has ids up to {largest} and the decoder a vocabulary of {vocabulary}; "
            "give the tokenizer of this model."
        )
    # Both are for batches, and a file may carry them along.
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def token_ids(tokenizer: tokenizers.Tokenizer, source: str, tokens: Iterable[str]) -> dict[str, int]:
    """Return the ids of special tokens.

    Raises:
        UserError: those that the vocabulary lacks, by name: they would be spelled out and mean nothing to the model.
    """
    read = {token: tokenizer.encode(token, add_special_tokens=False).ids for token in tokens}
    if lacking := [token for token, ids in read.items() if len(ids) != 1]:
        raise UserError(
            f"{source} lacks {', '.join(lacking)}, which the model's prompt needs; "
            "give the tokenizer of this model, or correct `prompt` in the model file."
        )
    return {token: ids[0] for token, ids in read.items()}


def byte_letters() -> list[str]:
    """Letters of the 256 bytes in byte-level vocabularies: printable Latin-1 is itself, the rest is U+0100 and on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]

"""Text to ids and back, with a bundle's `tokenizer.json`: byte-level, as Qwen2's tokenizers are."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sttm_export.contracts.prompt import PromptSpec
from sttm_export.contracts.records import read_regular
from sttm_export.errors import UserError
from sttm_export.weights.tokenizer_file import byte_letters, load_tokenizer, token_ids

if TYPE_CHECKING:
    import tokenizers

_AGAIN = "export the bundle again"


class Tokenizer:
    """One that was loaded and checked (`read_tokenizer`).

    Args:
        loaded: the library's own.
        source: what to call it in messages.
    """

    def __init__(self, loaded: tokenizers.Tokenizer, source: str) -> None:
        self._loaded, self._source = loaded, source
        self._plain = _without_added_tokens(loaded)
        self._added = loaded.get_added_tokens_decoder()
        self._bytes = {letter: byte for byte, letter in enumerate(byte_letters())}

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of a text.

        Args:
            text: any.
            special: whether names of special tokens mean those tokens (text of a model file), or are spelled out like
                any other text (text of a user).
        """
        return (self._loaded if special else self._plain).encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield text as ids come, in whole characters: one that is spread over several ids waits for the last of them.

        Special tokens and ids without a token have no text. Bytes that are no UTF-8 come out as U+FFFD.
        """
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        for number in ids:
            if text := characters.decode(self._bytes_of(number)):
                yield text
        if text := characters.decode(b"", final=True):
            yield text

    def stop_ids(self, prompt: PromptSpec) -> frozenset[int]:
        """Return the ids that end an answer.

        Raises:
            UserError: a token that the vocabulary lacks, by name.
        """
        return frozenset(token_ids(self._loaded, self._source, prompt.stop).values())

    def _bytes_of(self, number: int) -> bytes:
        if (added := self._added.get(number)) is not None:
            return b"" if added.special else added.content.encode()
        token = (self._loaded.id_to_token(number) if 0 <= number < 2**32 else None) or ""
        # A token with letters that stand for no byte is one of its own, written as it is.
        return bytes(map(self._bytes.__getitem__, token)) if self._bytes.keys() >= set(token) else token.encode()


def read_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """Read a `tokenizer.json`.

    Args:
        path: of the file.
        vocabulary: of the decoder.

    Raises:
        UserError: missing, damaged, of another kind, or with ids that the decoder does not have.
    """
    try:
        data = read_regular(path)
    except ValueError as error:
        raise UserError(f"Cannot read the tokenizer {path} ({error}); {_AGAIN}.") from error
    return Tokenizer(load_tokenizer(data, str(path), _AGAIN, vocabulary), str(path))


def _without_added_tokens(loaded: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary, in which no text is a special token.

    The library's `encode_special_tokens` does this for tokens that the file marks as special, and files exist that mark
    none.
    """
    import tokenizers

    plain = tokenizers.Tokenizer(loaded.model)
    plain.normalizer, plain.pre_tokenizer = loaded.normalizer, loaded.pre_tokenizer
    return plain

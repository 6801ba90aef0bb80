"""A tokenizer for random weights: whatever is asked can be read, and whatever comes out can be said.

Ids are 256 bytes, then words of syllables, then special tokens at the end of the vocabulary, where Qwen2 has them.
Text is read byte by byte; the words have no merges, so they only ever come out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sttm_export.errors import UserError
from sttm_export.weights.tokenizer_file import byte_letters

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
_NOTE = "Made for random weights by sttm-export: byte by byte, with invented words. It is no published tokenizer."
_SYLLABLES = tuple(consonant + vowel for consonant in "bdfghklmnprstvwz" for vowel in "aeiou")
_SPACE = "Ġ"
"""How byte-level vocabularies write a space."""


def stand_in_tokenizer(vocabulary: int, tokens: Sequence[str] = ()) -> bytes:
    """Return a `tokenizer.json`; the same bytes for the same arguments.

    Args:
        vocabulary: ids of the decoder; all of them are used.
        tokens: special tokens besides Qwen2's.

    Raises:
        UserError: too few ids.
    """
    special = tuple(dict.fromkeys([*_SPECIAL, *tokens]))
    words = vocabulary - 256 - len(special)
    if words < 0:
        raise UserError(
            f"A vocabulary of {vocabulary} is too small for a stand-in tokenizer, which has 256 bytes and "
            f"{len(special)} special tokens; give the decoder at least {256 + len(special)}."
        )
    letters = [*byte_letters(), *(f"{_SPACE}{_word(number)}" for number in range(words))]
    return json.dumps(_file(letters, special), ensure_ascii=False, separators=(",", ":")).encode()


def _file(letters: Sequence[str], special: Sequence[str]) -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        # The format has no place for a note, but leaves unknown keys of a model alone.
        "model": {
            "type": "BPE",
            "stand_in": _NOTE,
            "vocab": {letter: number for number, letter in enumerate(letters)},
            "merges": [],
        },
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "added_tokens": [{"id": len(letters) + i, "content": token, **flags} for i, token in enumerate(special)],
    }


def _word(number: int) -> str:
    """Numbers written in syllables: first all of one, then all of two, and so on, so that no two are alike."""
    text = ""
    while number >= 0:
        number, syllable = divmod(number, len(_SYLLABLES))
        text, number = _SYLLABLES[syllable] + text, number - 1
    return text

"""The tokenizer of a checkpoint as one `tokenizer.json`: copied where there is one, else made of the older files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.decoding import TOKENIZER
from sttm_export.contracts.prompt import PromptSpec
from sttm_export.contracts.records import read_regular
from sttm_export.errors import UserError
from sttm_export.weights.files import CheckpointFiles, read_json_object
from sttm_export.weights.tokenizer_file import load_tokenizer, token_ids

if TYPE_CHECKING:
    import tokenizers

VOCABULARY, MERGES = "vocab.json", "merges.txt"
ADDED, CONFIG = "added_tokens.json", "tokenizer_config.json"
_FLAGS = ("special", "normalized", "single_word", "lstrip", "rstrip")
_AGAIN = "download that file again"


def checkpoint_tokenizer(files: CheckpointFiles, spec: DecoderSpec, prompt: PromptSpec) -> bytes:
    """Return the tokenizer of a checkpoint as a `tokenizer.json`.

    Raises:
        UserError: none there, damaged, with ids that the decoder does not have, or without a token of the prompt.
    """
    names = files.names()
    if TOKENIZER in names:
        source = str(files.path(TOKENIZER))
        try:
            data = read_regular(files.path(TOKENIZER))
        except ValueError as error:
            raise UserError(f"Cannot read {source} ({error}); {_AGAIN}.") from error
    elif VOCABULARY in names and MERGES in names:
        source = f"The tokenizer in {files.identifier}"
        data = _converted(files, names)
    else:
        raise UserError(
            f"{files.identifier} has no tokenizer: neither {TOKENIZER} nor {VOCABULARY} with {MERGES}; "
            "give the directory of a whole checkpoint."
        )
    token_ids(load_tokenizer(data, source, _AGAIN, spec.vocabulary), source, prompt.tokens)
    return data


def _converted(files: CheckpointFiles, names: list[str]) -> bytes:
    """The older files by Qwen2's own class. It is not let near the directory: it would read more than is checked."""
    from tokenizers.models import BPE
    from transformers import Qwen2Tokenizer

    paths = files.path(VOCABULARY), files.path(MERGES)
    try:
        vocabulary, merges = BPE.read_file(*map(str, paths))
        made = Qwen2Tokenizer(vocab=vocabulary, merges=merges).backend_tokenizer
    except Exception as error:  # the library raises plain `Exception`
        raise UserError(f"{paths[0]} and {paths[1]} are no tokenizer ({error}); download them again.") from error
    _add(made, _added(files, names), files.identifier)
    return str(made.to_str()).encode()


def _add(made: tokenizers.Tokenizer, added: Mapping[int, tokenizers.AddedToken], identifier: str) -> None:
    """Add tokens behind the vocabulary; the library numbers them itself, so their ids are compared afterwards."""
    for number in sorted(added):
        made.add_tokens([added[number]])
    for number, token in added.items():
        if (found := made.token_to_id(token.content)) != number:
            raise UserError(
                f"{identifier} says that {token.content} has the id {number}, and behind {VOCABULARY} it comes "
                f"to {found}; give a checkpoint whose tokenizer files belong together."
            )


def _added(files: CheckpointFiles, names: list[str]) -> dict[int, tokenizers.AddedToken]:
    """Added tokens by id: from the config, which knows more of each, or from the list, where all are special."""
    from tokenizers import AddedToken

    config = read_json_object(files.path(CONFIG)) if CONFIG in names else {}
    rows = config.get("added_tokens_decoder")
    if rows is None:
        path, listed = files.path(ADDED), read_json_object(files.path(ADDED)) if ADDED in names else {}
        rows = {number: {"content": token, "special": True, "normalized": False} for token, number in listed.items()}
    else:
        path = files.path(CONFIG)
    try:
        return {int(number): AddedToken(row["content"], **_flags(row)) for number, row in rows.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not list added tokens by id; {_AGAIN}.") from error


def _flags(row: Mapping[str, Any]) -> dict[str, bool]:
    return {name: bool(row[name]) for name in _FLAGS if name in row}

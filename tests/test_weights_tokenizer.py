"""The tokenizer that an export takes along: a checkpoint's, made of its older files, or a stand-in."""

import json
import socket
from dataclasses import replace

import pytest
from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import encoder_shapes, tiny_model, tiny_state, write_checkpoint
from helpers_tokenizer import FIRST, SPECIAL, trained, trained_bytes, write_older_files

from sttm_export.errors import UserError
from sttm_export.families.registry import load_model, model_names
from sttm_export.families.weights import open_weights
from sttm_export.language.tokenizer import read_tokenizer
from sttm_export.weights.checkpoint_tokenizer import checkpoint_tokenizer
from sttm_export.weights.sources import resolve_checkpoint
from sttm_export.weights.stand_in_tokenizer import stand_in_tokenizer

PROMPT = tiny_prompt()
SPEC = tiny_decoder(vocabulary=640)
TEXTS = [
    "<|im_start|>user\nWhat's the größte café?<|im_end|>\n",
    "  a\n\n b ",
    "e\u0301 日本語 👍🏽",
    "<|vision_end|>Who?",
]


def tokenizer_of(directory, spec=SPEC, prompt=PROMPT):
    return checkpoint_tokenizer(resolve_checkpoint(str(directory)), spec, prompt)


def refused(directory, *arguments):
    with pytest.raises(UserError) as caught:
        tokenizer_of(directory, *arguments)
    return str(caught.value)


def opened(tmp_path, data, vocabulary=SPEC.vocabulary):
    path = tmp_path / "opened.json"
    path.write_bytes(data)
    return read_tokenizer(path, vocabulary)


def test_a_tokenizer_json_is_copied_as_it_is(tmp_path):
    data = trained_bytes() + b"\n \n"
    write_older_files(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(data)
    assert tokenizer_of(tmp_path) == data


@pytest.mark.parametrize("files", [{}, {"config": False}, {"added": False}], ids=["both", "list", "config"])
def test_older_files_make_the_same_tokenizer(tmp_path, files):
    data = tokenizer_of(write_older_files(tmp_path / "ckpt", **files))
    assert data == tokenizer_of(tmp_path / "ckpt"), "an export is repeated byte by byte"
    made = opened(tmp_path, data)
    assert made.stop_ids(PROMPT) == {FIRST, FIRST + 2}
    for text in TEXTS:
        ids = made.encode(text, special=True)
        assert ids == trained().encode(text, add_special_tokens=False).ids
        assert "".join(made.decode(ids)) == trained().decode(ids, skip_special_tokens=True)
    assert all(row["special"] for row in json.loads(data)["added_tokens"])


def test_what_the_config_says_of_a_token_is_kept(tmp_path):
    directory = write_older_files(tmp_path / "ckpt")
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    number = FIRST + len(SPECIAL)
    config["added_tokens_decoder"][str(number)] = {"content": "<tool_call>", "special": False, "rstrip": True}
    path.write_text(json.dumps(config))
    row = json.loads(tokenizer_of(directory))["added_tokens"][-1]
    assert (row["id"], row["content"], row["special"], row["rstrip"]) == (number, "<tool_call>", False, True)


def test_ids_that_contradict_the_vocabulary(tmp_path):
    directory = write_older_files(tmp_path, config=False)
    (directory / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": FIRST, "<|im_end|>": FIRST + 7}))
    message = refused(directory)
    assert f"says that <|im_end|> has the id {FIRST + 7}, and behind vocab.json it comes to {FIRST + 1}" in message


def test_a_checkpoint_without_a_tokenizer(tmp_path):
    assert f"{tmp_path.name} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt" in refused(
        tmp_path
    )
    write_older_files(tmp_path)
    (tmp_path / "merges.txt").unlink()
    assert "has no tokenizer" in refused(tmp_path)


def test_tokens_that_the_prompt_needs(tmp_path):
    write_older_files(tmp_path, added=False, config=False)
    message = refused(tmp_path)
    assert message.startswith(f"The tokenizer in {tmp_path.name} lacks <|im_start|>, <|im_end|>, which the model's")
    (tmp_path / "tokenizer.json").write_bytes(trained_bytes(added_tokens=[]))
    assert "tokenizer.json lacks <|im_start|>, <|im_end|>, <|endoftext|>" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json is damaged or no tokenizer"),
        ("vocab.json", "[]", "merges.txt are no tokenizer"),
        ("merges.txt", "a b c\n", "merges.txt are no tokenizer"),
        ("merges.txt", "qq zz\n", "merges.txt are no tokenizer"),
        ("tokenizer_config.json", "x", "tokenizer_config.json as JSON"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"600": {}}}', "does not list added tokens by id"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [600]}', "does not list added tokens by id"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}', "does not list added tokens by"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, message):
    write_older_files(tmp_path)
    (tmp_path / name).write_text(text)
    assert message in refused(tmp_path)


def test_a_list_of_added_tokens_that_is_none(tmp_path):
    write_older_files(tmp_path, config=False)
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": null}')
    assert "added_tokens.json does not list added tokens by id" in refused(tmp_path)


def test_more_ids_than_the_decoder_has(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(trained_bytes())
    assert "ids up to 604 and the decoder a vocabulary of 604" in refused(tmp_path, tiny_decoder(vocabulary=604))


def test_through_opened_weights(tmp_path):
    """What an export calls; the tokenizer is read only when it is asked for."""
    model = replace(tiny_model(), decoder=SPEC, prompt=PROMPT)
    directory = write_checkpoint(tmp_path / "ckpt", model, tiny_state(tiny_model()))
    weights = open_weights(model, encoder_shapes(model), str(directory), None)
    with pytest.raises(UserError, match="ckpt has no tokenizer"):
        weights.tokenizer(SPEC, PROMPT)
    (directory / "tokenizer.json").write_bytes(trained_bytes())
    assert weights.tokenizer(SPEC, PROMPT) == trained_bytes()
    for seed in (0, 1):
        weights = open_weights(model, encoder_shapes(model), None, seed)
        assert weights.tokenizer(SPEC, PROMPT) == stand_in_tokenizer(SPEC.vocabulary)
    own = tiny_prompt(stop=("</s>",))
    assert opened(tmp_path, weights.tokenizer(SPEC, own)).stop_ids(own) == {639}


@pytest.mark.parametrize("vocabulary", [261, 262, 341, 342, 7000, 152064])
def test_stand_in(tmp_path, vocabulary):
    data = stand_in_tokenizer(vocabulary)
    assert data == stand_in_tokenizer(vocabulary)
    assert b"It is no published tokenizer." in data[:300]
    made = opened(tmp_path, data, vocabulary)
    assert made.encode("".join(SPECIAL), special=True) == list(range(vocabulary - 5, vocabulary))
    for text in (*TEXTS, "\x00\x7f\xad\u0100", "".join(map(chr, range(256)))):
        assert "".join(made.decode(made.encode(text, special=False))) == text
    # Every id but those of bytes and special tokens is a word, and none is another's.
    words = ["".join(made.decode([number])) for number in range(256, vocabulary - 5)]
    assert len(set(words)) == len(words)
    assert all(word[0] == " " and word[1:].isascii() and word[1:].isalpha() for word in words)
    assert [list(made.decode([number])) for number in range(vocabulary - 5, vocabulary)] == [[]] * 5


def test_stand_ins_fit_every_model(tmp_path):
    for model in map(load_model, model_names()):
        data = stand_in_tokenizer(model.decoder.vocabulary, model.prompt.tokens)
        assert len(opened(tmp_path, data, model.decoder.vocabulary).stop_ids(model.prompt)) == 2


def test_too_few_ids_for_a_stand_in():
    with pytest.raises(
        UserError, match=r"vocabulary of 260 is too small for a stand-in.* give the decoder at least 261"
    ):
        stand_in_tokenizer(260)


def test_nothing_is_asked_of_a_hub(tmp_path, monkeypatch):
    """At a published size, from where on the class that converts older files may look names up."""
    vocabulary = json.loads(stand_in_tokenizer(151643 + len(SPECIAL)))["model"]["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    numbers = {token: 151643 + i for i, token in enumerate(SPECIAL)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(numbers), encoding="utf-8")

    def refuse(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    data = tokenizer_of(tmp_path, tiny_decoder(vocabulary=152064))
    assert opened(tmp_path, data, 152064).stop_ids(PROMPT) == {151643, 151645}

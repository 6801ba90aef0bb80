"""Text to ids and back: against the library's own decoding, piece by piece, and on files that are not fit."""

import json

import pytest
from helpers_language import tiny_prompt
from helpers_tokenizer import FIRST, SPECIAL, trained, trained_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm_export.errors import UserError
from sttm_export.language.tokenizer import read_tokenizer

ALL = FIRST + len(SPECIAL)


def written(tmp_path, data):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return read_tokenizer(written(tmp_path_factory.mktemp("tokenizer"), trained_bytes()), ALL)


def test_special_tokens_of_a_model_file_and_of_a_user(tokenizer):
    text = "<|im_start|>user\nWho?<|im_end|>"
    special = tokenizer.encode(text, special=True)
    plain = tokenizer.encode(text, special=False)
    assert special[0] == FIRST + 1
    assert special[-1] == FIRST + 2
    assert max(plain) < FIRST
    assert "".join(tokenizer.decode(plain)) == text
    assert "".join(tokenizer.decode(special)) == "user\nWho?"


def test_a_token_that_its_file_does_not_mark_as_special_is_spelled_out_all_the_same(tmp_path):
    rows = [{**row, "special": False, "normalized": True} for row in json.loads(trained().to_str())["added_tokens"]]
    tokenizer = read_tokenizer(written(tmp_path, trained_bytes(added_tokens=rows)), ALL)
    assert max(tokenizer.encode("<|im_end|>", special=False)) < FIRST
    assert tokenizer.encode("<|im_end|>", special=True) == [FIRST + 2]
    assert list(tokenizer.decode([FIRST + 2])) == ["<|im_end|>"]


@pytest.mark.parametrize("text", [" two  spaces ", "größer", "日本語の動画", "👩‍🚀👍🏽 fine", "a\r\n\nb", "e\u0301"])
def test_text_comes_back_in_whole_characters(tokenizer, text):
    ids = tokenizer.encode(text, special=True)
    pieces = list(tokenizer.decode(iter(ids)))
    assert "".join(pieces) == trained().normalizer.normalize_str(text)
    assert all(pieces)
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_whole(tokenizer):
    """A character of four bytes over four ids: nothing, three times, and then all of it."""
    ids = [tokenizer.encode("a", special=True)[0], *(trained().token_to_id(letter) for letter in "ðŁĳį")]
    fed = []

    def feed():
        for number in ids:
            fed.append(number)
            yield number

    stream = tokenizer.decode(feed())
    assert (next(stream), len(fed)) == ("a", 1)
    assert (next(stream), len(fed)) == ("👍", 5)
    assert list(stream) == []


def test_an_answer_that_ends_within_a_character(tokenizer):
    half = [trained().token_to_id(letter) for letter in "ðŁ"]
    assert list(tokenizer.decode(half)) == ["\ufffd"]
    assert "".join(tokenizer.decode([*half, *tokenizer.encode(" x", special=True)])) == "\ufffd x"


@pytest.mark.parametrize("number", [-1, ALL, 152063, 2**32, 2**70])
def test_ids_without_a_token_have_no_text(tokenizer, number):
    assert list(tokenizer.decode([number])) == []


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, ALL - 1), max_size=30))
def test_decoding_as_the_library_does_it_all_at_once(tokenizer, ids):
    assert "".join(tokenizer.decode(ids)) == trained().decode(ids, skip_special_tokens=True)


def test_an_added_token_that_is_not_special_is_text(tmp_path):
    row = {"id": ALL, "content": "<|café bar|>", "single_word": False, "lstrip": False, "rstrip": False}
    rows = [*json.loads(trained().to_str())["added_tokens"], {**row, "normalized": False, "special": False}]
    tokenizer = read_tokenizer(written(tmp_path, trained_bytes(added_tokens=rows)), ALL + 1)
    assert list(tokenizer.decode([ALL])) == ["<|café bar|>"]


def test_limits_for_batches_that_a_file_carries_along_do_not_count(tmp_path):
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    data = trained_bytes(truncation=truncation, padding=padding)
    text = "What happens in the last of these frames?"
    assert read_tokenizer(written(tmp_path, data), ALL).encode(text, special=True) == trained().encode(text).ids


def test_tokens_that_end_an_answer(tokenizer):
    assert tokenizer.stop_ids(tiny_prompt()) == {FIRST, FIRST + 2}
    with pytest.raises(UserError, match=r"tokenizer\.json lacks <\|eot\|>, </s>, which the model's prompt needs"):
        tokenizer.stop_ids(tiny_prompt(stop=("<|im_end|>", "<|eot|>", "</s>")))


def test_files_that_are_not_fit(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"Cannot read the tokenizer .*there is no such file.*export the bundle again"):
        read_tokenizer(path, ALL)
    for data in (b"", b"\xff\xfe", b"{}", b"[]", trained_bytes()[:-200], trained_bytes(version="9")):
        with pytest.raises(UserError, match=r"tokenizer\.json is damaged or no tokenizer .*; export the bundle again"):
            read_tokenizer(written(tmp_path, data), ALL)
    with pytest.raises(UserError, match="its decoder is Metaspace, expected ByteLevel"):
        spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
        read_tokenizer(written(tmp_path, trained_bytes(decoder=spaces)), ALL)
    with pytest.raises(UserError, match="its decoder is NoneType, expected ByteLevel"):
        read_tokenizer(written(tmp_path, trained_bytes(decoder=None)), ALL)
    with pytest.raises(UserError, match=f"ids up to {ALL - 1} and the decoder a vocabulary of {ALL - 1}"):
        read_tokenizer(written(tmp_path, trained_bytes()), ALL - 1)

"""Slots that are left for a question and its answer; the table of embeddings. Counted and mapped, or one sentence."""

import random
from dataclasses import replace

import helpers_fuzz
import numpy as np
import pytest
from helpers_ask import asked_model
from helpers_networks import tiny_recipe

from sttm_export.contracts.decoding import Decoding
from sttm_export.errors import UserError
from sttm_export.language.embeddings import read_embeddings
from sttm_export.language.room import USUAL_ANSWER, longest_answer, room_behind

RECIPE = tiny_recipe(asked_model())


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_room_is_what_the_buffers_have_whatever_merges(layer, frames):
    recipe = replace(RECIPE, decoding=Decoding(layer, 1, 16, 40))
    graphs = [(recipe.group_graph(span), frames * 9) for span in recipe.below]
    graphs += [(recipe.group_graph(span), recipe.merge.clip_budget(frames)) for span in recipe.above]
    slots = min(graph.kept[0].shape[1] - video for graph, video in graphs)
    assert room_behind(recipe, frames, 10) == slots - 10
    assert slots >= 40


def test_an_answer_fills_the_room_but_for_its_last_token():
    assert longest_answer(5, 10, 6) == 6
    assert longest_answer(10, 10, None) == 1
    assert longest_answer(5, 10, None) == 6
    assert longest_answer(5, 1000, None) == USUAL_ANSWER
    assert longest_answer(5, 1000, 900) == 900
    with pytest.raises(UserError, match=r"of 5 tokens and an answer of 7 do not fit into the 10 slots .* 6 or less"):
        longest_answer(5, 10, 7)
    with pytest.raises(UserError, match="takes 11 tokens and there are 10 slots"):
        longest_answer(11, 10, None)
    with pytest.raises(UserError, match="takes 11 tokens and there are 0 slots"):
        longest_answer(11, -3, 1)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "embeddings.npy", np.arange(400 * 48, dtype=np.float32).reshape(400, 48))
    return tmp_path / "embeddings.npy"


def test_the_table_is_mapped(path):
    table = read_embeddings(path, RECIPE)
    assert isinstance(table, np.memmap)
    assert table[3, 1] == 3 * 48 + 1


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((400, 48), np.float16), "is float16 [400, 48], expected float32 [400, 48]"),
        (np.zeros((48, 400), np.float32), "is float32 [48, 400], expected float32"),
        (np.zeros((400, 48), np.float32, order="F"), "expected float32 [400, 48]"),
        (np.zeros((), np.float32), "is float32 [], expected float32"),
        (np.array([object()]), "is damaged"),
    ],
)
def test_another_table(path, array, words):
    np.save(path, array, allow_pickle=True)
    with pytest.raises(UserError, match="copy the bundle anew") as caught:
        read_embeddings(path, RECIPE)
    assert words in str(caught.value)


def test_a_damaged_table_is_one_sentence(path):
    whole, chance = path.read_bytes(), random.Random(0)
    for turn in range(300):
        # Flips in the numbers are found by the bundle's sums; here the header is what is read.
        head = helpers_fuzz.mutate_bytes(whole[:128], chance)
        path.write_bytes(head + whole[128:] if turn % 2 else helpers_fuzz.mutate_bytes(whole, chance))
        try:
            assert read_embeddings(path, RECIPE).shape == (400, 48)
        except UserError as error:
            assert len(str(error)) < 600
    path.unlink()
    with pytest.raises(UserError, match="There is no table of embeddings"):
        read_embeddings(path, RECIPE)

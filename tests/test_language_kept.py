"""A video that was read, in a file: what comes back is what was written, and anything else is one sentence."""

import dataclasses
import json
import os
import random
import struct

import helpers_fuzz
import numpy as np
import pytest
from helpers_ask import asked_model
from helpers_networks import tiny_recipe
from safetensors.numpy import load, save

from sttm_export.contracts.decoding import Decoding
from sttm_export.contracts.records import read_record
from sttm_export.errors import UserError
from sttm_export.language.kept import About, KeptVideo, digest, pack
from sttm_export.language.model import Watched

MANIFEST = "5" * 64
RECIPE = dataclasses.replace(tiny_recipe(asked_model()), decoding=Decoding(1, 2, 16, 40))
BEFORE, BEHIND, FRAMES, TOKENS = (1, 2, 3), (4, 5), 3, 11


def used_slots(graph):
    return 5 + (FRAMES * 9 if graph.name == "decoder_00_00" else TOKENS)


def written(recipe=RECIPE, **changes):
    """A record, what was read, and the state of every group: noise, also where nothing was written."""
    noise = np.random.default_rng(0)
    cells = np.sort(noise.choice(FRAMES * 9, TOKENS, replace=False)).astype(np.int64)
    graphs = [recipe.group_graph(span) for span in (*recipe.below, *recipe.above)]
    state = {
        graph.name: {t.name: noise.standard_normal(t.shape).astype(t.dtype) for t in graph.kept} for graph in graphs
    }
    values = {"bundle": MANIFEST, "model": "tiny", "video": "été.mp4", "duration": 6.0, "timestamps": (0.0, 1.0, 2.0)}
    values |= {"before": BEFORE, "behind": BEHIND, "frames": FRAMES, "tokens": TOKENS}
    return About.of(**values | changes), Watched(len(BEFORE), FRAMES, cells, len(BEHIND)), state


@pytest.fixture
def path(tmp_path):
    about, watched, state = written()
    path = tmp_path / "video.kv"
    path.write_bytes(pack(about, RECIPE, watched, state))
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("layer", [0, 1])
def test_what_was_written_comes_back(tmp_path, layer, precision):
    recipe = dataclasses.replace(RECIPE, decoding=Decoding(layer, 2, 16, 40), precision=precision)
    about, watched, state = written(recipe)
    path = tmp_path / "video.kv"
    path.write_bytes(packed := pack(about, recipe, watched, state))
    kept = KeptVideo(path, recipe, MANIFEST)
    assert dataclasses.replace(kept.about, sha256="") == about
    found, buffers = kept.read()
    assert (found.system, found.frames, found.behind) == (3, 3, 2)
    assert np.array_equal(found.cells, watched.cells)
    for graph in (recipe.group_graph(span) for span in (*recipe.below, *recipe.above)):
        used = used_slots(graph) if layer else 5 + TOKENS
        for name, buffer in buffers[graph.name].items():
            assert buffer.dtype == state[graph.name][name].dtype
            assert np.array_equal(buffer[:, :used], state[graph.name][name][:, :used])
            assert not buffer[:, used:].any(), "slots that the video does not take are not kept"
    assert pack(about, recipe, watched, state) == packed, "the same video gives the same bytes"


def changed(path, *, about=None, tensors=None, resign=True):
    """The file with values of its record and tensors changed, and its sum made right again."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    record = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["sttm-export"]) | (about or {})
    record = {key: value for key, value in record.items() if value is not ...}
    arrays = load(data) | (tensors or {})
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if resign and (read := read_record(About, record, [])):
        record["sha256"] = digest(read, arrays)
    path.write_bytes(save(arrays, {"sttm-export": json.dumps(record)}))


SWAPS = [
    ({"about": {"bundle": "6" * 64}}, "is of another bundle"),
    ({"about": {"model": "other"}}, "is of the model 'other', and this bundle is of 'tiny'"),
    ({"about": {"format": 2}}, "has format 2, this program reads format 1"),
    ({"about": {"format": None}}, "has format None"),
    ({"about": {"frames": 5}}, "names a larger video than this bundle takes"),
    ({"about": {"tokens": 19}}, "names a larger video than this bundle takes"),
    ({"about": {"behind": list(range(60))}}, "names a larger video than this bundle takes"),
    ({"about": {"frames": 0}}, "'frames' must be 1 to"),
    ({"about": {"frames": "3"}}, "'frames' must be int"),
    ({"about": {"before": [-1]}}, "'before[0]' must be 0 to"),
    ({"about": {"duration": float("nan")}}, "'duration' must be"),
    ({"about": {"video": ...}}, "missing 'video'"),
    ({"about": {"tokens": 10}}, "holds 'cells' as int32 [11], expected int32 [10]"),
    ({"about": {"frames": 2}}, "holds 'keys_0' as float32 [2, 32, 12], expected float32 [2, 23, 12]"),
    ({"tensors": {"keys_0": None}}, "does not hold the keys and values that it describes"),
    ({"tensors": {"more": np.zeros(3)}}, "does not hold the keys and values that it describes"),
    ({"tensors": {"keys_1": np.zeros((2, 16, 12), np.float16)}}, "holds 'keys_1' as float16 [2, 16, 12]"),
    ({"tensors": {"keys_1": np.zeros((2, 16, 12), np.int64)}}, "holds 'keys_1' as I64 [2, 16, 12]"),
    ({"tensors": {"keys_1": np.zeros((), np.float32)}}, "holds 'keys_1' as float32 []"),
    ({"tensors": {"cells": np.full(11, 27, np.int32)}}, "was changed after it was written"),
    ({"tensors": {"cells": np.full(11, -1, np.int32)}}, "was changed after it was written"),
    ({"about": {"sha256": "0" * 64}, "resign": False}, "was changed after it was written"),
    ({"about": {"duration": 7.0}, "resign": False}, "was changed after it was written"),
    ({"tensors": {"values_2": np.ones((2, 16, 12), np.float32)}, "resign": False}, "was changed after it was written"),
]


@pytest.mark.parametrize(("changes", "words"), SWAPS, ids=[row[1] for row in SWAPS])
def test_what_does_not_belong_to_the_bundle(path, changes, words):
    changed(path, **changes)
    with pytest.raises(UserError) as caught:
        KeptVideo(path, RECIPE, MANIFEST).read()
    assert words in str(caught.value)
    assert str(caught.value).endswith("; give a file that `sttm-export ask --save-kv` wrote with this bundle.")


HOSTILE = [
    (b"", "is damaged or no safetensors file"),
    (b"{}", "is damaged or no safetensors file"),
    (b"\xff" * 64, "is damaged or no safetensors file"),
    (struct.pack("<Q", 2**63) + b"{}", "is damaged or no safetensors file"),
    (struct.pack("<Q", 2) + b"{}", "does not say what its tensors belong to"),
    (struct.pack("<Q", 4) + b"null", "is damaged or no safetensors file"),
    (b"PK\x03\x04" + bytes(100), "is damaged or no safetensors file"),
    (save({"x": np.zeros(3)}), "does not say what its tensors belong to"),
    (save({"x": np.zeros(3)}, {"format": "pt"}), "does not say what its tensors belong to"),
    (save({"x": np.zeros(3)}, {"sttm-export": ""}), "does not say what its tensors belong to"),
    (save({"x": np.zeros(3)}, {"sttm-export": "[" * 10**5}), "does not say what its tensors belong to"),
    (save({"x": np.zeros(3)}, {"sttm-export": "[1]"}), "does not say what its tensors belong to"),
    (save({"x": np.zeros(3)}, {"sttm-export": '{"format": 1}'}), "missing 'program'"),
    (save({"x": np.zeros(3)}, {"sttm-export": " " * 2**23}), "does not say what its tensors belong to"),
]


@pytest.mark.parametrize(("data", "words"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_such_file(tmp_path, data, words):
    path = tmp_path / "video.kv"
    path.write_bytes(data)
    with pytest.raises(UserError, match="The file of keys and values") as caught:
        KeptVideo(path, RECIPE, MANIFEST)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("name", "words"), [("absent", "is not there"), (".", "no regular"), ("fifo", "no regular")])
def test_what_is_no_file_at_all(tmp_path, name, words):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match=words):
        KeptVideo(tmp_path / name, RECIPE, MANIFEST)


def test_every_cut_and_flip_is_found_out(path):
    """No damage is taken for a video: wherever it is, it is refused, and never with a traceback."""
    whole, chance = path.read_bytes(), random.Random(0)
    for turn in range(300):
        damaged = whole[: chance.randrange(len(whole))] if turn % 3 == 0 else helpers_fuzz.mutate_bytes(whole, chance)
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="The file of keys and values"):
            KeptVideo(path, RECIPE, MANIFEST).read()

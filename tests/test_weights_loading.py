"""The one loader: which options go together, and what provenance says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers_networks import encoder_shapes, random_state, tiny_model, tiny_state, write_checkpoint

from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError
from sttm_export.families.weights import open_weights

MODEL = tiny_model()
SHAPES = encoder_shapes(MODEL)


def test_random_weights():
    weights = open_weights(MODEL, SHAPES, None, 5)
    state, source = weights.read(SHAPES), weights.source
    assert all(torch.equal(state[name], tensor) for name, tensor in random_state(MODEL, 5).items())
    assert source.is_random
    assert source.describe() == "random weights, seed 5"


def test_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "ckpt", MODEL, tiny_state(MODEL))
    weights = open_weights(MODEL, SHAPES, str(tmp_path / "ckpt"), None)
    state, source = weights.read(SHAPES), weights.source
    assert set(state) == set(tiny_state(MODEL))
    assert not source.is_random


@pytest.mark.parametrize(
    ("weights", "seed", "tower", "message"),
    [
        (None, None, None, "--weights DIR_OR_HUB_ID .*--random-weights SEED"),
        ("somewhere", 0, None, "exclude each other"),
        (None, 0, "somewhere", "--tower-weights needs --weights"),
        (None, -1, None, "--random-weights -1 is no seed"),
    ],
)
def test_options_that_do_not_go_together(weights, seed, tower, message):
    with pytest.raises(UserError, match=message):
        open_weights(MODEL, SHAPES, weights, seed, tower)


def test_a_parameter_is_the_same_whichever_others_are_read():
    weights = open_weights(MODEL, SHAPES, None, 5)
    one = {"projector.fc2.bias": SHAPES["projector.fc2.bias"]}
    assert torch.equal(weights.read(one)["projector.fc2.bias"], weights.read(SHAPES)["projector.fc2.bias"])


def test_weight_source_reads_back_from_json_values():
    source = WeightSource("random", "random", "ab" * 32, seed=1)
    assert WeightSource(**vars(source)) == source


def test_provenance_and_loader_import_neither_transformers_nor_the_hub_client():
    code = (
        "import sys, sttm_export.contracts.weights as w; assert 'torch' not in sys.modules; "
        "import sttm_export.families.weights, sttm_export.families.llava.family; "
        "assert not {'transformers', 'huggingface_hub', 'safetensors', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

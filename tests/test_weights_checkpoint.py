"""Reading checkpoints: every layout, only what is needed, and one sentence for each thing that can be wrong."""

from __future__ import annotations

import json

import pytest
import torch
from helpers_networks import (
    LAYOUTS,
    TOWER_ID,
    load_checkpoint,
    record_reads,
    tiny_model,
    tiny_state,
    write_checkpoint,
    write_config,
)
from safetensors.torch import save_file

from sttm_export.errors import UserError
from sttm_export.families.llava.checkpoint import MODEL_LAYOUTS
from sttm_export.weights.checkpoint import digest
from sttm_export.weights.tensor_files import INDEX

MODEL = tiny_model()
STATE = tiny_state(MODEL)
LANGUAGE_SHARD = "model-00002-of-00002.safetensors"
VISION_SHARD = "model-00001-of-00002.safetensors"


def assert_same(state, expected=STATE):
    assert list(state) == list(expected)
    assert all(torch.equal(state[name].float(), expected[name].float()) for name in expected)


def refused(directory, pattern, **options):
    with pytest.raises(UserError, match=pattern) as caught:
        load_checkpoint(MODEL, str(directory), **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("layout", [layout.name for layout in MODEL_LAYOUTS])
def test_reads_every_layout(tmp_path, layout, shards):
    write_checkpoint(tmp_path / "ckpt", MODEL, STATE, layout, shards=shards)
    state, source = load_checkpoint(MODEL, str(tmp_path / "ckpt"))
    assert_same(state)
    assert (source.kind, source.identifier, source.revision, source.seed) == ("checkpoint", "ckpt", None, None)
    assert source.sha256 == digest(STATE)
    assert source.describe() == f"checkpoint ckpt (sha256 {digest(STATE)[:16]}…)"


def test_keeps_the_stored_dtype(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE, dtype=torch.bfloat16)
    state, source = load_checkpoint(MODEL, str(tmp_path))
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert_same(state)
    assert source.sha256 != digest(STATE), "the same numbers in another dtype are another file"


def test_language_model_shards_are_not_opened(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE)
    (tmp_path / LANGUAGE_SHARD).unlink()
    assert_same(load_checkpoint(MODEL, str(tmp_path))[0])


def test_only_needed_tensors_are_read(tmp_path, monkeypatch):
    read = record_reads(monkeypatch)
    write_checkpoint(tmp_path, MODEL, STATE, shards=1)
    load_checkpoint(MODEL, str(tmp_path))
    assert sorted(read) == sorted(LAYOUTS["llava-next"].names(STATE).values())


def test_tower_from_its_own_repository(tmp_path):
    write_checkpoint(tmp_path / "llava", MODEL, STATE, tower=False)
    write_checkpoint(tmp_path / "siglip", MODEL, STATE, "siglip", shards=1)
    state, source = load_checkpoint(MODEL, str(tmp_path / "llava"), str(tmp_path / "siglip"))
    assert_same(state)
    assert source.identifier == "llava with the tower of siglip"


def test_tower_source_defaults_to_the_model_specs(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "llava", MODEL, STATE, tower=False)
    write_checkpoint(tmp_path / TOWER_ID, MODEL, STATE, "siglip", shards=1)
    monkeypatch.chdir(tmp_path)
    assert_same(load_checkpoint(MODEL, "llava")[0])


def test_a_tower_that_would_replace_the_checkpoints_own_is_refused(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE)
    refused(tmp_path, "vision tower of its own.*leave out --tower-weights", tower_weights=str(tmp_path))


def test_missing_tensors_are_counted_and_the_first_named(tmp_path):
    names = [name for name in STATE if "layers.1" in name][:5]
    write_checkpoint(tmp_path, MODEL, STATE, drop=names)
    message = refused(tmp_path, f"lacks 5 of {len(STATE)} tensors of the layout llava-next")
    assert message.count("layers.1") == 3
    assert "and 2 more" in message


def test_a_tower_with_too_few_layers_is_missing_tensors(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE)
    deeper = tiny_model(layers=4)
    with pytest.raises(UserError, match="lacks 30 of"):
        load_checkpoint(deeper, str(tmp_path))


def test_wrong_shapes_name_expected_and_found(tmp_path):
    changed = {"projector.fc1.weight": torch.zeros(48, 31), "tower.layers.0.mlp.fc1.bias": torch.zeros(65)}
    write_checkpoint(tmp_path, MODEL, STATE, change=changed)
    message = refused(tmp_path, "does not fit the model")
    assert "model.mm_projector.0.weight has shape [48, 31], expected [48, 32]" in message
    assert "fc1.bias has shape [65], expected [64]" in message


def test_wrong_dtype_is_refused(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE, change={"projector.fc2.weight": torch.zeros(48, 48, dtype=torch.int8)})
    refused(tmp_path, r"mm_projector\.2\.weight is stored as I8, expected one of F32, F16, BF16")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    bad = STATE["projector.fc2.bias"].clone()
    bad[7] = value
    write_checkpoint(tmp_path, MODEL, STATE, change={"projector.fc2.bias": bad})
    refused(tmp_path, r"projector\.fc2\.bias holds NaN or infinity")


def test_empty_directory(tmp_path):
    refused(tmp_path, r"holds no \*\.safetensors file; give the directory")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pth", "model.pt"])
def test_pickles_are_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(b"never opened")
    refused(tmp_path, "pickled weights only.*convert them to safetensors")


def test_missing_shard_is_named(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE)
    (tmp_path / VISION_SHARD).unlink()
    refused(tmp_path, f"{VISION_SHARD} is missing.*download that shard")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_shard(tmp_path, keep):
    write_checkpoint(tmp_path, MODEL, STATE)
    path = tmp_path / VISION_SHARD
    path.write_bytes(path.read_bytes()[:keep])
    refused(tmp_path, f"{VISION_SHARD} is damaged or incomplete")


def test_corrupt_single_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 4096)
    refused(tmp_path, "is damaged or incomplete")


def test_index_and_shard_that_disagree(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE)
    save_file({"other": torch.zeros(1)}, tmp_path / VISION_SHARD)
    message = refused(tmp_path, f"{VISION_SHARD} lacks .* although the index places it there")
    assert f"and {len(STATE) - 3} more" in message


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {"a": 3}}'])
def test_unusable_index(tmp_path, text):
    write_checkpoint(tmp_path, MODEL, STATE)
    (tmp_path / INDEX).write_text(text, encoding="utf-8")
    refused(tmp_path, f"{INDEX}.*download that file again")


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_index_that_leads_outside_is_refused(tmp_path, shard):
    write_checkpoint(tmp_path, MODEL, STATE)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}), encoding="utf-8")
    refused(tmp_path, "points outside its directory")


def test_unknown_layout_shows_what_is_there(tmp_path):
    save_file({"transformer.h.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused(tmp_path, r"no tensor of a known layout \(llava-next, .*begin with transformer\.h\.0\.weight")


def test_config_is_checked_before_any_shard_is_opened(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE)
    write_config(tmp_path, MODEL, mm_projector_type="linear")
    (tmp_path / VISION_SHARD).write_bytes(b"")
    refused(tmp_path, "mm_projector_type is 'linear', expected 'mlp2x_gelu'")


def test_checkpoint_without_config_loads(tmp_path):
    write_checkpoint(tmp_path, MODEL, STATE, config=False)
    assert_same(load_checkpoint(MODEL, str(tmp_path))[0])


def test_digest_depends_on_values_names_and_order():
    swapped = dict(reversed(STATE.items()))
    renamed = {name.replace("fc1", "fc9"): tensor for name, tensor in STATE.items()}
    nudged = {**STATE, "projector.fc2.bias": STATE["projector.fc2.bias"] + 1}
    assert len({digest(state) for state in (STATE, swapped, renamed, nudged)}) == 4

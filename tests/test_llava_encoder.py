"""The whole encoder against the independent reference, and how it is built."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from helpers_networks import (
    build_encoder,
    build_reference,
    encoder_shapes,
    tiny_model,
    tiny_parts,
    tiny_pixels,
    tiny_state,
    write_tiny_model_toml,
)

from sttm_export.contracts.graph import vision_encoder_graph
from sttm_export.errors import UserError
from sttm_export.families.llava import reference
from sttm_export.families.llava.architecture import llava_of
from sttm_export.families.llava.encoder import VisionEncoder
from sttm_export.families.llava.resize import BilinearResize
from sttm_export.families.registry import load_model, model_names


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("grid", [(3, 3), (2, 3), (4, 4), (6, 5), (1, 1), (2, 8)])
def test_equals_the_reference(grid):
    model = tiny_model(grid=grid)
    state, pixels = tiny_state(model), tiny_pixels(model)
    own, theirs = build_encoder(model, state, "fp32")(pixels), build_reference(model, state)(pixels)
    assert tuple(own.shape) == vision_encoder_graph(model, 2, "fp32").outputs[0].shape
    assert relative(own, theirs) <= 1e-5


@pytest.mark.parametrize(
    "name", ["tower.layers.1.self_attn.k_proj.weight", "projector.fc2.bias", "tower.position_embedding.weight"]
)
def test_a_changed_parameter_departs_from_the_reference(name):
    model = tiny_model()
    state, pixels = tiny_state(model), tiny_pixels(model)
    changed = {
        **state,
        name: state[name] + 0.5 * torch.randn(state[name].shape, generator=torch.Generator().manual_seed(1)),
    }
    assert relative(build_encoder(model, changed, "fp32")(pixels), build_reference(model, state)(pixels)) > 1e-4


def test_batch_does_not_change_a_frame():
    model = tiny_model()
    encoder, pixels = build_encoder(model, tiny_state(model), "fp32"), tiny_pixels(model, frames=3)
    torch.testing.assert_close(encoder(pixels)[1:2], encoder(pixels[1:2]), atol=1e-5, rtol=1e-5)


def test_no_resize_when_the_grid_is_the_patch_map():
    model = tiny_model(grid=(4, 4))
    modules = build_encoder(model, tiny_state(model), "fp32").modules()
    assert not any(isinstance(module, BilinearResize) for module in modules)


@pytest.mark.parametrize(("grid", "tokens"), [((3, 3), 9), ((4, 4), 16), ((6, 5), 16)])
def test_the_last_linear_runs_on_the_smaller_of_patches_and_tokens(grid, tokens):
    model, seen = tiny_model(grid=grid), []
    encoder = build_encoder(model, tiny_state(model), "fp32")
    encoder.projector.fc2.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    encoder(tiny_pixels(model))
    assert seen == [tokens]


@pytest.mark.parametrize("name", [name for name in model_names() if load_model(name).family == "llava"])
def test_parameter_table_is_the_modules_state(name):
    model = load_model(name)
    with torch.device("meta"):
        state = VisionEncoder(llava_of(model)).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == encoder_shapes(model)


def test_llava_video_7b_has_the_known_size():
    shapes = encoder_shapes(load_model("llava-video-7b"))
    assert round(sum(torch.Size(shape).numel() for shape in shapes.values()) / 1e6, 1) == 414.7


def test_fp32_takes_the_tensors_over_without_a_copy():
    model, state = tiny_model(), tiny_state()
    encoder = build_encoder(model, state, "fp32")
    assert encoder.projector.fc1.weight.data_ptr() == state["projector.fc1.weight"].data_ptr()
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_fp16_state_and_constants_are_half():
    encoder = build_encoder(tiny_model(), tiny_state(), "fp16")
    assert {tensor.dtype for tensor in (*encoder.parameters(), *encoder.buffers())} == {torch.float16}


def test_eager_encoder_computes_in_fp32_with_rounded_weights():
    model, state = tiny_model(), tiny_state()
    pixels = tiny_pixels(model)
    stage = tiny_parts(model, precision="fp16")["vision_encoder"].eager(state)
    features = torch.from_numpy(stage({"pixel_values": pixels.numpy()}, {})["features"])
    expected = build_encoder(model, state, "fp16").float()(pixels)
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
    assert 0 < relative(features, build_reference(model, state)(pixels)) < 2**-9


def test_fp16_refuses_a_weight_beyond_its_range():
    model, state = tiny_model(), tiny_state()
    state["projector.fc1.bias"][3] = 1e5
    with pytest.raises(UserError, match=r"projector\.fc1\.bias reaches 1e\+05.*--precision fp32"):
        build_encoder(model, state, "fp16")
    build_encoder(model, state, "fp32")


def test_reference_shares_no_code_with_the_exported_modules():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    imports = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imports if name and name.startswith("sttm_export")} == {
        "sttm_export.families.llava.architecture"
    }


def test_reference_leaves_nothing_on_the_meta_device():
    encoder = build_reference(tiny_model(), tiny_state())
    assert {tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers())} == {"cpu"}
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_reference_notices_a_missing_parameter():
    state = tiny_state()
    del state["tower.layers.1.mlp.fc1.bias"]
    with pytest.raises(RuntimeError, match="fc1"):
        build_reference(tiny_model(), state)


def test_tiny_model_round_trips_through_toml(tmp_path):
    model = tiny_model(grid=(2, 3))
    assert load_model(str(write_tiny_model_toml(tmp_path / "tiny.toml", model))) == model

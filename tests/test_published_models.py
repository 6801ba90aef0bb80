"""Every published model from a synthetic checkpoint of its layout: exported whole, validated, asked.

The models are those of models/ with their own prompt, sampling, merging and positions, in sizes that a test can afford.
"""

from dataclasses import replace

import pytest
import torch
from helpers_language import tiny_decoder
from helpers_networks import tiny_recipe, write_tiny_model_toml
from helpers_tokenizer import FIRST, SPECIAL, trained_bytes
from safetensors.torch import save_file

from sttm_export.cli import main
from sttm_export.contracts.model import GridSpec, PixelSpec
from sttm_export.families.registry import family_of, load_model, parts_of
from sttm_export.families.weights import open_weights
from sttm_export.language.checkpoint import parameter_shapes
from sttm_export.runtime.sample_clips import find_sample_clip

VOCABULARY = FIRST + len(SPECIAL)
LAYOUTS = {
    "llava-video-7b": "llava-next",
    "llava-video-72b": "llava-next",
    "llava-onevision-7b": "llava-hf-flat",
    "qwen2-vl-7b": "qwen2-vl-v5",
}
SIGLIP = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 4}
QWEN = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}


def small(name):
    """A published model with a tower, a grid and a decoder of a few channels."""
    model = load_model(name)
    sections = (1, 2, 3) if model.decoder.mrope_section else ()
    decoder = tiny_decoder(layers=4, vocabulary=VOCABULARY, mrope_section=sections)
    tower = model.architecture["tower"] | (SIGLIP if model.family == "llava" else QWEN)
    pixels, grid = ((56, 56), (3, 3)) if model.family == "llava" else ((112, 168), (4, 6))
    return replace(
        model,
        channels=decoder.hidden_size,
        pixels=PixelSpec(*pixels, model.pixels.mean, model.pixels.std),
        grid=GridSpec(*grid),
        architecture=model.architecture | {"tower": tower},
        decoder=decoder,
    )


def write_checkpoint(directory, model, layout):
    """All tensors under the names of a layout, one that nobody asks for, and the tokenizer."""
    shapes = parameter_shapes(model.decoder)
    for part in parts_of(tiny_recipe(model)):
        shapes |= part.shapes
    # A seed at which no tower of a few channels comes near to its gate.
    state = open_weights(model, shapes, None, 8).read(shapes)
    names = next(row for row in family_of(model).checkpoint(model).layouts if row.name == layout).names(state)
    assert set(names) == set(state)
    tensors = {theirs: state[name].to(torch.bfloat16).contiguous() for name, theirs in names.items()}
    directory.mkdir()
    save_file({**tensors, "model.image_newline": torch.full((4,), torch.nan)}, directory / "model.safetensors")
    (directory / "tokenizer.json").write_bytes(trained_bytes())
    return directory


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_model_is_exported_validated_and_asked(tmp_path, capfd, name):
    model = small(name)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", model, LAYOUTS[name])
    toml, bundle = write_tiny_model_toml(tmp_path / f"{name}.toml", model), tmp_path / "bundle"
    steps = model.frames_per_step
    command = ["--model", str(toml), "--weights", str(checkpoint), "--budget", "0.5", "--frames", str(4 * steps)]
    command += ["--decoder", "--chunk", "32", "--text-tokens", "300", "--no-engines"]
    assert main([*command, "--clip", str(find_sample_clip("carphone")), "--output", str(bundle)]) == 0
    shown = capfd.readouterr()
    assert f"tokens merge before layer {model.merging.published_layer}" in shown.out
    assert "Verdict: passed" in shown.out
    assert main(["validate", str(bundle)]) == 0
    clip = str(find_sample_clip("bikes"))
    assert main(["validate", str(bundle), "--clip", clip, "--weights", str(checkpoint)]) == 0
    capfd.readouterr()
    asked, kept = ["--max-new-tokens", "6"], tmp_path / "kept.kv"
    questions = ["What happens here?", "Who is in it?", "And then?"]
    assert main(["ask", str(bundle), *questions, "--video", clip, "--save-kv", str(kept), *asked]) == 0
    first = capfd.readouterr()
    assert first.err.count("tokens of the video kept") == len(questions)
    assert main(["ask", str(bundle), *questions, "--kv", str(kept), *asked]) == 0
    assert capfd.readouterr().out == first.out

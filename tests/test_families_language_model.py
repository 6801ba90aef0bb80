"""Parts of a language model: they are as the recipe declares and agree with their references; errors are named."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import tiny_model, tiny_recipe

from sttm_export.contracts.decoding import Decoding, largest_group, split_layers
from sttm_export.families.registry import load_model, parts_of
from sttm_export.families.weights import open_weights
from sttm_export.graphs.export import export_graph
from sttm_export.language import decoder
from sttm_export.language.checkpoint import group_shapes
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.validation.results import ValidationReport
from sttm_export.workflows.evidence import examine
from sttm_export.workflows.scene import synthetic_scene

LAYERS = 4


def recipe_of(layer=2, precision="fp32", **changes):
    """An export of a tiny model with a decoder of four layers; two at most in a graph."""
    model = replace(tiny_model(), decoder=tiny_decoder(layers=LAYERS, **changes), prompt=tiny_prompt())
    if model.decoder.mrope_section:
        model = replace(model, merging=replace(model.merging, positions="representative"))
    recipe = tiny_recipe(model, frames=4, precision=precision)
    return replace(recipe, decoding=Decoding(layer, 2, 8, 24))


def run_parts(recipe, folder):
    """Export and examine every part, as an export does."""
    system = np.random.default_rng(0).standard_normal((6, recipe.model.channels), np.float32)
    pixels = pixel_values(synthetic_scene(3).frames, recipe.model.pixels)
    clip, report = {"pixel_values": pixels, "system": system}, ValidationReport()
    for part in parts_of(recipe):
        found, made = run_part(recipe, part, clip, folder)
        report, clip = report + found, clip | dict(made)
    return report, clip


def run_part(recipe, part, clip, folder):
    """Export and examine one part."""
    state = open_weights(recipe.model, part.shapes, None, 0).read(part.shapes)
    path = export_graph(part.module(state), part.graph, folder)
    session = partial(OrtSession, path, part.graph)
    found = examine(part, state, session, recipe.rules(part.graph), clip, lambda *_: None, name="a clip")
    assert not state, "weights are let go of before the graph is loaded"
    return found


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_every_part_agrees_with_its_reference(tmp_path, layer):
    recipe = recipe_of(layer, "fp16")
    report, clip = run_parts(recipe, tmp_path)
    report.raise_on_miss()
    judged = {row.graph for row in report}
    assert judged == {graph.name for graph in recipe.graphs}
    assert clip["logits"].shape == (1, recipe.decoder.vocabulary)
    # What merges is what the layers below made of the features.
    assert clip["features"].dtype == ("float32" if layer else "float16")
    assert int(clip["num_tokens"]) <= recipe.merge.max_tokens


def test_three_positions_a_token(tmp_path):
    report, _ = run_parts(recipe_of(2, "fp16", mrope_section=(2, 2, 2)), tmp_path)
    report.raise_on_miss()


def test_parts_are_what_the_recipe_declares():
    for layer in range(LAYERS):
        recipe = recipe_of(layer)
        names = [part.name for part in parts_of(recipe)]
        assert names == [graph.name for graph in recipe.graphs]
        below = [name for name in names[: names.index("token_merger")] if name.startswith("decoder")]
        assert sum(int(name[-2:]) - int(name[8:10]) + 1 for name in below) == layer
    slots = {graph.name: graph.kept[0].shape[1] for graph in recipe_of(1).graphs if graph.kept}
    assert slots == {"decoder_00_00": 24 + 36, "decoder_01_01": 24 + 18, "decoder_02_03": 24 + 18}


def test_layers_are_cut_evenly():
    assert split_layers(2, 28, 7) == ((2, 8), (8, 15), (15, 21), (21, 28))
    assert split_layers(0, 0, 7) == ()
    assert split_layers(0, 2, 7) == ((0, 2),)


@pytest.mark.parametrize(("name", "layers"), [("llava-video-7b", 6), ("llava-video-72b", 1)])
def test_groups_of_the_published_models_fit_into_memory(name, layers):
    assert largest_group(load_model(name).decoder, "fp16") == layers


def test_a_group_at_the_published_size_has_its_parameters():
    spec = load_model("llava-video-7b").decoder
    made = sum(int(np.prod(shape)) for shape in group_shapes(spec, 0, 1).values())
    assert made == spec.layer_parameters == 233_057_792


def shifted_angles(turned):
    return lambda x, cos, sin: turned(x, cos.roll(1, 0), sin.roll(1, 0))


def later_slot(written):
    return lambda buffer, rows, places, slots: written(buffer, rows, places, slots + 1)


def without_eps(_):
    def forward(self, x):
        return (x * torch.rsqrt((x * x).mean(-1, keepdim=True)) * self.weight.float()).to(self.weight.dtype)

    return forward


def without_weight(_):
    def forward(self, x):
        return (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)).to(self.weight.dtype)

    return forward


PLANTED = {
    "rotary": (decoder, "_turned", shifted_angles),
    "slot": (decoder, "_written", later_slot),
    "norm without eps": (decoder.RMSNorm, "forward", without_eps),
    "norm without weight": (decoder.RMSNorm, "forward", without_weight),
}


def run_first_group(folder):
    """Export and examine a group of layers in float32, on noise."""
    recipe = recipe_of(1)
    part = next(part for part in parts_of(recipe) if part.name == "decoder_00_00")
    noise = np.random.default_rng(0)
    clip = {"system": noise.standard_normal((6, 48), np.float32), "features": noise.standard_normal((3, 9, 48))}
    return run_part(recipe, part, clip, folder)[0]


def test_a_sound_group_passes(tmp_path):
    run_first_group(tmp_path).raise_on_miss()


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_error_is_named(tmp_path, monkeypatch, fault):
    place, name, spoil = PLANTED[fault]
    monkeypatch.setattr(place, name, spoil(getattr(place, name)))
    miss = run_first_group(tmp_path).first_miss
    assert miss is not None
    assert miss.headline.startswith("static eager: decoder_00_00.")
    assert "departs from reference" in miss.headline

"""Tiny models with a decoder whose sums are whole groups of 128."""

from dataclasses import replace

from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import tiny_model, tiny_recipe

from sttm_export.contracts.decoding import Decoding

CHANNELS, INNER = 256, 384


def int4_model(**changes):
    """Three layers of 256 channels."""
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 64, "intermediate_size": INNER, "vocabulary": 400}
    return replace(tiny_model(channels=CHANNELS), decoder=tiny_decoder(**sizes | changes), prompt=tiny_prompt())


def int4_recipe(layer=1, weights="int4", precision="fp16"):
    """An export of it, two layers at most in a graph."""
    recipe = tiny_recipe(int4_model(), frames=4, precision=precision)
    return replace(recipe, decoding=Decoding(layer, 2, 8, 24, weights))

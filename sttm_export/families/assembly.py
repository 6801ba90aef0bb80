"""A model's parts in the order of the data: every family has a vision encoder of its own, and the rest in common."""

from __future__ import annotations

from sttm_export.contracts.recipe import Recipe
from sttm_export.families.part import Part
from sttm_export.families.token_merger import token_merger


def assembled(recipe: Recipe, encoder: Part) -> tuple[Part, ...]:
    """Vision encoder, token merger, and the language model's parts around the merger where it is exported."""
    if recipe.decoding is None:
        return encoder, token_merger(recipe)
    from sttm_export.families.language_model import language_parts

    below, above = language_parts(recipe)
    return (encoder, *below, token_merger(recipe), *above)

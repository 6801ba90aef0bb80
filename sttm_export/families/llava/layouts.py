"""Checkpoint layouts: how each names the vision encoder's parameters. A new layout is a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

LAYER_NAMES, EMBEDDING_NAMES = "tower.layers.", "tower."
FC1, FC2 = "projector.fc1.", "projector.fc2."


@dataclass(frozen=True)
class Layout:
    """Prefixes of one layout.

    Attributes:
        name: as in `models/*.toml`.
        tower: what stands before SigLIP's own `embeddings.…` and `encoder.layers.…`.
        projector: prefixes of the projector's two Linears; empty for a repository of a tower alone.
    """

    name: str
    tower: str
    projector: tuple[str, str] | tuple[()]

    def checkpoint_name(self, canonical: str) -> str | None:
        """Return the checkpoint's name of a canonical parameter; None where the layout has no place for it."""
        rules = [(LAYER_NAMES, self.tower + "encoder.layers."), (EMBEDDING_NAMES, self.tower + "embeddings.")]
        rules += list(zip((FC1, FC2), self.projector, strict=False))
        for prefix, replacement in rules:
            if canonical.startswith(prefix):
                return replacement + canonical.removeprefix(prefix)
        return None

    def names(self, canonical: Iterable[str]) -> dict[str, str]:
        """Return canonical name → checkpoint name for all parameters that the layout can hold."""
        found = {name: self.checkpoint_name(name) for name in canonical}
        return {name: theirs for name, theirs in found.items() if theirs is not None}


_HF_PROJECTOR = "multi_modal_projector.linear_"

MODEL_LAYOUTS: tuple[Layout, ...] = (
    # lmms-lab releases of LLaVA-Video and LLaVA-OneVision.
    Layout(
        "llava-next",
        "model.vision_tower.vision_tower.vision_model.",
        ("model.mm_projector.0.", "model.mm_projector.2."),
    ),
    # llava-hf conversions, as first published and as newer releases of transformers save them.
    Layout("llava-hf", "vision_tower.vision_model.", (f"{_HF_PROJECTOR}1.", f"{_HF_PROJECTOR}2.")),
    Layout("llava-hf-v5", "model.vision_tower.vision_model.", (f"model.{_HF_PROJECTOR}1.", f"model.{_HF_PROJECTOR}2.")),
    # transformers 5.x releases without the inner wrapper of the tower.
    Layout("llava-hf-flat", "model.vision_tower.", (f"model.{_HF_PROJECTOR}1.", f"model.{_HF_PROJECTOR}2.")),
)
# The tower's own repository (google/siglip-…), and the same saved by a transformers without the inner wrapper.
TOWER_LAYOUTS: tuple[Layout, ...] = (Layout("siglip", "vision_model.", ()), Layout("siglip-flat", "", ()))


def detect_layout(
    layouts: Iterable[Layout], canonical: Collection[str], present: Collection[str], *, preferred: str = ""
) -> Layout | None:
    """Return the layout most of whose names are present, `preferred` winning a tie; None when not one name is."""
    names = set(present)

    def score(layout: Layout) -> tuple[int, bool]:
        return sum(theirs in names for theirs in layout.names(canonical).values()), layout.name == preferred

    best = max(layouts, key=score)
    return best if score(best)[0] else None

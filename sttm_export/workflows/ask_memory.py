"""What memory the language model of a bundle takes on a processor, before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.decoding import HEAD, INT4_BYTES
from sttm_export.contracts.graph import FLOAT_OF, VISION_ENCODER
from sttm_export.errors import UserError
from sttm_export.system import read_memory, size_text


def check_memory(bundle: Bundle, *, video: bool, together: bool = False) -> None:
    """Refuse what this machine has no memory for, before it is found out by the kernel.

    Args:
        bundle: with a decoder, whose graphs ONNX Runtime runs on the processor.
        video: whether its vision encoder runs too, which is freed before the language model is loaded.
        together: whether it stays beside the language model.

    Raises:
        UserError: says what is needed and what is free.
    """
    free, need = read_memory().with_swap, estimate_memory(bundle, video=video, together=together)
    if free is not None and free < need:
        raise UserError(
            f"The language model of {bundle.path} needs at least {size_text(need)} of memory and {size_text(free)} are "
            "free; close other programs, use --engine on a machine with a GPU, or use one with more memory."
        )


def estimate_memory(bundle: Bundle, *, video: bool, together: bool = False) -> int:
    """Bytes at least: weights as ONNX Runtime has them, and keys and values as given and as written."""
    recipe = bundle.manifest.recipe
    groups = [recipe.group_graph(span).name for span in (*recipe.below, *recipe.above)]
    state = sum(tensor.nbytes for name in groups for tensor in bundle.graph(name).kept)
    language = _weights(bundle, [*groups, HEAD]) + 2 * state
    if recipe.has_int4:
        language += _unpacked(bundle, [*groups, HEAD])
    encoder = _weights(bundle, [VISION_ENCODER]) if video else 0
    return language + encoder if together else max(language, encoder)


def _unpacked(bundle: Bundle, names: Iterable[str]) -> int:
    """What weights of four bits take beyond that: all in float32, those of the graph that is loaded in float16 too."""
    sizes = [_weights(bundle, [name]) / (2 * INT4_BYTES) for name in names]
    return int(4 * sum(sizes) + 2 * max(sizes)) - sum(_weights(bundle, [name]) for name in names)


def _weights(bundle: Bundle, names: Iterable[str]) -> int:
    """Float32, which the processor computes in: weights of a float16 graph double as they are loaded."""
    paths = [bundle.path / f"{bundle.graph(name).onnx_file}{end}" for name in names for end in ("", ".data")]
    times = 2 if FLOAT_OF[bundle.manifest.precision] == "float16" else 1
    return times * sum(path.stat().st_size for path in paths if path.is_file())

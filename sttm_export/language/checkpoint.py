"""A decoder in a checkpoint: parameters and shapes by part, the layouts that name them, what the config must say.

Canonical names: `language.embed.weight`, `language.layers.{i}.<published Qwen2 name>`, `language.norm.weight` and
`language.head.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.decoding import INT4_GROUP
from sttm_export.errors import UserError
from sttm_export.weights.layout import Closed, Shape, differing, look_up
from sttm_export.weights.spread import spread

if TYPE_CHECKING:
    from torch import Tensor

LANGUAGE, WEIGHT = "language.", ".weight"


def embedding_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Return the table of embeddings, [V, C]."""
    return {f"{LANGUAGE}embed.weight": (spec.vocabulary, spec.hidden_size)}


def group_shapes(spec: DecoderSpec, first: int, last: int) -> dict[str, Shape]:
    """Return the parameters of layers `first` to `last` - 1."""
    layer = _layer_shapes(spec)
    return {f"{LANGUAGE}layers.{i}.{name}": shape for i in range(first, last) for name, shape in layer.items()}


def head_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Return the parameters behind the last layer."""
    width = spec.hidden_size
    return {f"{LANGUAGE}norm.weight": (width,), f"{LANGUAGE}head.weight": (spec.vocabulary, width)}


def parameter_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Return every parameter; the order is the canonical one."""
    return {**embedding_shapes(spec), **group_shapes(spec, 0, spec.layers), **head_shapes(spec)}


def module_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters of a group, or of the head, as `DecoderGroup` and `Head` name them."""
    return {name.removeprefix(LANGUAGE): tensor for name, tensor in state.items()}


def is_product(name: str) -> bool:
    """Whether a parameter, by its canonical name, is the weight of a product: of a projection or of the head."""
    return name.endswith(f"_proj{WEIGHT}") or name == f"{LANGUAGE}head{WEIGHT}"


def check_groups(spec: DecoderSpec, title: str) -> None:
    """Refuse a decoder whose sums are not whole groups.

    Raises:
        UserError: says which size of the model it is.
    """
    sizes = {"hidden_size": spec.hidden_size, "intermediate_size": spec.intermediate_size}
    for name, size in sizes.items():
        if size % INT4_GROUP:
            raise UserError(
                f"INT4 weights are stored in groups of {INT4_GROUP} along each sum, and the {name} of {title}, {size}, "
                f"is no multiple of {INT4_GROUP}; leave --decoder-precision int4 out."
            )


def prefixes(model: str, head: str = "") -> tuple[tuple[str, str], ...]:
    """Rows of a layout, by what stands before the decoder's own names and before `lm_head`."""
    return (
        ("language.layers.", f"{model}layers."),
        ("language.embed.", f"{model}embed_tokens."),
        ("language.norm.", f"{model}norm."),
        ("language.head.", f"{head}lm_head."),
    )


def closed_form(spec: DecoderSpec | None) -> Closed | None:
    """How a model's decoder lies in a checkpoint; None for a model without one."""
    if spec is None:
        return None
    return Closed(LANGUAGE, parameter_shapes(spec), partial(_config_faults, spec), "heads and positions of the decoder")


def distribution(spec: DecoderSpec, name: str, shape: Shape) -> tuple[float, float]:
    """Return mean and standard deviation of a random parameter."""
    sharpened, damped, tables = ("q_proj", "k_proj"), ("o_proj", "down_proj"), {f"{LANGUAGE}embed.": 1.0}
    return spread(name, shape, spec.layers, sharpened, damped, tables)


def _layer_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    width, inner, keys = spec.hidden_size, spec.intermediate_size, spec.kv_heads * spec.head_dim
    shapes: dict[str, Shape] = {"input_layernorm.weight": (width,)}
    for projection, outputs in (("q_proj", width), ("k_proj", keys), ("v_proj", keys)):
        shapes[f"self_attn.{projection}.weight"] = (outputs, width)
        shapes[f"self_attn.{projection}.bias"] = (outputs,)
    return {
        **shapes,
        "self_attn.o_proj.weight": (width, width),
        "post_attention_layernorm.weight": (width,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }


def _config_faults(spec: DecoderSpec, config: Mapping[str, Any]) -> list[str]:
    """Faults of a config.json, which describes the decoder at its top level or in `text_config`."""
    section = list(spec.mrope_section)
    expected = {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocabulary,
        "rms_norm_eps": spec.rms_norm_eps,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "rope_theta": spec.rope_theta,
        "rope_parameters.rope_theta": spec.rope_theta,
        "rope_parameters.mrope_section": section,
        "rope_scaling.mrope_section": section,
    }
    faults = []
    for table in ("", "text_config."):
        faults += differing(config, {table + key: wanted for key, wanted in expected.items()})
        faults += _rope_faults(spec, config, table)
        if look_up(config, f"{table}tie_word_embeddings"):
            faults.append(f"{table}tie_word_embeddings is true, but only a decoder with a head of its own is supported")
    return faults


def _rope_faults(spec: DecoderSpec, config: Mapping[str, Any], table: str) -> list[str]:
    """Refuse scaled positions: they leave every shape as it is."""
    plain = (None, "default", "mrope") if spec.mrope_section else (None, "default")
    keys = [f"{table}{key}" for key in ("rope_parameters.rope_type", "rope_scaling.rope_type", "rope_scaling.type")]
    found = [(key, look_up(config, key)) for key in keys]
    return [f"{key} is {value!r}, expected 'default'" for key, value in found if value not in plain]

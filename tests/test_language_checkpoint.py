"""Decoders out of checkpoints: whole models saved by `transformers`, under new and old names, read group by group."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import TOWER_ID, encoder_shapes, record_reads, tiny_model
from helpers_qwen2_vl import model_of, tiny_qwen
from safetensors.torch import load_file, save_file

from sttm_export.errors import UserError
from sttm_export.families.qwen2_vl.checkpoint import parameter_shapes as tower_shapes
from sttm_export.families.weights import open_weights
from sttm_export.language.checkpoint import (
    embedding_shapes,
    group_shapes,
    head_shapes,
    module_state,
    parameter_shapes,
)
from sttm_export.language.decoder import DecoderGroup, Head
from sttm_export.language.positions import Prompt
from sttm_export.language.reference import Merging, ReferenceDecoder
from sttm_export.language.rotary import rotary_tables

IDS = np.array([3, 41, 59, 26, 53, 58, 9, 7, 14, 62])
GROUPS = ((0, 1), (1, 3))
# Relative to the largest logit: float32 sums of 64 terms in another order, three layers; measured 1.3e-6 at most.
TOLERANCE = 1e-5

SPECS = {"llava": tiny_decoder(), "qwen2-vl": tiny_decoder(mrope_section=(1, 2, 3))}
MODELS = {
    "llava": replace(tiny_model(), decoder=SPECS["llava"], prompt=tiny_prompt()),
    "qwen2-vl": replace(model_of(tiny_qwen()), decoder=SPECS["qwen2-vl"], prompt=tiny_prompt()),
}
# Layout → family, and beginnings of transformers' own names → those of the layout.
_HF = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
_WRAPPED = "vision_tower.vision_model."
LAYOUTS = {
    "llava-hf-flat": ("llava", None),
    "llava-hf-flat-first": ("llava", None),
    "llava-hf-v5": ("llava", {"model.vision_tower.": "model.vision_tower.vision_model."}),
    "llava-hf": ("llava", {**_HF, "model.vision_tower.": _WRAPPED, "model.multi_": "multi_"}),
    "llava-next": (
        "llava",
        {
            "model.language_model.": "model.",
            "model.vision_tower.": f"model.vision_tower.{_WRAPPED}",
            "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
            "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
        },
    ),
    "qwen2-vl-v5": ("qwen2-vl", None),
    "qwen2-vl": ("qwen2-vl", None),
}
ORIGINAL = {"llava-hf-flat-first", "qwen2-vl"}  # saved by transformers itself under the names of older releases


def text_config(spec):
    rope = {"rope_type": "default", "rope_theta": spec.rope_theta}
    return {
        "model_type": "qwen2",
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "vocab_size": spec.vocabulary,
        "rms_norm_eps": spec.rms_norm_eps,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": rope | ({"mrope_section": list(spec.mrope_section)} if spec.mrope_section else {}),
    }


def llava():
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    tower = MODELS["llava"].architecture["tower"]
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": tower["hidden_size"],
        "intermediate_size": tower["intermediate_size"],
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"],
        "image_size": 56,
        "patch_size": tower["patch_size"],
        "vision_use_head": False,
    }
    ids = {"image_token_index": 70, "video_token_index": 71}
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(text_config=text_config(SPECS["llava"]), vision_config=vision, **ids)
    )


def qwen():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {**vars(tiny_qwen().tower), "hidden_size": SPECS["qwen2-vl"].hidden_size}
    ids = {"image_token_id": 70, "video_token_id": 71, "vision_start_token_id": 72, "vision_end_token_id": 73}
    text = {key: value for key, value in text_config(SPECS["qwen2-vl"]).items() if key != "model_type"}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Models of transformers whose every parameter is random, their logits, and their checkpoints by layout."""
    folder, logits = tmp_path_factory.mktemp("published"), {}
    for family, make in (("llava", llava), ("qwen2-vl", qwen)):
        model = make().eval()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, row in model.named_parameters():
                noise = torch.randn(row.shape, generator=generator)
                if row.ndim == 1:
                    row.copy_(noise * 0.1 + (name.endswith("norm.weight")))
                else:
                    row.copy_(noise if "embed_tokens" in name else noise * 1.5 / row.shape[1] ** 0.5)
            logits[family] = model(input_ids=torch.from_numpy(IDS)[None]).logits[0]
        for layout, (of, renamed) in LAYOUTS.items():
            if of == family:
                model.save_pretrained(folder / layout, save_original_format=layout in ORIGINAL)
                rename(folder / layout, renamed or {})
    original = MODELS["llava"].architecture["tower"]["hidden_size"]
    flat = {"mm_vision_tower": TOWER_ID, "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": original}
    top = {key: value for key, value in text_config(SPECS["llava"]).items() if key != "rope_parameters"}
    write_config(folder / "llava-next", {**top, **flat, "rope_theta": 1e6, "rope_scaling": None})
    config = read_config(folder / "qwen2-vl")
    text = {key: value for key, value in text_config(SPECS["qwen2-vl"]).items() if key != "rope_parameters"}
    scaling = {"type": "mrope", "mrope_section": [1, 2, 3]}
    vision = config["vision_config"]
    top = {**text, "model_type": "qwen2_vl", "rope_theta": 1e6, "rope_scaling": scaling, "tie_word_embeddings": False}
    write_config(folder / "qwen2-vl", {**top, "vision_config": vision})
    return folder, logits


def rename(directory, beginnings):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for old, new in beginnings.items():
        assert any(name.startswith(old) for name in tensors), old
        tensors = {name.replace(old, new, 1) if name.startswith(old) else name: row for name, row in tensors.items()}
    save_file(tensors, path)


def read_config(directory):
    return json.loads((directory / "config.json").read_text())


def write_config(directory, config):
    (directory / "config.json").write_text(json.dumps(config))


def opened(model, directory, shapes=None):
    return open_weights(model, parameter_shapes(model.decoder) if shapes is None else shapes, str(directory), None)


def module_of(make, state):
    module = make()
    module.load_state_dict(module_state(state))
    return module.eval()


def positions_of(spec, first, last):
    return np.tile(np.arange(first, last), (3 if spec.mrope_section else 1, 1))


@torch.no_grad()
def logits_by_groups(spec, read, chunks=((0, 5), (5, 9), (9, 10))):
    """Logits of every row: chunks of a prompt and a decoded token, through one group after another."""
    embeddings = read(embedding_shapes(spec))["language.embed.weight"]
    hidden = embeddings[torch.from_numpy(IDS)]
    for first, last in GROUPS:
        group = module_of(lambda f=first, e=last: DecoderGroup(spec, f, e), read(group_shapes(spec, first, last)))
        buffers = [torch.zeros(spec.kv_heads, 12, spec.head_dim) for _ in range(2 * (last - first))]
        made = []
        for begin, end in chunks:
            tables = [torch.from_numpy(table) for table in rotary_tables(spec, positions_of(spec, begin, end))]
            slots = torch.arange(begin, end, dtype=torch.int32)
            rows, *buffers = group(hidden[begin:end], *tables, slots, *buffers)
            made.append(rows)
        hidden = torch.cat(made)
    return module_of(lambda: Head(spec), read(head_shapes(spec)))(hidden)


def distance(made, expected):
    return ((made - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_are_at_parity_with_transformers(published, monkeypatch, layout):
    folder, logits = published
    family = LAYOUTS[layout][0]
    spec = SPECS[family]
    files, names = record_reads(monkeypatch), []
    weights = opened(MODELS[family], folder / layout)
    assert files == []

    def read(shapes):
        before = len(files)
        state = weights.read(shapes)
        assert len(files) - before == len(shapes)
        names.extend(shapes)
        return state

    made = logits_by_groups(spec, read)
    assert distance(made, logits[family]) < TOLERANCE
    assert sorted(names) == sorted(parameter_shapes(spec))
    assert len(set(files)) == len(files) == 3 * 12 + 3
    assert weights.source.note == ""


@pytest.mark.parametrize("layout", ["llava-next", "qwen2-vl"])
def test_the_oracle_is_at_parity_with_transformers(published, layout):
    folder, logits = published
    family = LAYOUTS[layout][0]
    model = MODELS[family]
    state = opened(model, folder / layout).read(parameter_shapes(model.decoder))
    decoder = ReferenceDecoder(model.decoder, state)
    # One token in the place of the video: it has the position that it has as text.
    video = state["language.embed.weight"][IDS[7:8]]
    never = Merging(-1, None, (1.0, 1.0), model.merging.positions)
    found = decoder.prefill(IDS[:7], video, IDS[8:9], Prompt(7, 1, 1, 1, 1), never)
    assert distance(found.logits, logits[family][8]) < TOLERANCE
    assert distance(decoder.step(int(IDS[9]), found.position), logits[family][9]) < TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tensors(published, layout):
    folder, _ = published
    family = LAYOUTS[layout][0]
    shapes = parameter_shapes(SPECS[family])
    state = opened(MODELS[family], folder / layout).read(shapes)
    first = opened(MODELS[family], folder / ("llava-next" if family == "llava" else "qwen2-vl-v5")).read(shapes)
    assert list(state) == list(shapes)
    assert all(torch.equal(state[name], first[name]) for name in shapes)


@pytest.fixture(params=["llava-next", "llava-hf-flat", "qwen2-vl", "qwen2-vl-v5"])
def copy(request, published, tmp_path):
    """A checkpoint that a test may spoil, its model, and what its layers' names begin with."""
    shutil.copytree(published[0] / request.param, tmp_path / "ckpt")
    new = request.param in {"llava-hf-flat", "qwen2-vl-v5"}
    return tmp_path / "ckpt", MODELS[LAYOUTS[request.param][0]], "model.language_model." if new else "model."


def refused(model, directory, shapes=None):
    shapes = parameter_shapes(model.decoder) if shapes is None else shapes
    with pytest.raises(UserError) as caught:
        opened(model, directory, shapes).read(shapes)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def spoil(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_a_missing_tensor_is_named(copy):
    directory, model, prefix = copy
    spoil(directory, lambda tensors: tensors.pop(f"{prefix}layers.1.self_attn.k_proj.bias"))
    message = refused(model, directory)
    assert "lacks 1 of 39 tensors" in message
    assert f"{prefix}layers.1.self_attn.k_proj.bias" in message
    first = group_shapes(model.decoder, 0, 1)
    assert list(opened(model, directory, first).read(first)) == list(first), "another group needs nothing of it"


def test_a_missing_head_is_named(copy):
    directory, model, _ = copy
    spoil(directory, lambda tensors: tensors.pop("lm_head.weight"))
    assert "lm_head.weight" in refused(model, directory)


@pytest.mark.parametrize("name", ["layers.3.mlp.up_proj.weight", "layers.0.self_attn.q_norm.weight", "norm.bias"])
def test_a_superfluous_tensor_is_named(copy, name):
    directory, model, prefix = copy
    spoil(directory, lambda tensors: tensors.update({prefix + name: torch.zeros(4)}))
    message = refused(model, directory, group_shapes(model.decoder, 1, 3))
    assert f"holds 1 tensor that {model.name} does not have: {prefix}{name}" in message


def test_wrong_shapes_and_dtypes_are_named(copy):
    directory, model, prefix = copy
    spoil(
        directory,
        lambda tensors: tensors.update(
            {
                f"{prefix}layers.2.mlp.down_proj.weight": torch.zeros(48, 63),
                f"{prefix}norm.weight": torch.zeros(48, dtype=torch.int8),
            }
        ),
    )
    message = refused(model, directory)
    assert f"{prefix}layers.2.mlp.down_proj.weight has shape [48, 63], expected [48, 64]" in message
    assert f"{prefix}norm.weight is stored as I8, expected one of F32, F16, BF16" in message


WRONG = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 65,
    "vocab_size": 81,
    "rms_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "use_sliding_window": True,
}


def test_all_contradictions_of_a_config_stand_in_one_message(copy):
    directory, model, prefix = copy
    config = read_config(directory)
    new = prefix != "model."
    table = config["text_config"] if new else config
    table.update(WRONG, tie_word_embeddings=True)
    table["rope_parameters" if new else "rope_scaling"] = {"rope_type": "yarn", "mrope_section": [3, 2, 1]}
    table["rope_theta"] = 1e4
    write_config(directory, config)
    message, where = refused(model, directory), "text_config." if new else ""
    for key, value in WRONG.items():
        assert f"{where}{key} is {value!r}, expected " in message
    assert f"{where}tie_word_embeddings is true, but only a decoder with a head of its own is supported" in message
    assert f"{where}rope_theta is 10000.0, expected 1000000.0" in message
    assert "rope_type is 'yarn', expected 'default'" in message
    assert f"mrope_section is [3, 2, 1], expected {list(model.decoder.mrope_section)}" in message


def test_vision_alone_asks_nothing_of_the_decoder(copy):
    directory, model, prefix = copy
    shapes = encoder_shapes(model) if model.family == "llava" else tower_shapes(tiny_qwen())
    config = read_config(directory)
    config.update(vocab_size=81, tie_word_embeddings=True)
    write_config(directory, config)
    spoil(directory, lambda tensors: tensors.update({f"{prefix}layers.9.mlp.up_proj.weight": torch.zeros(4)}))
    assert list(opened(model, directory, shapes).read(shapes)) == list(shapes)


def test_a_missing_config_is_noted(copy):
    directory, model, _ = copy
    (directory / "config.json").unlink()
    assert "and heads and positions of the decoder were not checked" in opened(model, directory).source.note


def test_random_decoders_of_28_layers_behave():
    """Finite logits of a moderate size that depend on the prompt; norms near 1, no bias that is zero."""
    spec = tiny_decoder(layers=28)
    model = replace(MODELS["llava"], decoder=spec)
    weights = open_weights(model, parameter_shapes(spec), None, 3)
    state = {name: tensor.float() for name, tensor in weights.read(parameter_shapes(spec)).items()}
    assert all(abs(float(row.mean()) - 1) < 0.1 for name, row in state.items() if "norm" in name)
    assert all(bool((row != 0).any()) for name, row in state.items() if name.endswith("bias"))
    decoder = ReferenceDecoder(spec, state)
    never = Merging(-1, None, (1.0, 1.0), "reassigned")
    video = state["language.embed.weight"][IDS[7:8]]
    rows = [decoder.prefill(IDS[:7], video, IDS[8:9], Prompt(7, 1, 1, 1, 1), never).logits]
    rows += [decoder.step(token, 9 + number) for number, token in enumerate((1, 2, 3))]
    logits = torch.stack(rows)
    assert bool(torch.isfinite(logits).all())
    assert 0.3 < float(logits.std()) < 3
    assert float(torch.corrcoef(logits).triu(1).max()) < 0.9


@torch.no_grad()
def test_the_stream_of_a_random_decoder_keeps_its_size():
    """The last norm would hide a stream that grows from layer to layer, float16 would not hold it."""
    spec = tiny_decoder(layers=28)
    shapes = group_shapes(spec, 0, 28)
    state = open_weights(replace(MODELS["llava"], decoder=spec), shapes, None, 3).read(shapes)
    group = module_of(lambda: DecoderGroup(spec, 0, 28), {name: tensor.float() for name, tensor in state.items()})
    hidden = torch.randn(10, spec.hidden_size, generator=torch.Generator().manual_seed(0))
    tables = [torch.from_numpy(table) for table in rotary_tables(spec, np.arange(10)[None])]
    buffers = [torch.zeros(spec.kv_heads, 10, spec.head_dim) for _ in range(2 * 28)]
    made = group(hidden, *tables, torch.arange(10, dtype=torch.int32), *buffers)[0]
    assert float(made.std()) < 1.5 * float(hidden.std())

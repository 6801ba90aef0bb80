"""Merged tokens in other runtimes: `transformers` on the golden cases' weights, and the blocks of docs/hand-over.md."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_blocks import blocks, run_block
from helpers_language import load_case
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from sttm_export.errors import UserError
from sttm_export.language.prompt import splice, spliced_positions
from sttm_export.language.reference import ReferenceDecoder
from sttm_export.runtime.merged import MergedTokens, write_npz
from sttm_export.runtime.sample_clips import find_sample_clip

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "hand-over.md").read_text(encoding="utf-8")
VIDEO = -200
TOLERANCE = 1e-4  # as in the tests of the oracle
GREEDY = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def llava():
    return load_case("qwen2_layer0_8x14x14")


def sizes(spec):
    return {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "vocab_size": spec.vocabulary,
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def qwen2(case, vocabulary=None):
    """The case's model in `transformers`; ids that a larger vocabulary adds have embeddings of 0."""
    rope = {"rope_type": "default", "rope_theta": case.spec.rope_theta}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes(case.spec), rope_parameters=rope))
    model.load_state_dict(case.published)
    if vocabulary is not None:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model.eval()


def spliced(case, tokens, boxes):
    """Ids, rows and positions of a case's prompt."""
    ids = [*case.arrays["system_ids"], VIDEO, *case.arrays["question_ids"]]
    grid = (case.prompt.frames, case.prompt.height, case.prompt.width)
    rows = splice(case.state["language.embed.weight"].numpy(), ids, tokens, VIDEO)
    return torch.from_numpy(rows)[None], spliced_positions(ids, VIDEO, boxes, grid, case.merging.policy)


def logits_of(made):
    return torch.cat(made.logits).numpy()


def test_published_answer_in_transformers(llava):
    """The prompt is read, then `generate` goes on from the position that decoded tokens have without merging."""
    ids, model = llava.arrays, qwen2(llava)
    rows, places = spliced(llava, ids["merged_tokens"], ids["tyxyx"])
    assert places.decoded == ids["decode_positions"][0]
    with torch.no_grad():
        read = model(inputs_embeds=rows, position_ids=torch.from_numpy(places.prompt), use_cache=True)
    first = read.logits[:, -1]
    made = model.generate(
        first.argmax(-1, keepdim=True),
        cache=read.cache,
        attention_mask=torch.ones(1, rows.shape[1] + 1, dtype=torch.long),
        position_ids=torch.tensor([[places.decoded]]),
        max_new_tokens=len(ids["generated_ids"]) - 1,
        **GREEDY,
    )
    assert made.sequences[0].tolist() == ids["generated_ids"].tolist()
    assert np.abs(np.concatenate([first.numpy(), logits_of(made)]) - ids["logits"]).max() < TOLERANCE


def test_one_call_of_generate_has_the_first_token_right_and_closes_the_gap(llava):
    ids = llava.arrays
    rows, _ = spliced(llava, ids["merged_tokens"], ids["tyxyx"])
    made = qwen2(llava).generate(inputs_embeds=rows, max_new_tokens=3, **GREEDY)
    errors = np.abs(logits_of(made) - ids["logits"][:3]).max(axis=1)
    assert errors[0] < TOLERANCE
    assert errors[1:].min() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["qwen2_vl_layer2_4x12x12", "qwen2_vl_layer2_6x10x14"])
def test_qwen2_vl_in_transformers(name):
    """Its own M-RoPE against the oracle's, on tokens merged before the first layer; one call of `generate` is right."""
    case, most = load_case(name), 5
    merging, ids = replace(case.merging, layer=0), case.arrays
    oracle = ReferenceDecoder(case.spec, case.state)
    read = oracle.prefill(ids["system_ids"], case.video, ids["question_ids"], case.prompt, merging)
    expected = [read.logits]
    for step in range(most - 1):
        expected.append(oracle.step(int(expected[-1].argmax()), read.position + step))

    rope = {"rope_type": "default", "rope_theta": case.spec.rope_theta, "mrope_section": [*case.spec.mrope_section]}
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": case.spec.hidden_size}
    config = Qwen2VLConfig(
        text_config={**sizes(case.spec), "rope_parameters": rope}, vision_config=vision, tie_word_embeddings=False
    )
    model = Qwen2VLForConditionalGeneration(config).eval()
    parts = {"model.": model.model.language_model, "lm_head.": model.lm_head}
    for prefix, part in parts.items():
        part.load_state_dict({k.removeprefix(prefix): v for k, v in case.published.items() if k.startswith(prefix)})
    rows, places = spliced(case, read.tokens.numpy(), read.boxes.numpy())
    assert len(read.tokens) < case.prompt.video
    assert places.decoded == read.position
    made = model.generate(
        inputs_embeds=rows, position_ids=torch.from_numpy(places.prompt)[:, None], max_new_tokens=most, **GREEDY
    )
    assert np.abs(logits_of(made) - torch.stack(expected).numpy()).max() < TOLERANCE
    plain = model.generate(inputs_embeds=rows, max_new_tokens=1, **GREEDY)
    assert np.abs(logits_of(plain) - expected[0].numpy()).max() > 100 * TOLERANCE, "positions matter"


def test_a_prompt_that_cannot_be_spliced(llava):
    table, tokens = np.zeros((9, 4), np.float16), np.ones((2, 4), np.float16)
    assert splice(table, [3, VIDEO, 8], tokens, VIDEO).tolist() == [[0.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4]
    for ids, rows, fault in (
        ([3, 8], tokens, "-200 stands 0 times in the prompt"),
        ([VIDEO, 3, VIDEO], tokens, "-200 stands 2 times in the prompt"),
        ([3, VIDEO, 9], tokens, "The id 9 is not in the table of 9 embeddings"),
        ([-1, VIDEO], tokens, "The id -1 is not in the table"),
        ([VIDEO], tokens[:, :3], r"have the shape \[2, 3\] and the language model takes \[n, 4\]"),
        ([VIDEO], tokens[0], r"have the shape \[4\]"),
    ):
        with pytest.raises(UserError, match=fault):
            splice(table, ids, rows, VIDEO)
    boxes = llava.arrays["tyxyx"]
    with pytest.raises(UserError, match="stands 0 times"):
        spliced_positions([1], VIDEO, boxes, (8, 14, 14), "reassigned")
    with pytest.raises(UserError, match=r"outside a grid of \(7, 14, 14\)"):
        spliced_positions([VIDEO], VIDEO, boxes, (7, 14, 14), "reassigned")
    with pytest.raises(UserError, match="no policy 'kept' of positions; give one of reassigned, representative"):
        spliced_positions([VIDEO], VIDEO, boxes, (8, 14, 14), "kept")


def write_checkpoint(case, folder):
    """Save the case's model in the published layout: another model type, parts of the vision side, a tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(folder)
    qwen2(case, len(tokenizer)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"], "mm_hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors") | {"model.mm_projector.0.weight": torch.zeros(8, 8)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_blocks_of_the_document(tmp_path, llava):
    """In order, in one directory: a tiny checkpoint of the published layout, tokens of a golden case, a real clip."""
    ids = llava.arrays
    shutil.copy(find_sample_clip("carphone"), tmp_path / "holiday.mp4")
    nothing = np.zeros(2, np.float32)
    assignment = np.zeros((llava.prompt.frames, llava.prompt.height * llava.prompt.width), np.int32)
    merged = MergedTokens(
        *(ids["merged_tokens"], ids["tyxyx"], ids["num_patches"], assignment), nothing, True, nothing, len(ids["tyxyx"])
    )
    with (tmp_path / "tokens.npz").open("wb") as file:
        write_npz(file, merged, timestamps=np.arange(8.0))
    write_checkpoint(llava, tmp_path / "LLaVA-Video-72B-Qwen2")
    marked = blocks(TEXT, tested=True)
    assert [language for language, _ in marked] == ["python"] * 3
    # One program: later blocks go on with what the first made.
    run_block("python", "\n".join(code for _, code in marked), tmp_path)
    saved = json.loads((tmp_path / "language-model" / "config.json").read_text())
    assert (saved["architectures"], saved["model_type"]) == (["Qwen2ForCausalLM"], "qwen2")
    handed = load_file(tmp_path / "image_embeds.safetensors")["imageEmbeds"]
    assert torch.equal(handed, torch.from_numpy(ids["merged_tokens"]).half())


def test_blocks_that_are_not_run_are_python():
    """They need runtimes that are not installed here; they must at least compile."""
    others = [code for language, code in blocks(TEXT, tested=False) if language == "python"]
    assert len(others) >= 2
    for code in others:
        compile(code, "hand-over.md", "exec")


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (Path(__file__).resolve().parent.parent / "docs" / link).exists(), link

"""Tables and lists in docs/ against the code they speak of."""

import re
from pathlib import Path

import onnx
import pytest
from helpers_networks import tiny_recipe

from sttm_export.contracts.graph import token_merger_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.target import targets
from sttm_export.families.llava.architecture import llava_of
from sttm_export.families.registry import family_of, load_model, model_names
from sttm_export.graphs.export import OPSET, export_graph
from sttm_export.graphs.rule_table import rules
from sttm_export.graphs.rules import check_rules
from sttm_export.merging.static import TokenMerger
from sttm_export.weights.stand_in_tokenizer import stand_in_tokenizer

DOCS = Path(__file__).resolve().parent.parent / "docs"
MODELS = (DOCS / "models.md").read_text(encoding="utf-8")
TENSORRT = (DOCS / "tensorrt.md").read_text(encoding="utf-8")


def rows(text):
    """Cells of every table row that begins with a name in backquotes."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}


@pytest.mark.parametrize("name", model_names())
def test_table_of_models(name):
    model = load_model(name)
    parameters = sum(part.parameters for part in family_of(model).parts(tiny_recipe(model)))
    assert rows(MODELS.split("| decoder of")[0])[f"`{name}`"] == [
        f"{model.grid.height}×{model.grid.width}",
        str(model.channels),
        f"{parameters:,}",
        str(model.merging.published_layer),
    ]


@pytest.mark.parametrize("name", model_names())
def test_table_of_decoders(name):
    decoder = load_model(name).decoder
    assert rows(MODELS.split("| decoder of")[1].split("## 1. ")[0])[f"`{name}`"] == [
        str(decoder.layers),
        f"{decoder.heads}, {decoder.kv_heads}, {decoder.head_dim}",
        str(decoder.intermediate_size),
        str(decoder.vocabulary),
        f"{decoder.rope_theta:g}",
        f"{decoder.rms_norm_eps:g}",
        ", ".join(map(str, decoder.mrope_section)),
    ]


def test_prompts():
    """What the section says of each model's text, and the section's limit of a stand-in."""
    text = " ".join(MODELS.split("## 6. ")[1].split())
    prompts = {name: load_model(name).prompt for name in model_names()}
    for prompt in prompts.values():
        assert prompt.before.removeprefix("<|im_start|>system\n").split("<|im_end|>")[0] in text
        assert " or ".join(f"`{token}`" for token in prompt.stop) in text
    assert f'"{prompts["llava-video-7b"].behind.strip()}"' in text
    assert prompts["llava-onevision-7b"].behind == "\n"
    assert f"in Qwen2-VL `{prompts['qwen2-vl-7b'].behind}`, and `{prompts['qwen2-vl-7b'].before[-16:]}`" in text
    assert "needs 261 ids" in text
    stand_in_tokenizer(261)


def test_facts_of_the_tower():
    llava = llava_of(load_model("llava-video-7b"))
    tower = llava.tower
    assert f"hidden size {tower.hidden_size}, MLP {tower.intermediate_size}, {tower.heads} heads" in MODELS
    assert f"image {llava.image_size}×{llava.image_size} in patches of {tower.patch_size}" in MODELS
    assert f"output of the {tower.layers}th" in MODELS.replace("\n   ", " ")
    assert f"{llava.patches} patches" in MODELS


def test_every_layout_is_described():
    forms = [family_of(model).checkpoint(model) for model in map(load_model, model_names())]
    layouts = {layout for form in forms for layout in form.layouts}
    apart = {layout for form in forms if form.apart for layout in form.apart.layouts}
    described = re.findall(r"^\| (`[^|]+)\|", MODELS.split("## 4. ")[1], re.MULTILINE)
    names = {name for cell in described for name in re.findall(r"`([\w-]+)`", cell)}
    assert names == {layout.name for layout in layouts | apart}
    for layout in layouts:
        row = next(line for line in MODELS.splitlines() if line.startswith(f"| `{layout.name}`"))
        tower = next(theirs for ours, theirs in layout.prefixes if not ours.startswith("language."))
        decoder = dict(layout.prefixes)["language.layers."].removesuffix("layers.")
        assert f"| `{tower.removesuffix('encoder.layers.')}…` |" in row
        assert f"| `{decoder}…` |" in row


def test_table_of_targets():
    table = rows(TENSORRT)
    assert list(table) == [f"`{name}`" for name in targets()]
    for name, target in targets().items():
        _, version, built = table[f"`{name}`"]
        # The table in the document names a major version where the parser's minor does not matter to a reader.
        assert target.tensorrt_version.startswith(version.removeprefix("TensorRT-RTX "))
        assert ("anywhere" in built) == target.builds_without_gpu
        assert ("on the device" in built) == (target.built == "device")


def test_rules_and_files_that_are_named_exist():
    for name in re.findall(r"rule:? `([\w-]+)`", TENSORRT):
        assert name in rules()
    for document in DOCS.glob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        assert not [link for link in links if not (DOCS / link).exists()], document.name


def test_operators_of_the_token_merger(tmp_path):
    """What docs/tensorrt.md says the graph consists of, and that no target's rules object."""
    spec = MergeSpec(4, 7, 6, 16, 0.5)
    path = export_graph(TokenMerger(spec), token_merger_graph(spec, "fp16"), tmp_path)
    model = onnx.load(path)
    ops = {node.op_type for node in model.graph.node}
    sentence = re.search(r"token merger consists of (.*?)element-wise", TENSORRT, re.DOTALL)[1]
    named = set(re.findall(r"\b[A-Z][A-Za-z]+", sentence))
    moves = {"Reshape", "Concat", "Slice", "Unsqueeze", "Squeeze", "Expand", "Transpose", "Cast"}
    elementwise = {
        *("Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Floor", "Ceil", "Clip", "Neg", "Abs"),
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not"),
    }
    assert ops - moves - elementwise == named
    assert model.opset_import[0].version == OPSET == 20
    assert {name: check_rules(path, target) for name, target in targets().items()} == {name: [] for name in targets()}

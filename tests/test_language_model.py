"""The static graphs of a language model in ONNX Runtime against the published forwards and the oracle."""

import functools

import numpy as np
import pytest
import torch
from helpers_decoders import answer, exported_group, exported_head, exported_merger
from helpers_language import CASES, load_case

from sttm_export.contracts.decoding import decoder_graph
from sttm_export.errors import UserError
from sttm_export.graphs.export import export_graph
from sttm_export.language.checkpoint import group_shapes, module_state
from sttm_export.language.choose import greedy
from sttm_export.language.decoder import DecoderGroup
from sttm_export.language.model import Graphs, LanguageModel
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.pipeline import merge_features

CHUNK = 64
# Float32 sums in another order, through four layers; the best token leads by 0.03 at least.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A model of a case, whose graphs are exported once: one group of layers below the merge layer, one above."""

    @functools.cache
    def load(name):
        case, folder = load_case(name), tmp_path_factory.mktemp(name)
        spec, layer, new = case.spec, case.merging.layer, len(case.arrays["decode_positions"]) + 16
        slots = case.prompt.length + new
        spans = [(0, layer), (layer, spec.layers)] if layer else [(0, spec.layers)]
        groups = [OrtSession(*exported_group(spec, case.state, span, folder, slots, CHUNK)) for span in spans]
        head = OrtSession(*exported_head(spec, case.state, folder))
        merger = OrtSession(*exported_merger(case.merging.merge, folder))

        def merge(features):
            return merge_features(merger, case.merging.merge, features, len(features), *case.merging.thresholds)

        embeddings = case.state["language.embed.weight"].numpy()
        graphs = Graphs(groups[:-1], groups[-1:], head, embeddings, merge)
        return LanguageModel(spec, graphs, (case.prompt.height, case.prompt.width), case.merging.policy), case

    return load


@pytest.mark.parametrize("name", CASES)
def test_the_golden_cases(loaded, name):
    model, case = loaded(name)
    ids = case.arrays
    cells = case.prompt.height * case.prompt.width
    watched = model.watch(ids["system_ids"], case.video.numpy().reshape(case.prompt.frames, cells, -1))
    assert len(watched.cells) == len(ids["tyxyx"])
    tokens, logits = answer(model, ids["question_ids"], len(ids["generated_ids"]))
    assert tokens == ids["generated_ids"].tolist()
    assert np.abs(logits - ids["logits"]).max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_text_behind_the_video_is_read_with_it(loaded, name):
    """What every question shares may be read before there is one: the golden answers, with fewer rows to pay for."""
    model, case = loaded(name)
    ids = case.arrays
    video = case.video.numpy().reshape(case.prompt.frames, -1, case.spec.hidden_size)
    question = ids["question_ids"].tolist()
    for shared in (1, len(question) - 1):
        watched = model.watch(ids["system_ids"], video, question[:shared])
        assert watched.behind == shared
        tokens, logits = answer(model, question[shared:], len(ids["generated_ids"]))
        assert tokens == ids["generated_ids"].tolist()
        assert np.abs(logits - ids["logits"]).max() < TOLERANCE


def test_a_further_question_is_answered_as_if_it_were_the_first(loaded):
    model, case = loaded("qwen2_layer2_8x14x14")
    ids = case.arrays
    video = case.video.numpy().reshape(case.prompt.frames, -1, case.spec.hidden_size)
    model.watch(ids["system_ids"], video)
    first = answer(model, ids["question_ids"], 6)
    answer(model, ids["question_ids"][::-1].tolist() * 2, 4)
    again = answer(model, ids["question_ids"], 6)
    assert again[0] == first[0]
    assert np.array_equal(again[1], first[1]), "slots of an earlier question are seen by nobody"


def test_a_video_that_was_put_away_is_taken_up_again(loaded):
    model, case = loaded("qwen2_vl_layer2_4x12x12")
    ids = case.arrays
    video = case.video.numpy().reshape(case.prompt.frames, -1, case.spec.hidden_size)
    watched, state = model.watch(ids["system_ids"], video), model.state()
    first = answer(model, ids["question_ids"], 5)
    model.watch(ids["system_ids"], video[::-1].copy())
    model.restore(watched, state)
    assert np.array_equal(answer(model, ids["question_ids"], 5)[1], first[1])
    with pytest.raises(
        UserError, match="Keys and values are of decoder_09, and this model has decoder_00_01, decoder_02_03"
    ):
        model.restore(watched, {"decoder_09": {}})


def test_what_cannot_be_asked(loaded):
    model, case = loaded("qwen2_layer0_8x14x14")
    with pytest.raises(UserError, match="No video has been read"):
        list(LanguageModel(case.spec, model._graphs, (14, 14), "reassigned").ask([1], 1, greedy))
    video = case.video.numpy().reshape(case.prompt.frames, -1, case.spec.hidden_size)
    model.watch(case.arrays["system_ids"], video)
    with pytest.raises(UserError, match="The question is empty"):
        list(model.ask([], 1, greedy))
    with pytest.raises(UserError, match="need 5000 slots behind the video"):
        list(model.ask([1], 5000, greedy))


def test_float16_stays_near(tmp_path):
    """Weights, keys and values in float16; the residual stream is float32."""
    case = load_case("qwen2_layer2_8x14x14")
    graph = decoder_graph(case.spec, 0, 2, 256, CHUNK, "fp16")
    module = DecoderGroup(case.spec, 0, 2)
    module.load_state_dict(module_state({name: case.state[name] for name in group_shapes(case.spec, 0, 2)}))
    rows = np.random.default_rng(0).standard_normal((CHUNK, case.spec.hidden_size), np.float32)
    inputs = {
        "hidden": rows,
        "cos": np.ones((CHUNK, case.spec.head_dim), np.float32),
        "sin": np.zeros((CHUNK, case.spec.head_dim), np.float32),
        "slots": np.arange(CHUNK, dtype=np.int32),
    }
    buffers = [torch.zeros(tensor.shape) for tensor in graph.inputs[4:]]
    with torch.no_grad():
        expected = module.eval()(*map(torch.from_numpy, inputs.values()), *buffers)[0].numpy()
    made = OrtSession(export_graph(module.half(), graph, tmp_path), graph).run(inputs)["hidden_out"]
    error = np.linalg.norm(made - expected) / np.linalg.norm(expected)
    assert 0 < error < 4 * 2**-11

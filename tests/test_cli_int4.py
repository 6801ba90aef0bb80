"""`--decoder-precision int4` end to end: what is refused, what a bundle says, and what it answers."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from helpers_ask import answers
from helpers_int4 import CHANNELS, int4_model
from helpers_networks import tiny_model, write_tiny_model_toml
from helpers_runtime import write_video

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.contracts.target import find_target, targets
from sttm_export.families.registry import parts_of
from sttm_export.families.weights import open_weights
from sttm_export.kit.checks import check_bundle
from sttm_export.language.checkpoint import parameter_shapes
from sttm_export.language.positions import Prompt
from sttm_export.language.prompt import question_ids, video_ids
from sttm_export.language.quantized import as_weights, quantized
from sttm_export.language.reference import Merging, ReferenceDecoder
from sttm_export.language.tokenizer import read_tokenizer
from sttm_export.runtime.video import published_sampler, read_video
from sttm_export.workflows.ask_memory import estimate_memory

INT4 = ("--decoder-precision", "int4")
SHORT = ("--max-new-tokens", "8")
QUESTIONS = ("And that?", "Name it.")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Tokens merge at the input of layer 1; validated on three frames."""
    folder = tmp_path_factory.mktemp("int4")
    toml = write_tiny_model_toml(folder / "tiny.toml", int4_model())
    command = ["--model", str(toml), "--budget", "0.5", "--frames", "4", "--batch", "2", "--random-weights", "7"]
    command += [
        "--decoder",
        *INT4,
        "--merge-layer",
        "1",
        "--group-layers",
        "2",
        "--chunk",
        "16",
        "--text-tokens",
        "192",
    ]
    command += ["--no-engines", "--validation-frames", "3", "--output", str(folder / "bundle")]
    assert main(command) == 0
    return folder / "bundle"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames=8, rate=2)


def dry_run(toml):
    return ["--model", str(toml), *["--budget", "0.5", "--frames", "4", "--random-weights", "7", "--dry-run"]]


@pytest.fixture
def refused(tmp_path, capsys):
    """The one sentence with which an export is refused."""

    def run(*more, model=None):
        toml = write_tiny_model_toml(tmp_path / "tiny.toml", model or int4_model())
        assert main([*dry_run(toml), *more]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_refusals(refused):
    assert "--decoder-precision is about the language model, which is not exported without --decoder" in refused(*INT4)
    decoder = ("--decoder", *INT4)
    assert "INT4 weights are multiplied as float16; give --precision fp16" in refused(*decoder, "--precision", "fp32")
    other = refused("--decoder", "--decoder-precision", "fp32")
    assert "--decoder-precision fp32 is not possible with --precision fp16" in other
    assert "Did you mean 'int4'?" in refused("--decoder", "--decoder-precision", "int8")
    message = refused(*decoder, model=int4_model(intermediate_size=320))
    assert "the intermediate_size of Tiny, 320, is no multiple of 128" in message


@pytest.mark.parametrize("target", ["jetson-orin-jp62", "x86-trt103"])
def test_a_target_whose_parser_stops_before_is_refused_with_the_reason(refused, target):
    message = refused("--decoder", *INT4, "--target", target)
    assert f"Target '{target}' lacks int4: TensorRT 10.3 reads ONNX to opset 20" in message
    assert "or choose a target that has it: rtx, " in message
    assert "jetson-orin-jp72" in message


def test_the_precision_of_the_export_may_be_said_again(tmp_path, capsys):
    toml = write_tiny_model_toml(tmp_path / "tiny.toml", int4_model())
    command = [*dry_run(toml), "--decoder"]
    shown = []
    for more in ((), ("--decoder-precision", "fp16"), INT4):
        assert main([*command, *more]) == 0
        shown.append(capsys.readouterr().out.partition("Together")[0])
    assert shown[0] == shown[1] != shown[2]
    assert "fp16, decoder weights in int4" in shown[2]
    assert f"{tiny_model().name}-t4-b0.5-fp16-l2-int4" in shown[2]


def test_a_bundle_says_what_was_lost(bundle, capsys):
    data = json.loads((bundle / "manifest.json").read_text())
    assert data["decoding"]["weights"] == "int4"
    losses = open_bundle(bundle).manifest.int4_losses
    assert len(losses.weights) == 3 * 7 + 1
    assert [row.layer for row in losses.layers] == [0, 1, 2]
    # The last layer of each graph stands beside what its float16 graph rounds.
    assert [bool(row.rounding) for row in losses.layers] == [True, False, True]
    assert 0 < losses.logits.rounding < 0.01 < losses.logits.relative
    assert main(["inspect", str(bundle)]) == 0
    shown = " ".join(re.sub(r"[│┃]", " ", capsys.readouterr().out).split())
    assert "weights in int4" in shown
    assert "What INT4 weights lose" in shown
    assert f"the best token is the same in {losses.logits.same_best} of 16 rows" in shown
    report = (bundle / "report.html").read_text()
    assert "<h2>What INT4 weights lose</h2>" in report
    assert report.count("<td>layer ") == 3


def test_only_graphs_of_the_decoder_have_the_later_opset(bundle):
    opsets = {
        path.stem: onnx.load(path, load_external_data=False).opset_import[0].version for path in bundle.glob("*.onnx")
    }
    later = {graph.name for graph in open_bundle(bundle).manifest.graphs if graph.int4}
    assert later == {"decoder_00_00", "decoder_01_02", "language_head"}
    assert opsets == {name: 21 if name in later else 20 for name in opsets}


def test_the_kit_says_in_a_sentence_what_jetpack_6_lacks(bundle):
    opened = open_bundle(bundle)
    for target in targets().values():
        found = {check.name: check for check in check_bundle(opened, target)}
        expected = "failed" if target.opsets[1] < 21 else "ok"
        assert (found["precision"].status, found["rules"].status) == (expected, expected)
    found = {check.name: check for check in check_bundle(opened, find_target("jetson-orin-jp62"))}
    assert found["precision"].found == "fp16, weights of the decoder in int4"
    assert found["precision"].fix == (
        "TensorRT 10.3 reads ONNX to opset 20 (its operators.md), and DequantizeLinear has blocks, which INT4 weights "
        "need, from opset 21 on; export again without --decoder-precision int4, or update JetPack"
    )
    assert "opset 21, which INT4 weights need, jetson-orin-jp62 reads 9 to 20" in found["rules"].found


def test_memory_of_a_processor_is_that_of_float32_weights(bundle):
    opened = open_bundle(bundle)
    recipe = opened.manifest.recipe
    parameters = sum(part.parameters for part in parts_of(recipe) if part.quantizing)
    # And, while the larger of the groups is unpacked, its weights in float16.
    assert 4 * parameters < estimate_memory(opened, video=False) < 7 * parameters


def test_the_drift_finder_looks_into_such_a_graph(bundle, capsys):
    assert main(["validate", str(bundle), "--bisect", "decoder_00_00"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"none of \d+ tensors leaves its band", shown)


def test_the_answer_is_that_of_the_published_layers_with_the_stored_weights(bundle, video, monkeypatch, tmp_path):
    from sttm_export.workflows import reading

    seen = {}
    for step in ("encode", "merge"):
        real = getattr(reading, step)
        monkeypatch.setattr(reading, step, lambda *given, s=step, r=real: seen.setdefault(s, r(*given)))
    kept = tmp_path / "video.kv"
    texts = answers(bundle, "--video", video, "--save-kv", kept, *SHORT, *QUESTIONS)
    singly = [answers(bundle, question, "--kv", kept, *SHORT) for question in QUESTIONS]
    assert "".join(singly) == texts
    assert singly[0] != singly[1], "answers that are all alike would show nothing"
    recipe, tokenizer = open_bundle(bundle).manifest.recipe, read_tokenizer(bundle / "tokenizer.json", 400)
    frames, features = read_video(video, published_sampler(recipe.model.sampling.fps, 4)), seen["encode"]
    state = open_weights(recipe.model, shapes := parameter_shapes(recipe.decoder), None, 7).read(shapes)
    made, margins = "", []
    for question in QUESTIONS:
        before, behind = video_ids(tokenizer, recipe.prompt, frames.timestamps, 4.0)
        behind += question_ids(tokenizer, recipe.prompt, question)
        oracle = ReferenceDecoder(recipe.decoder, as_weights(quantized(state)))
        prompt = Prompt(len(before), *features.shape[:1], *vars(recipe.model.grid).values(), len(behind))
        merging = Merging(1, recipe.merge, tuple(seen["merge"].thresholds.tolist()), recipe.model.merging.positions)
        flat = torch.from_numpy(features.reshape(-1, CHANNELS).astype(np.float32))
        found = oracle.prefill(np.array(before), flat, np.array(behind), prompt, merging)
        tokens, logits = [], found.logits
        for count in range(8):
            first, second = torch.topk(logits, 2).values.tolist()
            margins.append((first - second) / float(logits.std()))
            tokens.append(int(logits.argmax()))
            logits = oracle.step(tokens[-1], found.position + count)
        made += "".join(tokenizer.decode(tokens)) + "\n"
    # Float16 moves a logit by some 10^-3 of their deviation, so that no choice hangs on it.
    assert min(margins) > 0.05, margins
    assert made == texts

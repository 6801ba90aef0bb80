"""The drift finder on tiny bundles: planted faults of every kind are named exactly, clean bundles give nothing."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers_drift import add_constant, copy_bundle, edit, node_of, scale_weight
from helpers_networks import build_encoder, random_state, tiny_model, tiny_pixels, tiny_state, write_checkpoint
from helpers_standins import pretend_gpu

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.contracts.graph import token_merger_graph, vision_encoder_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.drift.checks import check_tensor
from sttm_export.drift.parts import Chain, link_weights, write_part
from sttm_export.drift.reference import Reference
from sttm_export.drift.search import Search, bisect_graph, chosen_graphs
from sttm_export.drift.sessions import engine_factory, ort_factory
from sttm_export.errors import UserError
from sttm_export.graphs.export import export_graph
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.merging.static import TokenMerger
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.terminal import Steps

ENCODER = "vision_encoder"


@pytest.fixture(scope="module")
def reference():
    """The module that `tiny_bundle` was made of."""
    model = tiny_model()
    return Reference(build_encoder(model, random_state(model, 7), "fp16"), vision_encoder_graph(model, 2, "fp16"))


@pytest.fixture
def broken(tiny_bundle, tmp_path):
    """A copy of the bundle to plant a fault in."""
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


def search(reference, onnx_path, inputs, folder, *, factory=None, limit=256 << 20):
    folder.mkdir(exist_ok=True)
    link_weights(onnx_path, folder)
    return Search(Chain(onnx_path), reference, inputs, folder, factory or ort_factory(), limit)


def search_bundle(reference, path, folder, **options):
    bundle = open_bundle(path)
    inputs, _ = read_fixture(bundle.fixture_path(ENCODER), bundle.graph(ENCODER))
    return search(reference, bundle.onnx_path(ENCODER), inputs, folder, **options)


def brute_force(found):
    """First tensor out of its band when all are marked at once and held against a run without any float16."""
    chain, reference = found.chain, found.reference
    path, graph = write_part(chain, chain.marks(len(chain.operators)), found.folder)
    made = OrtSession(path, graph).run(found.inputs)
    names = [name for name in made if name in reference.counterparts]
    expected = dict(reference.run(found.inputs, names))
    for name in names:
        # Errors have come a long way here: the band of 28 blocks, in the format that rounded on the way.
        rounded = "float16" if made[name].dtype.kind == "f" else str(made[name].dtype)
        place = dataclasses.replace(found._place(name), dtype=rounded, summed=64, blocks=28)
        if not check_tensor(made[name], expected[name], place).passed:
            return name
    return None


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("tower.patch_embedding/Conv", "tower.patch_embedding (Conv2d)"),
        ("tower.layers.0.self_attn.v_proj/MatMul", "tower.layers.0.self_attn.v_proj (Linear)"),
        ("tower.layers.1.self_attn.q_proj/MatMul", "tower.layers.1.self_attn.q_proj (Linear)"),
        ("tower.layers.1.mlp.fc2/MatMul", "tower.layers.1.mlp.fc2 (Linear)"),
        ("projector.fc2/MatMul", "projector.fc2 (Linear)"),
    ],
)
def test_a_wrong_weight_is_named(reference, broken, tmp_path, node, module):
    tensor = scale_weight(broken, node, 1.25)
    found = search_bundle(reference, broken, tmp_path / "parts")
    report = found.run(ENCODER)
    assert report.finding.place.tensor == tensor
    assert report.finding.place.module == module
    assert not report.accumulated
    assert report.finding.measured == pytest.approx(0.25, rel=0.05)
    assert all(check.passed for check in report.checks[:-1])
    assert brute_force(found) == tensor


def test_a_small_fault_that_its_block_hides_is_named_too(reference, broken, tmp_path):
    """What half a per cent on one MLP does to the residual stream stays in its band there."""
    tensor = scale_weight(broken, "tower.layers.0.mlp.fc2/MatMul", 1.006)
    report = search_bundle(reference, broken, tmp_path / "parts").run(ENCODER)
    assert report.finding.place.tensor == tensor
    layer = next(check for check in report.boundaries if check.place.module.startswith("tower.layers.0"))
    assert layer.passed


def test_a_wrong_constant_is_named(reference, broken, tmp_path):
    def other_scale(model):
        node = node_of(model, "tower.layers.1.self_attn/Mul")
        # Equal constants are stored once: layer 0 reads this one too.
        node.input[1] = add_constant(model, node.input[1], "other_scale", 0.5)
        return node.output[0]

    tensor = edit(broken, other_scale)
    report = search_bundle(reference, broken, tmp_path / "parts").run(ENCODER)
    assert report.finding.place.tensor == tensor
    assert report.finding.place.op == "Mul"
    assert report.finding.place.module == "tower.layers.1.self_attn (SelfAttention)"


def test_a_wrong_attribute_is_named(reference, broken, tmp_path):
    def other_epsilon(model):
        node = node_of(model, "tower.layers.1.layer_norm2/LayerNormalization")
        next(row for row in node.attribute if row.name == "epsilon").f = 0.5
        return node.output[0]

    tensor = edit(broken, other_epsilon)
    report = search_bundle(reference, broken, tmp_path / "parts").run(ENCODER)
    assert report.finding.place.tensor == tensor
    assert report.finding.place.module == "tower.layers.1.layer_norm2 (Float32LayerNorm)"
    assert report.finding.place.source.startswith("families/modules.py:")


def test_another_operator_is_refused_by_name(broken):
    def erf(model):
        node = node_of(model, "tower.layers.1.mlp/Gelu")
        node.name = node.name.replace("Gelu", "Relu")

    edit(broken, erf)
    with pytest.raises(UserError, match=r"node \d+ is tower.layers.1.mlp/Relu_\d+, here it would be .*Gelu"):
        bisect_graph(open_bundle(broken), ENCODER, Steps(9))


class Faulty:
    """ONNX Runtime that errs in one tensor."""

    def __init__(self, path, graph, tensor, only_in_whole):
        self.session, self.graph, self.tensor = OrtSession(path, graph), graph, tensor
        self.errs = not only_in_whole or [row.name for row in graph.inputs] == ["pixel_values"]

    backend = "faulty runtime"

    def run(self, inputs):
        made = self.session.run(inputs)
        if self.errs and self.tensor in made:
            made[self.tensor] = made[self.tensor] * made[self.tensor].dtype.type(1.1)
        return made


def test_a_fault_of_the_runtime_is_named(reference, tiny_bundle, tmp_path):
    bundle = open_bundle(tiny_bundle, verify=False)
    tensor = next(
        name for name in Chain(bundle.onnx_path(ENCODER)).tensors if name.startswith("tower.layers.0.self_attn/Softmax")
    )
    report = search_bundle(
        reference, tiny_bundle, tmp_path / "parts", factory=lambda path, graph: Faulty(path, graph, tensor, False)
    ).run(ENCODER)
    assert report.finding.place.tensor == tensor
    assert report.backend == "faulty runtime"


def test_a_fault_that_only_the_whole_graph_has_is_not_blamed_on_an_operator(reference, tiny_bundle, tmp_path):
    bundle = open_bundle(tiny_bundle, verify=False)
    tensor = next(name for name in Chain(bundle.onnx_path(ENCODER)).boundaries() if name.startswith("tower.layers.1/"))
    report = search_bundle(
        reference,
        tiny_bundle,
        tmp_path / "parts",
        limit=20_000,
        factory=lambda path, graph: Faulty(path, graph, tensor, True),
    ).run(ENCODER)
    assert report.accumulated
    assert report.finding.place.tensor == tensor
    assert "fuses operators" in report.sentence
    # The search did not go on behind the block that is out.
    assert report.checks[-1].place.tensor == tensor


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """An encoder whose second MLP reaches beyond float16, its reference and its graph."""
    model = tiny_model()
    state = tiny_state(model, 7)
    state["tower.layers.1.mlp.fc1.weight"] *= 30_000
    spec = vision_encoder_graph(model, 2, "fp16")
    module = build_encoder(model, state, "fp16")
    path = export_graph(module, spec, tmp_path_factory.mktemp("overflow"))
    return model, state, Reference(module, spec), path


def test_an_overflow_is_named_and_said(overflowing, tmp_path):
    model, _, reference, path = overflowing
    inputs = {"pixel_values": tiny_pixels(model).numpy().astype(np.float16)}
    report = search(reference, path, inputs, tmp_path / "parts").run(ENCODER)
    finding = report.finding
    assert finding.place.module == "tower.layers.1.mlp.fc1 (Linear)"
    assert finding.overflowed
    assert finding.inf > 0
    assert max(-finding.low, finding.high) > 65504
    assert "float16 ends at 65504" in report.sentence


def test_an_export_that_was_rejected_can_be_searched(overflowing, tiny_toml, tmp_path, capsys):
    model, state, _, _ = overflowing
    checkpoint = write_checkpoint(tmp_path / "checkpoint", model, state)
    output = tmp_path / "bundle"
    command = ["--model", str(tiny_toml), "--budget", "1", "--frames", "1", "--batch", "1", "--no-engines"]
    assert main([*command, "--weights", str(checkpoint), "--output", str(output)]) == 1
    rejected = str(tmp_path / "bundle.rejected")
    command = f"sttm-export validate {rejected} --bisect {ENCODER} --weights {checkpoint}"
    assert f"to find the cause: {command}" in capsys.readouterr().err
    assert main(["validate", rejected, "--bisect", ENCODER]) == 2
    assert "give it with --weights" in capsys.readouterr().err
    other = write_checkpoint(tmp_path / "other", model, tiny_state(model, 8))
    assert main(["validate", rejected, "--bisect", ENCODER, "--weights", str(other)]) == 2
    assert "not the weights the bundle was made of" in capsys.readouterr().err
    found = tmp_path / "found.json"
    given = ["--weights", str(checkpoint), "--json", str(found)]
    assert main(["validate", rejected, "--bisect", ENCODER, *given]) == 1
    shown = capsys.readouterr()
    assert "tower.layers.1.mlp.fc1 (Linear)" in shown.err
    assert "keep this in float32" in shown.err
    assert "OUT" in shown.out
    (report,) = json.loads(found.read_text())
    assert report["finding"]["place"]["module"] == "tower.layers.1.mlp.fc1 (Linear)"
    assert report["finding"]["inf"] > 0


def test_a_clean_encoder_in_small_chunks(reference, tiny_bundle, tmp_path):
    """Memory is bounded by the limit: no part returns more than it, unless one tensor alone is larger."""
    sizes = []

    def watched(path, graph):
        made = [np.dtype(row.dtype).itemsize * int(np.prod(row.shape)) for row in graph.outputs]
        sizes.append((sum(made), len(made), max(made)))
        return OrtSession(path, graph)

    limit = 20_000
    report = search_bundle(reference, tiny_bundle, tmp_path / "parts", limit=limit, factory=watched).run(ENCODER)
    assert report.finding is None
    assert report.compared == report.covered == report.tensors
    assert report.runs == len(sizes) > 5
    assert all(total <= limit or count == 1 for total, count, _ in sizes)


@pytest.mark.parametrize("limit", [1, 300_000])
def test_the_finding_does_not_depend_on_the_chunks(reference, broken, tmp_path, limit):
    tensor = scale_weight(broken, "tower.layers.0.mlp.fc1/MatMul", 1.1)
    report = search_bundle(reference, broken, tmp_path / "parts", limit=limit).run(ENCODER)
    assert report.finding.place.tensor == tensor


def test_a_clean_encoder_in_float32(tmp_path):
    model = tiny_model(layers=1)
    spec = vision_encoder_graph(model, 2, "fp32")
    module = build_encoder(model, random_state(model, 3), "fp32")
    path = export_graph(module, spec, tmp_path)
    inputs = {"pixel_values": tiny_pixels(model).numpy()}
    report = search(Reference(module, spec), path, inputs, tmp_path / "parts").run(ENCODER)
    assert report.finding is None, report.sentence
    assert report.boundaries[0].allowed < 1e-5


def merger_inputs(spec, dtype, used):
    generator = torch.Generator().manual_seed(0)
    # Neighbours resemble each other, and some similarities are exact ties.
    coarse = torch.rand(1, 1, spec.channels, generator=generator) + 0.2 * torch.rand(
        spec.frames, spec.cells, spec.channels, generator=generator
    )
    coarse[:, : spec.cells // 2] = coarse[:1, :1]
    return {
        "features": coarse.numpy().astype(dtype),
        "num_frames": np.array(used, np.int32),
        "spatial_threshold": np.array(0.9, np.float32),
        "temporal_threshold": np.array(0.95, np.float32),
    }


@pytest.mark.parametrize(("precision", "frames"), [("fp16", 2), ("fp32", 1)])
def test_a_clean_merger(precision, frames, tmp_path):
    spec = MergeSpec(frames, 3, 3, 8, 1.0, policy="threshold", weighted_avg=precision == "fp32")
    graph = token_merger_graph(spec, precision)
    path = export_graph(TokenMerger(spec), graph, tmp_path)
    inputs = merger_inputs(spec, graph.inputs[0].dtype, frames)
    found = search(Reference(TokenMerger(spec), graph), path, inputs, tmp_path / "parts", limit=2_000)
    report = found.run("token_merger")
    assert report.finding is None, report.sentence
    assert report.covered > 0.9 * report.tensors
    assert report.runs > 3
    sources = {check.place.source for check in report.checks}
    assert any("(_pack)" in source for source in sources), "functions are named, not forward alone"


def test_an_unknown_graph_has_a_suggestion(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    assert chosen_graphs(bundle, "all") == (ENCODER, "token_merger")
    assert chosen_graphs(bundle, "token_merger") == ("token_merger",)
    with pytest.raises(UserError, match="Did you mean 'token_merger'"):
        chosen_graphs(bundle, "token-merger")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bisect", "vision"], "--bisect knows no graph 'vision'"),
        (["--bisect", ENCODER, "--clip", "x.mp4"], "leave --clip out"),
        (["--bisect", ENCODER, "--json", "missing/out.json"], "Cannot write"),
        (["--json", "out.json"], "--json writes what --bisect finds"),
        (["--provider", "cuda"], "--provider is about --bisect with ONNX Runtime"),
        (["--bisect", "--engine", "--provider", "cuda"], "leave it out, or --engine"),
        (["--bisect", ENCODER, "--engine"], "there is no GPU here; leave --engine out"),
    ],
)
def test_options_that_do_not_go_together(tiny_bundle, capsys, options, said):
    assert main(["validate", str(tiny_bundle), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_bundle_without_fixtures(broken):
    for fixture in (broken / "fixtures").iterdir():
        fixture.unlink()
    bundle = open_bundle(broken, verify=False)
    with pytest.raises(UserError, match="has no fixtures, which --bisect runs on"):
        bisect_graph(bundle, ENCODER, Steps(9))


def test_a_clean_bundle_on_the_command_line(tiny_bundle, capsys):
    before = sorted(path.name for path in tiny_bundle.rglob("*"))
    assert main(["validate", str(tiny_bundle), "--bisect", ENCODER]) == 0
    assert "none of 94 tensors leaves its band" in " ".join(capsys.readouterr().out.split())
    assert sorted(path.name for path in tiny_bundle.rglob("*")) == before


def test_engines_are_built_for_each_part_and_closed(reference, tiny_bundle, tmp_path, monkeypatch):
    """On a pretended Orin: every part goes through TensorRT's parser and builder, the kernels are not NVIDIA's."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    orin = pretend_gpu(monkeypatch, machine="aarch64")
    factory = engine_factory(open_bundle(tiny_bundle, verify=False), None)
    report = search_bundle(reference, tiny_bundle, tmp_path / "parts", factory=factory).run(ENCODER)
    assert report.finding is None, report.sentence
    assert report.backend == "tensorrt 10.3.0.30"
    assert orin.driver.live() == {}


def test_targets_whose_engines_do_not_run_here(tiny_bundle, monkeypatch):
    bundle = open_bundle(tiny_bundle, verify=False)
    pretend_gpu(monkeypatch, machine="aarch64", tensorrt="10.7.0.1")
    with pytest.raises(UserError, match=r"No engine can be built and run here \(rtx: it is not for sm87\)"):
        engine_factory(bundle, "rtx")
    with pytest.raises(UserError, match=r"jetson-orin-jp62: .*10\.7"):
        engine_factory(bundle, "jetson-orin-jp62")


@pytest.mark.parametrize(("accumulate", "sums"), [("fp32", "float32"), ("default", "float16")])
def test_an_engine_is_held_to_the_sums_that_its_graph_asks_for(tmp_path, accumulate, sums):
    """An engine that may sum in float16 is not blamed for it."""

    class Engine(OrtSession):
        backend = "tensorrt 10.3.0.30"

    model = tiny_model()
    spec = vision_encoder_graph(model, 2, "fp16")
    module = build_encoder(model, random_state(model, 7), "fp16")
    path = export_graph(module, spec, tmp_path, accumulate=accumulate)
    inputs = {"pixel_values": np.random.default_rng(0).standard_normal(spec.inputs[0].shape).astype(np.float16)}
    candidate = search(Reference(module, spec, accumulate), path, inputs, tmp_path / "parts", factory=Engine)
    boundaries = list(candidate.whole())
    assert boundaries
    assert all(check.passed for check in boundaries)
    assert all(f"u({sums})·√(" in check.band for check in boundaries)


@pytest.mark.parametrize("graph", ["decoder_00_01", "language_head"])
def test_outputs_that_are_wider_than_what_they_come_of(language_bundle, graph):
    """Logits and residual stream are float32, and the products before them float16."""
    assert main(["validate", str(language_bundle), "--bisect", graph]) == 0

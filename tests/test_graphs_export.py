import json
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from helpers_graphs import run, tiny_inputs, tiny_module, tiny_spec
from torch import nn

from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.graphs.export import OPSET, data_file, example_inputs, export_graph
from sttm_export.graphs.faults import GraphError


@pytest.fixture(scope="module", params=["float32", "float16"])
def exported(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    return request.param, export_graph(tiny_module(request.param), tiny_spec(request.param), directory)


def test_example_inputs_follow_the_declaration():
    features, num_frames, threshold = example_inputs(tiny_spec("float16"))
    assert features.shape == (4, 4, 32)
    assert features.dtype == torch.float16
    assert not features.any()
    assert num_frames.shape == threshold.shape == ()
    assert num_frames.dtype == torch.int32


def test_onnx_runtime_gives_what_pytorch_gives(exported):
    dtype, path = exported
    inputs = tiny_inputs(dtype)
    expected = tiny_module(dtype)(*(torch.from_numpy(np.asarray(value)) for value in inputs.values()))
    for tensor, got, want in zip(tiny_spec(dtype).outputs, run(path, inputs), expected, strict=True):
        tolerance = 2e-3 if dtype == "float16" else 1e-5
        np.testing.assert_allclose(got, want.detach().numpy(), atol=tolerance, err_msg=tensor.name)
        assert got.dtype == tensor.dtype


def test_weights_lie_beside_the_graph_and_small_constants_in_it(exported):
    _, path = exported
    assert path.name == "tiny.onnx"
    assert data_file(path).name == "tiny.onnx.data"
    initializers = onnx.load(path, load_external_data=False).graph.initializer
    outside = [t for t in initializers if t.data_location == onnx.TensorProto.EXTERNAL]
    assert outside
    assert all(int(np.prod(t.dims)) * 2 > 1024 or t.dims == [32, 32] for t in outside)
    assert any(t.data_location == onnx.TensorProto.DEFAULT for t in initializers)


def test_graph_with_small_constants_only_has_no_data_file(tmp_path):
    spec = GraphSpec("small", (TensorSpec("x", (2,), "float32", ""),), (TensorSpec("y", (2,), "float32", ""),))
    data_file(tmp_path / spec.onnx_file).write_bytes(b"left by an earlier export")
    path = export_graph(nn.ReLU(), spec, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_two_exports_give_the_same_bytes(exported, tmp_path):
    dtype, path = exported
    again = export_graph(tiny_module(dtype), tiny_spec(dtype), tmp_path)
    assert again.read_bytes() == path.read_bytes()
    assert data_file(again).read_bytes() == data_file(path).read_bytes()


def test_no_path_of_this_machine_and_no_trace_is_left(exported):
    _, path = exported
    raw = path.read_bytes()
    for word in (b"helpers_graphs", b"site-packages", b"stack_trace", b"/tmp", b"pkg.torch", b"pytorch"):
        assert word not in raw, word


def test_opset_suits_every_target(exported):
    from sttm_export.contracts.target import targets

    model = onnx.load(exported[1], load_external_data=False)
    assert [(row.domain, row.version) for row in model.opset_import] == [("", OPSET)]
    assert all(target.opsets[0] <= OPSET <= target.opsets[1] for target in targets().values())


def test_nothing_is_printed(tmp_path, capfd):
    export_graph(tiny_module(), tiny_spec(), tmp_path)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_logging_is_as_before_even_after_a_failure(tmp_path):
    import logging

    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    spec = GraphSpec("b", (TensorSpec("x", (2,), "float32", ""),), (TensorSpec("y", (2,), "float32", ""),))
    before = logging.root.manager.disable
    with pytest.raises(ZeroDivisionError):
        export_graph(Broken(), spec, tmp_path)
    assert logging.root.manager.disable == before


def _with_output(spec, index, **changes):
    outputs = list(spec.outputs)
    outputs[index] = replace(outputs[index], **changes)
    return replace(spec, outputs=tuple(outputs))


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (0, {"shape": (4, 4, 16)}, r"tiny: output 'tokens' has shape \[4, 4, 32\], declared is \[4, 4, 16\]"),
        (1, {"dtype": "float32"}, "tiny: output 'num_tokens' is INT32, declared is FLOAT"),
        (1, {"shape": (1,)}, r"output 'num_tokens' has shape \[\], declared is \[1\]"),
        (3, {"dtype": "int32"}, "output 'converged' is BOOL, declared is INT32"),
    ],
)
def test_departure_from_the_declaration_is_a_fault(tmp_path, index, changes, message):
    with pytest.raises(GraphError, match=message):
        export_graph(tiny_module(), _with_output(tiny_spec(), index, **changes), tmp_path)


def test_node_names_tell_the_module(exported):
    names = [node.name for node in onnx.load(exported[1], load_external_data=False).graph.node]
    assert any(re.fullmatch(r"project/\w+_\d+", name) for name in names), json.dumps(names)
    assert len(set(names)) == len(names)

"""Parts of a graph: cut, marked, bounded in bytes, and computing what the whole graph computes."""

import numpy as np
import onnx
import pytest
from helpers_graphs import BOOL, FLOAT, HALF, node, proto, save
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from sttm_export.bundle.opened import open_bundle
from sttm_export.drift.parts import Chain, link_weights, write_part
from sttm_export.errors import UserError
from sttm_export.graphs.faults import GraphError
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.runtime.ort_session import OrtSession


@pytest.fixture
def diamond(tmp_path):
    """x → a → (b, c) → d → e; `unused` is read by nothing."""
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("MatMul", ["a", "w"], ["b"]),
        node("Abs", ["a"], ["c"]),
        node("Add", ["b", "c"], ["d"]),
        node("Sign", ["d"], ["unused"]),
        node("ReduceSum", ["d", "axes"], ["e"], keepdims=0),
    ]
    constants = {"w": np.eye(8, dtype=np.float32), "axes": np.array([0, 1], np.int64)}
    return Chain(save(proto(nodes, [("x", FLOAT, [4, 8])], [("e", FLOAT, [])], constants), tmp_path))


@pytest.fixture(scope="module")
def encoder(tiny_bundle):
    bundle = open_bundle(tiny_bundle, verify=False)
    chain = Chain(bundle.onnx_path("vision_encoder"))
    return bundle, chain, read_fixture(bundle.fixture_path("vision_encoder"), bundle.graph("vision_encoder"))[0]


def test_a_tensor_knows_what_it_is(diamond):
    b = diamond.tensors["b"]
    assert (b.op, b.dtype, b.shape, b.nbytes, b.summed, b.module) == ("MatMul", "float32", (4, 8), 128, 8, "")
    assert diamond.tensors["e"].summed == 32
    assert diamond.tensors["a"].summed == 1


def test_a_tensor_is_kept_until_its_last_reader(diamond):
    assert [diamond.last_use[name] for name in "xabcde"] == [0, 2, 3, 3, 5, 6]
    assert diamond.marks(6) == ["a", "b", "c", "d", "e"], "nothing reads `unused`"
    assert diamond.marks(2) == ["a", "b"]


def test_boundaries_are_where_everything_passes(diamond):
    # One module, so the last of them stands for all.
    assert diamond.boundaries() == ["e"]


def test_boundaries_of_a_network_are_the_ends_of_its_blocks(encoder):
    _, chain, _ = encoder
    modules = [chain.tensors[name].module for name in chain.boundaries()]
    assert modules[:4] == ["tower.patch_embedding", "tower", "tower.layers.0", "tower.layers.1"]
    assert chain.boundaries()[-1] == "features"


def test_unneeded_nodes_are_left_out(diamond, tmp_path):
    (tmp_path / "cut").mkdir()
    path, graph = write_part(diamond, ["c"], tmp_path / "cut")
    assert [nodes[0].op_type for nodes in Chain(path).operators] == ["Relu", "Abs"]
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in graph.outputs] == [("c", (4, 8), "float32")]


def test_a_part_reads_what_is_made_before_it(diamond, tmp_path):
    (tmp_path / "cut").mkdir()
    path, graph = write_part(diamond, ["d"], tmp_path / "cut", 2)
    assert [nodes[0].op_type for nodes in Chain(path).operators] == ["Abs", "Add"]
    assert [tensor.name for tensor in graph.inputs] == ["a", "b"]


@pytest.mark.parametrize("limit", [1, 5_000, 20_000, 1 << 30])
def test_steps_compute_what_the_whole_graph_does(encoder, tmp_path, limit):
    bundle, chain, inputs = encoder
    link_weights(bundle.onnx_path("vision_encoder"), tmp_path)
    values = dict(inputs)
    for group in chain.in_groups(chain.marks(len(chain.operators)), limit):
        path, graph = write_part(chain, group, tmp_path, chain.tensors[group[0]].made)
        values |= OrtSession(path, graph).run({tensor.name: values[tensor.name] for tensor in graph.inputs})
    whole = OrtSession(bundle.onnx_path("vision_encoder"), bundle.graph("vision_encoder")).run(inputs)
    np.testing.assert_allclose(
        values["features"].astype(np.float32), whole["features"].astype(np.float32), rtol=0.05, atol=0.02
    )


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 200_000))
def test_no_group_passes_the_limit(encoder, limit):
    _, chain, _ = encoder
    groups = chain.in_groups(chain.tensors, limit)
    assert [name for group in groups for name in group] == list(chain.tensors)
    for group in groups:
        assert sum(chain.tensors[name].nbytes for name in group) <= limit or len(group) == 1


def test_weights_are_linked_not_copied(encoder, tmp_path):
    bundle, _, _ = encoder
    link_weights(bundle.onnx_path("vision_encoder"), tmp_path)
    original = bundle.path / "vision_encoder.onnx.data"
    linked = tmp_path / original.name
    assert linked.samefile(original)
    assert not linked.is_symlink()


def test_weights_are_copied_where_links_cannot_be(encoder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    bundle, _, _ = encoder
    link_weights(bundle.onnx_path("vision_encoder"), tmp_path)
    original = bundle.path / "vision_encoder.onnx.data"
    copied = tmp_path / original.name
    assert not copied.samefile(original)
    assert copied.read_bytes() == original.read_bytes()


def test_weights_that_would_lie_elsewhere_are_refused(tmp_path):
    """A bundle may come from anybody."""
    weight = numpy_helper.from_array(np.zeros((8, 8), np.float32), "w")
    model = proto([node("MatMul", ["x", "w"], ["y"])], [("x", FLOAT, [4, 8])], [("y", FLOAT, [4, 8])], {})
    onnx.external_data_helper.set_external_data(weight, "../w.data")
    weight.ClearField("raw_data")
    model.graph.initializer.append(weight)
    path = tmp_path / "bundle" / "graph.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    (tmp_path / "w.data").write_bytes(bytes(256))
    (tmp_path / "parts" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match="no plain name"):
        link_weights(path, tmp_path / "parts" / "inner")
    assert not (tmp_path / "parts" / "w.data").exists()


def test_the_bundle_is_not_touched(encoder, tmp_path):
    bundle, chain, _ = encoder
    before = sorted(path.name for path in bundle.path.iterdir())
    link_weights(bundle.onnx_path("vision_encoder"), tmp_path)
    write_part(chain, ["features"], tmp_path)
    assert sorted(path.name for path in bundle.path.iterdir()) == before
    open_bundle(bundle.path)


def test_dtypes_that_no_declared_tensor_has(tmp_path):
    nodes = [node("Cast", ["x"], ["whole"], to=7), node("Equal", ["whole", "whole"], ["same"])]
    chain = Chain(save(proto(nodes, [("x", HALF, [3])], [("same", BOOL, [3])]), tmp_path))
    path, graph = write_part(chain, ["whole", "same"], tmp_path)
    made = OrtSession(path, graph).run({"x": np.array([1, 2, 3], np.float16)})
    assert made["whole"].tolist() == [1, 2, 3]
    assert made["whole"].dtype == np.int64
    assert chain.tensors["whole"].nbytes == 24


def test_a_graph_that_cannot_be_taken_apart(tmp_path):
    dynamic = save(proto([node("Relu", ["x"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])]), tmp_path)
    with pytest.raises(GraphError, match=r"'y' of graph\.onnx has no static shape"):
        Chain(dynamic)
    inner = proto([node("Relu", ["x"], ["z"])], [], [("z", FLOAT, [2])]).graph
    branch = [node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)]
    nested = proto(branch, [("x", FLOAT, [2]), ("flag", BOOL, [])], [("y", FLOAT, [2])])
    with pytest.raises(GraphError, match="nodes that hold graphs"):
        Chain(save(nested, tmp_path))
    with pytest.raises(UserError, match="Cannot read"):
        Chain(tmp_path / "missing.onnx")

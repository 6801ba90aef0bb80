"""Parts of a graph: cut, marked, bounded in bytes, and computing what the whole graph computes."""

import numpy as np
import pytest
from helpers_graphs import BOOL, FLOAT, HALF, node, proto, save
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm_export.bundle.opened import open_bundle
from sttm_export.drift.marking import Chain, in_groups, share_weights, write_part
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


def test_tensors_alive_between_nodes(diamond):
    assert diamond.alive(1) == ["a"]
    assert diamond.alive(2) == ["a", "b"]
    assert diamond.alive(3) == ["b", "c"]
    assert diamond.alive(6) == ["e"]


def test_a_part_reads_what_is_made_before_it(diamond):
    assert diamond.feeds(range(2, 4)) == ["a", "b"]
    assert diamond.feeds(range(2)) == ["x"]
    assert diamond.marks(range(3, 6)) == ["d", "e"]  # nothing reads `unused`


def test_boundaries_are_where_everything_passes(diamond):
    # One module, so the last of them stands for all.
    assert diamond.boundaries() == ["e"]


def test_boundaries_of_a_network_are_the_ends_of_its_blocks(encoder):
    _, chain, _ = encoder
    modules = [chain.tensors[name].module for name in chain.boundaries()]
    assert modules[:4] == ["tower.patch_embedding", "tower", "tower.layers.0", "tower.layers.1"]
    assert chain.boundaries()[-1] == "features"


def test_unneeded_nodes_are_left_out(diamond, tmp_path):
    path, graph = write_part(diamond, diamond.inputs, ["c"], tmp_path, "cut")
    assert [row.op_type for row in Chain(path).nodes] == ["Relu", "Abs"]
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in graph.outputs] == [("c", (4, 8), "float32")]


def test_a_part_starts_where_it_is_fed(diamond, tmp_path):
    path, graph = write_part(diamond, ["a", "b", "x"], ["d"], tmp_path, "cut")
    assert [row.op_type for row in Chain(path).nodes] == ["Abs", "Add"]
    assert [tensor.name for tensor in graph.inputs] == ["a", "b"]


@pytest.mark.parametrize("limit", [1, 5_000, 20_000, 1 << 30])
def test_steps_compute_what_the_whole_graph_does(encoder, tmp_path, limit):
    bundle, chain, inputs = encoder
    share_weights(chain, tmp_path)
    values = dict(inputs)
    steps = chain.steps(limit)
    assert [index for part in steps for index in part] == list(range(len(chain.nodes)))
    for part in steps:
        path, graph = write_part(chain, chain.feeds(part), chain.marks(part), tmp_path)
        values |= OrtSession(path, graph).run({tensor.name: values[tensor.name] for tensor in graph.inputs})
    whole = OrtSession(bundle.onnx_path("vision_encoder"), bundle.graph("vision_encoder")).run(inputs)
    np.testing.assert_allclose(
        values["features"].astype(np.float32), whole["features"].astype(np.float32), rtol=0.05, atol=0.02
    )


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 200_000))
def test_no_step_passes_the_limit(encoder, limit):
    _, chain, _ = encoder
    for part in chain.steps(limit):
        sizes = [tensor.nbytes for tensor in chain.tensors.values() if tensor.node in part]
        assert sum(sizes) <= limit or len(sizes) == 1
    for group in in_groups(chain.tensors, chain, limit):
        assert sum(chain.tensors[name].nbytes for name in group) <= limit or len(group) == 1


def test_weights_are_linked_not_copied(encoder, tmp_path):
    bundle, chain, _ = encoder
    share_weights(chain, tmp_path)
    share_weights(chain, tmp_path)  # a second time does no harm
    original = bundle.path / "vision_encoder.onnx.data"
    linked = tmp_path / original.name
    assert linked.samefile(original)
    assert not linked.is_symlink()


def test_weights_are_copied_where_links_cannot_be(encoder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    bundle, chain, _ = encoder
    share_weights(chain, tmp_path)
    original = bundle.path / "vision_encoder.onnx.data"
    copied = tmp_path / original.name
    assert not copied.samefile(original)
    assert copied.read_bytes() == original.read_bytes()


def test_the_bundle_is_not_touched(encoder, tmp_path):
    bundle, chain, _ = encoder
    before = sorted(path.name for path in bundle.path.iterdir())
    share_weights(chain, tmp_path)
    write_part(chain, chain.inputs, ["features"], tmp_path)
    assert sorted(path.name for path in bundle.path.iterdir()) == before
    open_bundle(bundle.path)


def test_dtypes_that_no_declared_tensor_has(tmp_path):
    nodes = [node("Cast", ["x"], ["whole"], to=7), node("Equal", ["whole", "whole"], ["same"])]
    chain = Chain(save(proto(nodes, [("x", HALF, [3])], [("same", BOOL, [3])]), tmp_path))
    path, graph = write_part(chain, chain.inputs, ["whole", "same"], tmp_path, "cut")
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

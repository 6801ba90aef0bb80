"""The traced program as a reference: which tensor comes from which node, and what it should hold."""

import numpy as np
import pytest
import torch
from helpers_graphs import tiny_inputs, tiny_module, tiny_spec
from torch import nn

from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.drift.parts import Chain, link_weights, write_part
from sttm_export.drift.reference import Reference
from sttm_export.graphs.export import export_graph
from sttm_export.runtime.ort_session import OrtSession


@pytest.fixture(scope="module", params=["float32", "float16"])
def pair(request, tmp_path_factory):
    """A small module as an ONNX graph and as a reference."""
    dtype = request.param
    path = export_graph(tiny_module(dtype), tiny_spec(dtype), tmp_path_factory.mktemp(dtype))
    return dtype, path, Chain(path), Reference(tiny_module(dtype), tiny_spec(dtype))


def test_nodes_have_the_names_of_the_exported_graph(pair):
    _, _, chain, reference = pair
    assert reference.node_names == chain.node_names
    assert set(reference.counterparts) <= set(chain.tensors)
    missing = set(chain.tensors) - set(reference.counterparts)
    assert len(missing) <= 3, missing


def test_declared_outputs_have_counterparts(pair):
    reference = pair[3]
    assert {"tokens", "num_tokens", "assignment", "converged"} <= set(reference.counterparts)


def test_the_product_inside_a_linear_layer_is_known(pair):
    _, _, chain, reference = pair
    product = next(name for name, tensor in chain.tensors.items() if tensor.op == "MatMul")
    assert reference.counterparts[product].without_bias
    assert chain.tensors[product].module == "project"


def test_the_whole_run_is_the_module_in_float32(pair):
    dtype, _, _, reference = pair
    inputs = tiny_inputs(dtype)
    names = ["tokens", "num_tokens", "assignment", "converged"]
    found = dict(reference.run(inputs, names))
    module = tiny_module(dtype).float()
    given = [torch.from_numpy(np.asarray(value)) for value in inputs.values()]
    expected = module(given[0].float(), *given[1:])
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=1e-6)
    assert found["tokens"].dtype == np.float32, "float16 is widened everywhere"


def all_tensors(path, chain, inputs, directory):
    link_weights(path, directory)
    part, graph = write_part(chain, chain.marks(len(chain.operators)), directory)
    return OrtSession(part, graph).run(inputs)


def test_a_step_takes_the_candidates_own_values(pair, tmp_path):
    """An error in one tensor is expected in those that are computed from it, and so is not held against them."""
    dtype, path, chain, reference = pair
    inputs = tiny_inputs(dtype)
    made = all_tensors(path, chain, inputs, tmp_path)
    product = next(name for name, tensor in chain.tensors.items() if tensor.op == "MatMul")
    linear = next(
        name
        for name, part in reference.counterparts.items()
        if part.node is reference.counterparts[product].node and not part.without_bias
    )
    made[linear] = made[linear] + np.asarray(1, made[linear].dtype)
    made["tokens"] = made["tokens"] + np.asarray(1, dtype)
    reference.start(inputs)
    expected = {name: value for name, value, _ in reference.step(made)}
    assert np.abs(made[linear] - expected[linear]).min() > 0.9
    after = next(
        name
        for name in expected
        if chain.tensors[name].made > chain.tensors[linear].made and expected[name].dtype.kind == "f"
    )
    # A transpose or a cast of it: computed from the shifted tensor, not from the one PyTorch would have made.
    np.testing.assert_allclose(made[after].astype(np.float32) + 1, expected[after], atol=4e-3)
    # Whole numbers come in the candidate's dtype, whatever the clean-up narrowed.
    assert all(expected[name].dtype == made[name].dtype for name in expected if made[name].dtype.kind != "f")


def test_nothing_is_kept_that_nobody_will_read(pair, tmp_path):
    dtype, path, chain, reference = pair
    inputs = tiny_inputs(dtype)
    made = all_tensors(path, chain, inputs, tmp_path)
    reference.start(inputs)
    most = 0
    for name, value in made.items():
        list(reference.step({name: value}))
        most = max(most, len(reference._known))
    assert most < len(made) / 2
    assert not reference._known


def test_steps_of_any_size_give_the_same(pair, tmp_path):
    dtype, path, chain, reference = pair
    inputs = tiny_inputs(dtype)
    made = all_tensors(path, chain, inputs, tmp_path)
    reference.start(inputs)
    at_once = {name: value for name, value, _ in reference.step(made)}
    reference.start(inputs)
    for name, value in made.items():
        for same, expected, _ in reference.step({name: value}):
            np.testing.assert_array_equal(expected, at_once[same])


def test_a_tensor_says_where_it_comes_from(pair):
    _, _, chain, reference = pair
    product = next(name for name, tensor in chain.tensors.items() if tensor.op == "MatMul")
    assert reference.origin(product).module == "project (Linear)"
    assert reference.origin("tokens").module == "TinyMerger"


class Scatters(nn.Module):
    """Two sources for one place: PyTorch does not say which wins."""

    def forward(self, x):
        index = torch.clamp(x, max=2).long()
        return torch.zeros(4, dtype=torch.int32).scatter(0, index, torch.arange(4, dtype=torch.int32))


def test_places_that_several_sources_write_to_are_left_open():
    spec = GraphSpec("scatters", (TensorSpec("x", (4,), "int32", ""),), (TensorSpec("y", (4,), "int32", ""),))
    reference = Reference(Scatters(), spec)
    inputs = {"x": np.array([0, 2, 3, 1], np.int32)}
    reference.start(inputs)
    made = {"y": np.array([0, 3, 1, 0], np.int32)}
    (undefined,) = [mask for name, _, mask in reference.step(made) if name == "y"]
    assert undefined.tolist() == [False, False, True, False]

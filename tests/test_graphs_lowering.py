"""Programs that PyTorch need not decompose: the same values, and a refusal where it would have had to."""

import numpy as np
import pytest
import torch
from helpers_graphs import run, same_bits
from torch import nn

from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.graphs.export import export_graph
from sttm_export.graphs.faults import GraphError

ODD = np.array([[0.0, -0.0, 1e-45], [1e-8, 1.5, 3e38], [np.inf, -np.inf, np.nan], [1e-9, -1e-8, 1e19]], np.float32)


def spec(shape):
    return GraphSpec("lowered", (TensorSpec("x", (4, 3), "float32", ""),), (TensorSpec("y", shape, "float32", ""),))


class Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        pytest.param(lambda x: x.transpose(0, 1).reshape(12), (12,), id="a reshape that copies"),
        pytest.param(lambda x: x.flatten().unflatten(0, (2, 6)).view(3, 4) + 0, (3, 4), id="views"),
        pytest.param(lambda x: torch.from_numpy(np.eye(3, dtype=np.float32)).T + x[:3], (3, 3), id="T"),
        pytest.param(lambda x: 1.0 - x, (4, 3), id="a number less a tensor"),
        pytest.param(lambda x: ((x > 0) & (x < 2)).float(), (4, 3), id="and"),
        pytest.param(lambda x: (x * 2).float(), (4, 3), id="a cast that does nothing makes the output"),
        pytest.param(lambda x: x.half().float(), (4, 3), id="casts"),
        pytest.param(lambda x: x / (x.abs() + 1e-8), (4, 3), id="a small constant"),
    ],
)
def test_the_graph_gives_what_the_module_gives(function, shape, tmp_path):
    path = export_graph(Module(function), spec(shape), tmp_path)
    same_bits([function(torch.from_numpy(ODD)).numpy()], run(path, {"x": ODD}))


def test_a_program_that_writes_in_place_is_refused(tmp_path):
    with pytest.raises(GraphError, match=r"writes in place \(aten.add_.Tensor"):
        export_graph(Module(lambda x: (x * 1).add_(1.0)), spec((4, 3)), tmp_path)
    assert not list(tmp_path.iterdir())

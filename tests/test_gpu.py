"""An engine for real: runs where there is a GPU with the TensorRT of a target, and is skipped aloud elsewhere.

`pytest tests/test_gpu.py -rs` on a Jetson or a GPU host. Nothing here is pretended, and nothing takes a time.
"""

import numpy as np
import pytest
from helpers_trt import MIXED, mixed_inputs, mixed_outputs, write_mixed

from sttm_export.contracts.target import targets
from sttm_export.engines.api import UnavailableError
from sttm_export.engines.build import EngineRequest, build_engine, check_available
from sttm_export.engines.driver import ask_gpu
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.trt_session import TrtSession


def find_here():
    """A target whose engines can be built and run on this machine, with the GPU; or None and why."""
    gpu, fault = ask_gpu()
    if gpu is None:
        return None, None, fault
    fitting = [target for target in targets().values() if gpu.compute_capability in target.compute_capabilities]
    reasons = [f"no target has a GPU of {gpu.compute_capability}"] if not fitting else []
    for target in fitting:
        try:
            check_available(target)
        except UnavailableError as error:
            reasons.append(str(error))
        else:
            return target, gpu.compute_capability, ""
    return None, None, " ".join(reasons)


TARGET, CAPABILITY, WHY = find_here()
pytestmark = pytest.mark.skipif(TARGET is None, reason=WHY)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    request = EngineRequest(write_mixed(folder), TARGET, CAPABILITY if TARGET.builds_without_gpu else None)
    result = build_engine(request, folder / "mixed.engine")
    assert result.status == "built", result.reason
    return result


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_engine_gives_what_onnx_runtime_gives(built, cuda_graph):
    """One product of float16 numbers, integers and a comparison: equal to the last bit, run after run."""
    reference = OrtSession(built.path.with_name("mixed.onnx"), MIXED)
    with TrtSession(built.path, MIXED, cuda_graph=cuda_graph) as session:
        for k in (2, 9, -1):
            expected, found = reference.run(mixed_inputs(k)), session.run(mixed_inputs(k))
            for name, array in mixed_outputs(k).items():
                np.testing.assert_array_equal(expected[name], array)
                np.testing.assert_array_equal(found[name], array)


def test_it_is_of_this_gpu_and_lists_its_layers(built):
    assert built.options["compute_capability"] == CAPABILITY
    with TrtSession(built.path, MIXED) as session:
        assert session.layers()
        assert len(session.measure(mixed_inputs(), 3)) == 3


def test_a_second_build_starts_from_the_kernel_times_of_the_first(built):
    request = EngineRequest(built.path.with_name("mixed.onnx"), TARGET)
    again = build_engine(request, built.path.with_name("b.engine"))
    assert again.timings == ("" if TARGET.builds_without_gpu else "kept")

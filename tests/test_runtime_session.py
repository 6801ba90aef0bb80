import subprocess
import sys

import helpers_runtime as helpers
import numpy as np
import pytest

from sttm_export.errors import UserError
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.session import check_inputs, check_outputs

X, K = np.ones((2, 3), np.float32), np.array(2, np.int32)


@pytest.mark.parametrize("options", [{}, {"threads": 1, "low_memory": True}])
def test_runs(tmp_path, options):
    session = OrtSession(helpers.write_adder(tmp_path / "adder.onnx"), helpers.ADDER, **options)
    assert np.array_equal(session.run({"x": X, "k": K})["y"], X + 2)
    assert "CPUExecutionProvider" in session.backend
    assert session.graph is helpers.ADDER


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X}, "input 'k' is missing"),
        ({"x": X, "k": K, "z": K}, "unknown input 'z'"),
        ({"x": X[:1], "k": K}, r"'x' has shape \[1, 3\], expected \[2, 3\]"),
        ({"x": X.astype(np.float64), "k": K}, "'x' is float64, expected float32"),
        ({"x": X[:1], "k": K.astype(np.int64)}, "shape.*'k' is int64"),
    ],
)
def test_inputs_are_checked(inputs, message):
    with pytest.raises(UserError, match=message):
        check_inputs(helpers.ADDER, inputs)


def test_outputs_are_checked():
    with pytest.raises(UserError, match=r"output 'y' is missing.*export the bundle again"):
        check_outputs(helpers.ADDER, {})


def test_corrupt_model(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not a model at all" * 10)
    with pytest.raises(UserError, match="cannot load") as caught:
        OrtSession(path, helpers.ADDER)
    assert "\n" not in str(caught.value)


def test_another_graph(tmp_path):
    with pytest.raises(UserError, match="its outputs are other, expected y"):
        OrtSession(helpers.write_adder(tmp_path / "a.onnx", output_name="other"), helpers.ADDER)


def test_missing_file_provider_threads(tmp_path):
    with pytest.raises(UserError, match="no graph at"):
        OrtSession(tmp_path / "none.onnx", helpers.ADDER)
    path = helpers.write_adder(tmp_path / "adder.onnx")
    with pytest.raises(UserError, match="Did you mean 'CPUExecutionProvider'"):
        OrtSession(path, helpers.ADDER, provider="CPUExecutionProvide")
    with pytest.raises(UserError, match="threads are not possible"):
        OrtSession(path, helpers.ADDER, threads=-1)


def test_runtime_failure_is_one_sentence(tmp_path, monkeypatch):
    session = OrtSession(helpers.write_adder(tmp_path / "adder.onnx"), helpers.ADDER)

    class Broken:
        def run(self, *_):
            raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(session, "_session", Broken())
    with pytest.raises(UserError, match=r"could not run adder.onnx: first line"):
        session.run({"x": X, "k": K})


def test_imports_stay_light():
    modules = [
        "sampling",
        "video",
        "probe",
        "preprocess",
        "session",
        "ort_session",
        "pipeline",
        "merged",
        "draw",
        "sample_clips",
    ]
    modules = [f"sttm_export.runtime.{name}" for name in modules]
    modules += [f"sttm_export.validation.{name}" for name in ("stages", "results", "decisions", "report")]
    heavy = ["torch", "transformers", "onnxruntime", "onnx", "av", "PIL", "jinja2"]
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
    )

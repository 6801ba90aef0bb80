import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttm_export.errors import UserError
from sttm_export.validation import metrics
from sttm_export.validation.gates import derive_tolerance, format_of_sums, judge, unit_roundoff
from sttm_export.validation.metrics import FloatComparison, compare

RNG = np.random.default_rng(1)
X = RNG.standard_normal((5, 7, 33)).astype(np.float32)
FP32 = derive_tolerance(store="float32", length=512, layers=1)


def test_equal_arrays():
    c = compare(X, X)
    assert (c.rows, c.cosine_min, c.norm_ratio_min, c.norm_ratio_max) == (35, 1.0, 1.0, 1.0)
    assert c.max_abs == c.relative_frobenius == c.relative_needed == c.atol_needed == 0.0
    assert c.sqnr_db == math.inf


def test_figures_against_plain_numpy():
    y = X + RNG.standard_normal(X.shape).astype(np.float32) * 1e-2
    c = compare(y, X, rtol=1e-2)
    a, e = y.reshape(-1, 33).astype(float), X.reshape(-1, 33).astype(float)
    cosine = (a * e).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(e, axis=1)
    ratio = np.linalg.norm(a, axis=1) / np.linalg.norm(e, axis=1)
    assert c.cosine_min == pytest.approx(cosine.min())
    assert c.cosine_mean == pytest.approx(cosine.mean())
    assert (c.norm_ratio_min, c.norm_ratio_max) == pytest.approx((ratio.min(), ratio.max()))
    assert c.max_abs == pytest.approx(np.abs(a - e).max())
    assert c.mean_abs == pytest.approx(np.abs(a - e).mean())
    assert c.relative_frobenius == pytest.approx(np.linalg.norm(a - e) / np.linalg.norm(e))
    assert c.sqnr_db == pytest.approx(-20 * np.log10(c.relative_frobenius))
    assert np.allclose(a, e, rtol=1e-2, atol=c.atol_needed * (1 + 1e-9))
    assert not np.allclose(a, e, rtol=1e-2, atol=c.atol_needed * 0.99)
    assert c.worst_row == np.maximum(np.sqrt(2 * (1 - cosine)), np.abs(ratio - 1)).argmax()


def test_scale_is_seen_by_the_norm_alone():
    c = compare(X * np.float32(1.1), X)
    assert c.cosine_min > 1 - 1e-13
    assert c.norm_ratio_max == pytest.approx(1.1, rel=1e-6)
    gate = judge(c, FP32)
    assert not gate.passed
    assert "norm ratio rises to 1.1" in gate.reason
    assert "cosine" not in gate.reason
    assert gate.needed == pytest.approx(0.1, rel=1e-5)


def test_direction_is_seen_by_the_cosine_alone():
    y = X.copy()
    y[2, 3] = np.roll(y[2, 3], 1)
    gate = judge(compare(y, X), FP32)
    assert not gate.passed
    assert "cosine falls" in gate.reason
    assert "norm" not in gate.reason
    assert compare(y, X).worst_row == 2 * 7 + 3


def test_tiny_angles_are_resolved():
    y = X.astype(np.float64)
    y[0, 0, 0] += 1e-9
    assert 1e-11 < compare(y, X).relative_needed < 1e-8


def test_zero_rows():
    a, e = np.ones((4, 3)), np.ones((4, 3))
    a[0] = e[0] = 0  # both: equal
    c = compare(a, e)
    assert (c.cosine_min, c.norm_ratio_min, c.norm_ratio_max) == (1.0, 1.0, 1.0)
    a[1] = 0  # lost
    assert compare(a, e).cosine_min == 0.0
    assert compare(a, e).norm_ratio_min == 0.0
    e[2] = 0  # appeared
    assert compare(a, e).norm_ratio_max == math.inf
    assert not judge(compare(a, e), FP32).passed


def test_rounding_noise_in_a_zero_row_is_no_error():
    a, e = np.ones((4, 3)), np.ones((4, 3))
    a[0], e[0] = 1e-9, 0.0
    assert compare(a, e).cosine_min == 1.0


def test_all_zero_and_empty():
    assert compare(np.zeros((2, 3)), np.zeros((2, 3))).relative_frobenius == 0.0
    assert compare(np.ones((2, 3)), np.zeros((2, 3))).sqnr_db == -math.inf
    empty = compare(np.zeros((0, 3)), np.zeros((0, 3)))
    assert empty.rows == 0
    assert empty.worst_row == -1
    assert judge(empty, FP32).passed


def test_nonfinite_is_counted_and_left_out():
    a, e = X.copy(), X.copy()
    a[0, 0, :2] = np.nan
    e[0, 0, 0] = np.inf
    c = compare(a, e)
    assert (c.nonfinite_actual, c.nonfinite_expected, c.nonfinite_differing, c.rows) == (2, 1, 1, 34)
    assert c.cosine_min == 1.0
    assert "NaN or Inf on one side only" in judge(c, FP32).reason
    everything = np.full((2, 2), np.nan)
    assert not judge(compare(everything, everything), FP32).passed


def test_float16_extremes_do_not_overflow():
    x = np.full((3, 4096), 60000, np.float16)
    c = compare(x, x)
    assert c.cosine_min == 1.0
    assert c.relative_frobenius == 0.0
    assert c.nonfinite_actual == 0


def test_chunks_give_the_same_figures(monkeypatch):
    y = X + np.float32(1e-3)
    whole = compare(y, X)
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", 40)
    assert compare(y, X).to_json() == pytest.approx(whole.to_json(), rel=1e-12)


def test_memory_stays_far_below_a_copy():
    a = np.ones((8, 196, 1024), np.float16)
    tracemalloc.start()
    compare(a, a)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * metrics._CHUNK_ELEMENTS * 8 < 2 * a.size * 8


def test_shapes_must_agree():
    with pytest.raises(UserError, match=r"\[2, 3\] with \[3, 2\]"):
        compare(np.zeros((2, 3)), np.zeros((3, 2)))


def test_json_round_trip():
    c = compare(X, X)
    assert FloatComparison.from_json(json.loads(json.dumps(c.to_json(), allow_nan=False))) == c


@given(st.floats(1e-8, 0.3), st.integers(0, 2**32 - 1))
def test_the_needed_tolerance_passes_and_less_does_not(size, seed):
    y = X * np.float32(1) + np.random.default_rng(seed).standard_normal(X.shape) * size
    c = compare(y, X)
    enough = type(FP32)(c.relative_needed * (1 + 1e-6) + 1e-12, "")
    less = type(FP32)(c.relative_needed * 0.9, "")
    assert judge(c, enough).passed
    assert not judge(c, less).passed


def test_tolerances_follow_dtype_depth_and_length():
    def eps(**options):
        return derive_tolerance(**{"store": "float32", "length": 1024, "layers": 4, **options}).relative

    assert eps(store="float16") > 100 * eps()
    assert eps(store="bfloat16") > 7 * eps(store="float16")
    assert eps(layers=16) == pytest.approx(2 * eps())
    assert eps(length=1 << 20) > 5 * eps()
    assert eps(accumulate="tf32") > 500 * eps()


def test_tolerances_bracket_measured_errors():
    """SigLIP-so400m, 26 layers: float32 against float32 6.0e-7, float16 against float16 9.7e-4 (docs/models.md)."""
    fp32 = derive_tolerance(store="float32", length=4304, layers=26).relative
    fp16 = derive_tolerance(store="float16", length=4304, layers=26).relative
    assert 4 * 6.0e-7 < fp32 < 40 * 6.0e-7
    assert 4 * 9.7e-4 < fp16 < 40 * 9.7e-4


def test_derivation_is_spelled_out():
    t = derive_tolerance(store="float16", length=512, layers=26)
    assert t.derivation == f"2·√26·(u(float16)·√8 + u(float32)·√(512/16) + u(float32)·4) = {t.relative:.3g}"
    t = derive_tolerance(store="float16", length=512, layers=26, accumulate="float16")
    assert t.derivation == f"2·√26·(u(float16)·√8 + u(float16)·√(512/16) + u(float32)·4) = {t.relative:.3g}"


def test_float16_sums_are_as_wrong_as_derived():
    """Sums as a tensor core with float16 accumulators makes them: 16 products exactly, then one rounding a tile."""
    rng = np.random.default_rng(0)
    for length in (256, 4304):
        factors = rng.standard_normal((400, 2, length)).astype(np.float16).astype(np.float64)
        products = (factors[:, 0] * factors[:, 1]).reshape(400, -1, 16).sum(-1)
        total = np.zeros(400, np.float16)
        for tile in products.T:
            total = (total.astype(np.float64) + tile).astype(np.float16)
        exact = products.sum(-1)
        measured = np.linalg.norm(total - exact) / np.linalg.norm(exact)
        chain = unit_roundoff("float16") * np.sqrt(length / 16)
        assert 0.2 * chain < measured < chain, "one sum, without the margin"
    wide = derive_tolerance(store="float16", length=4304, layers=28).relative
    narrow = derive_tolerance(store="float16", length=4304, layers=28, accumulate="float16").relative
    assert (round(wide, 3), round(narrow, 3)) == (0.015, 0.099), "the figures of the text"


@pytest.mark.parametrize(
    ("store", "accumulate", "backend", "machine", "sums"),
    [
        ("float16", "fp32", "tensorrt 10.3.0", "aarch64", "float32"),
        ("float16", "default", "tensorrt 10.3.0", "aarch64", "float16"),
        ("float32", "default", "tensorrt 10.3.0", "aarch64", "float32"),
        ("float16", "default", "onnxruntime 1.32.0 CPUExecutionProvider", "x86_64", "float32"),
        ("float16", "default", "onnxruntime 1.32.0 CPUExecutionProvider", "aarch64", "float16"),
        ("float16", "default", "onnxruntime 1.32.0 CUDAExecutionProvider", "x86_64", "float16"),
    ],
)
def test_what_a_stage_sums_in(monkeypatch, store, accumulate, backend, machine, sums):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert format_of_sums(store, accumulate, backend) == sums


def test_unknown_format():
    with pytest.raises(UserError, match="Did you mean 'float16'"):
        unit_roundoff("flaot16")

"""One tensor against its band, and the search for the first that is out of it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttm_export.drift.checks import Check, Place, check_tensor
from sttm_export.drift.report import DriftReport
from sttm_export.drift.search import until_out
from sttm_export.errors import UserError, ValidationMiss
from sttm_export.validation.gates import derive_tolerance

RANDOM = np.random.default_rng(0)


def place(dtype="float32", **fields):
    return Place(
        "layers.1.mlp/MatMul_3_out0", "MatMul", "layers.1.mlp (MLP)", "siglip.py:64 (forward)", "", dtype, **fields
    )


def rows(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_rounding_to_float16_is_in_band_and_a_percent_is_not():
    expected = rows(8, 32)
    rounded = expected.astype(np.float16)
    check = check_tensor(rounded, expected, place("float16", summed=64))
    assert check.passed
    assert 0 < check.measured < check.allowed
    assert check.allowed == derive_tolerance(store="float16", length=64, layers=1).relative
    assert "√" in check.band
    wrong = check_tensor((rounded * np.float16(1.01)), expected, place("float16", summed=64))
    assert not wrong.passed
    assert wrong.measured == pytest.approx(0.01, rel=0.1)
    assert not wrong.overflowed


def test_one_wrong_row_is_enough():
    expected = rows(1000, 32)
    actual = expected.copy()
    actual[517] *= 1.001
    assert not check_tensor(actual, expected, place()).passed
    assert check_tensor(expected.copy(), expected, place()).measured == 0


def test_depth_and_sums_widen_the_band():
    expected = rows(8, 32)
    actual = (expected * (1 + 4e-3)).astype(np.float32)
    assert not check_tensor(actual, expected, place("float16", blocks=1)).passed
    assert check_tensor(actual, expected, place("float16", blocks=20)).passed


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.bool_])
def test_whole_numbers_must_be_equal(dtype):
    expected = np.array([[0, 1, 1, 0]], dtype)
    same = check_tensor(expected.copy(), expected, place(str(np.dtype(dtype))))
    assert (same.passed, same.differing, same.measured) == (True, 0, 0.0)
    actual = expected.copy()
    actual[0, 2] = 0
    other = check_tensor(actual, expected, place(str(np.dtype(dtype))))
    assert (other.passed, other.differing, other.reason) == (False, 1, "1 of 4 elements differ")
    open_there = check_tensor(actual, expected, place(), np.array([[False, False, True, False]]))
    assert open_there.passed


def test_undefined_floats_may_hold_anything():
    expected = rows(4, 16)
    actual = expected.copy()
    actual[1, 3] = np.nan
    assert not check_tensor(actual, expected, place()).passed
    assert check_tensor(actual, expected, place(), np.isnan(actual)).passed


def test_short_rows_are_joined():
    """A dot product that comes out near zero has no relative accuracy of its own."""
    expected = rows(2, 50, 1)
    expected[0, 7, 0] = 1e-9
    actual = expected + np.float32(1e-7)
    assert check_tensor(actual, expected, place()).passed
    actual[1, 3, 0] += np.float32(1e-3)
    assert not check_tensor(actual, expected, place()).passed


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 0)])
def test_small_and_empty_tensors(shape):
    expected = np.ones(shape, np.float32)
    assert check_tensor(expected.copy(), expected, place()).passed
    if expected.size:
        assert not check_tensor(expected * np.float32(1.1), expected, place()).passed


def test_infinities_that_belong_there_do_not_hide_their_row():
    expected = rows(4, 16)
    expected[:, 0] = np.inf
    same = check_tensor(expected.copy(), expected, place())
    assert (same.passed, same.inf, same.expected_nonfinite) == (True, 4, 4)
    actual = expected.copy()
    actual[2, 5] += 1
    assert not check_tensor(actual, expected, place()).passed
    turned = expected.copy()
    turned[2, 0] = -np.inf
    assert "1 elements are another infinity or NaN" in check_tensor(turned, expected, place()).reason
    turned[2, 0] = np.nan
    assert not check_tensor(turned, expected, place()).passed


def test_nan_where_none_belongs_is_out():
    expected = rows(4, 16)
    actual = expected.copy()
    actual[0, 0] = np.nan
    check = check_tensor(actual, expected, place())
    assert (check.passed, check.nan) == (False, 1)
    assert "NaN or Inf on one side only" in check.reason
    assert check_tensor(actual, actual, place()).passed


def test_an_overflow_is_said_with_its_figures():
    expected = rows(4, 16)
    expected[1, 2] = 81_000.0
    with np.errstate(over="ignore"):
        actual = expected.astype(np.float16)
    check = check_tensor(actual, expected, place("float16"))
    assert check.overflowed
    assert (check.inf, check.high) == (1, 81_000.0)
    said = check.sentence
    assert "the reference reaches 8.1e+04, float16 ends at 65504" in said
    assert "keep this in float32" in said
    assert "layers.1.mlp (MLP)" in said
    # The same numbers in float32 are no overflow, and a fault below the end of float16 is none either.
    assert check_tensor(expected.copy(), expected, place()).passed
    assert not check_tensor(rows(4, 16), rows(4, 16), place("float16")).overflowed


def test_saturating_at_the_end_of_float16_is_an_overflow_too():
    expected = np.full((1, 16), 9e4, np.float32)
    assert check_tensor(np.full((1, 16), 65504, np.float16), expected, place("float16")).overflowed


def test_rounding_below_the_least_normal_float16_is_in_band():
    expected = (rows(4, 16) * 1e-7).astype(np.float32)
    assert check_tensor(expected.astype(np.float16), expected, place("float16")).passed
    assert not check_tensor(np.full((4, 16), 1e-5, np.float16), expected, place("float16")).passed


def test_another_shape_is_another_graph():
    with pytest.raises(UserError, match=r"shape \[2, 3\], PyTorch gives \[3, 2\]"):
        check_tensor(rows(2, 3), rows(3, 2), place())


def made(passed, name="t"):
    return Check(Place(name, "Add", "m", "", "", "float32"), passed, "why", 0.1, 0.2, "", 0, 0, 0, 0, -1.0, 1.0)


@given(pattern=st.lists(st.booleans(), max_size=60))
def test_the_first_is_found_whatever_comes_after_it(pattern):
    asked = []

    def checks():
        for index, passed in enumerate(pattern):
            asked.append(index)
            yield made(passed, str(index))

    kept = [check.passed for check in until_out(checks())]
    looked = pattern.index(False) + 1 if False in pattern else len(pattern)
    assert kept == pattern[:looked]
    assert len(asked) == looked, "looks at nothing behind the first"


def report(boundaries, checks):
    return DriftReport("vision_encoder", "onnxruntime", boundaries, checks, 7, 10, 9, 2)


def test_a_report_without_a_finding():
    clean = report([made(True)], [made(True)])
    assert clean.finding is None
    assert not clean.accumulated
    assert "none of 7 tensors leaves its band (9 of its 10 tensors have a counterpart in PyTorch" in clean.sentence
    clean.raise_on_drift()


def test_an_operator_goes_before_a_boundary():
    found = report([made(True), made(False, "block")], [made(True), made(False, "op")])
    assert found.finding.place.tensor == "op"
    with pytest.raises(ValidationMiss, match=r"'op' .* is the first tensor out of its band: why"):
        found.raise_on_drift()


def test_errors_that_only_add_up_or_only_fusing_makes():
    found = report([made(False, "block")], [made(True)])
    assert found.accumulated
    with pytest.raises(ValidationMiss, match=r"'block', leaves its band .* but no operator up to it does"):
        found.raise_on_drift()


def test_json_holds_numbers_that_json_can_hold():
    wild = Check(Place("t", "Add", "m", "", "", "float16"), False, "why", math.inf, 0.2, "", 0, 1, 2, 0, -1.0, math.inf)
    data = json.loads(json.dumps(report([], [made(True), wild]).to_json(), allow_nan=False))
    assert data["finding"]["measured"] == "inf"
    assert data["finding"]["place"]["tensor"] == "t"
    assert data["checks"][0]["band"] == ""
    assert data["accumulated"] is False
    assert "t" in data["sentence"]

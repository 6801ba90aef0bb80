"""Latency on settled clocks, and what a report says of the three ways to run an engine and of its layers."""

import itertools
import json
import threading

import pytest

from sttm_export.engines.execution import Layer, count_attention, parse_layers
from sttm_export.kit.measure import MemoryWatch, settle
from sttm_export.kit.report import latency_text, readable_report


class Engine:
    """Takes the given milliseconds, window by window; the last ones for ever."""

    def __init__(self, *milliseconds):
        self.times = itertools.chain(milliseconds, itertools.repeat(milliseconds[-1]))
        self.calls = []

    def __call__(self, runs):
        self.calls.append(runs)
        return [next(self.times)] * runs


def test_windows_go_on_until_two_in_a_row_agree():
    """As of a GPU that was idle: the first windows are on low clocks and count for nothing."""
    found = settle(Engine(90.0, 50.0, 30.0, 20.0, 19.9), 10)
    assert found == {"median_ms": 19.9, "min_ms": 19.9, "runs": 10, "windows": 4, "settled": True}


def test_clocks_that_never_settle_are_said():
    found = settle(Engine(*(value for _ in range(30) for value in (10.0, 20.0))), 5)
    assert not found["settled"]
    assert found["windows"] == 20


@pytest.mark.parametrize(
    ("milliseconds", "runs", "windows"), [(1.0, 20, 2), (1_000.0, 5, 2), (15_000.0, 1, 1), (90_000.0, 1, 1)]
)
def test_slow_engines_are_timed_less_often(milliseconds, runs, windows):
    engine = Engine(milliseconds)
    found = settle(engine, 20)
    assert (found["runs"], found["windows"], found["median_ms"]) == (runs, windows, milliseconds)
    assert found["settled"] == (windows > 1), "one window alone has settled nothing"
    assert sum(engine.calls) * milliseconds <= max(25_000.0, 2 * milliseconds)


def test_layers_are_read_with_and_without_details():
    rows = [
        {"Name": "_gemm_mha_v2_myl0_17", "LayerType": "kgen", "TacticName": "_gemm_mha_v2_0x957a", "StreamId": 0},
        {"Name": "fc1", "LayerType": "gemm", "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f16_nn_n"},
        {"Name": "attention", "LayerType": "fusion", "TacticName": "fmha_v2_flash_attention_fp16_S_72_sm86"},
    ]
    layers = parse_layers(json.dumps({"Layers": rows, "Bindings": []}))
    assert layers[1] == Layer("fc1", "gemm", "sm80_xmma_gemm_f16f16_f16f32_f16_nn_n")
    assert count_attention(layers) == 2
    assert count_attention(parse_layers('{"Layers": ["_gemm_mha_v2_myl0_17", "__myl_MulSum_myl0_1"]}')) == 1
    with pytest.raises(ValueError, match="Expecting value"):
        parse_layers("no JSON")


FIGURE = {"median_ms": 2.0, "min_ms": 1.5, "runs": 20, "windows": 3, "settled": True}


@pytest.fixture
def report():
    """As little as a report can hold."""
    return {
        "model": "Tiny",
        "target": {"title": "Orin"},
        "passed": True,
        "reason": "",
        "machine": {
            "gpu": None,
            "memory": {"total": None},
            "model": "",
            "distribution": "",
            "system": "Linux",
            "processor": "aarch64",
            "l4t": "",
            "jetpack": "",
            "tensorrt": {},
            "python": "3.10",
            "numpy": {"version": "1.21"},
            "power": {"mode": "15W", "fastest": "MAXN_SUPER", "number": 2},
        },
        "checks": [],
        "builds": [],
        "validation": None,
        "latency": {},
        "layers": {},
        "attention_blocks": {"vision_encoder": 2},
    }


def test_the_report_says_all_three_figures_and_what_was_not_possible(report):
    report["latency"]["vision_encoder"] = {
        "copies": FIGURE,
        "compute": FIGURE | {"median_ms": 1.0, "settled": False},
        "graph": {"reason": "it cannot be captured"},
    }
    text = readable_report(report)
    assert "| vision_encoder | with copies | 2.00 ms | 1.50 ms | 20 | yes, in 3 windows |" in text
    assert "| vision_encoder | compute alone | 1.00 ms | 1.50 ms | 20 | **no** |" in text
    assert "- vision_encoder: it cannot be captured" in text
    assert "15W (the fastest is MAXN_SUPER: sudo nvpmodel -m 2)" in text
    line = latency_text(report["latency"]["vision_encoder"])
    assert line == "median: 2.00 ms with copies, 1.00 ms compute alone, not possible as a CUDA graph, with copies"


def test_the_report_says_whether_attention_is_fused(report):
    layers = [{"name": "_gemm_mha_v2_myl0_1", "kind": "kgen", "kernel": "_gemm_mha_v2_0x1"}]
    layers += [{"name": "x" * 200, "kind": "gemm", "kernel": ""}]
    report["layers"] = {
        "vision_encoder": {"layers": layers, "reason": ""},
        "token_merger": {"layers": [], "reason": "the inspector of tensorrt 10.3.0 gave no layers"},
    }
    text = readable_report(report)
    assert "vision_encoder: 2 layers. Attention is fused in 1 of 2 blocks, by the names of kernels." in text
    assert "| 1 | _gemm_mha_v2_myl0_1 | kgen | _gemm_mha_v2_0x1 |" in text
    assert "x" * 101 not in text
    assert "token_merger: layers were not listed: the inspector of tensorrt 10.3.0 gave no layers." in text


def test_the_least_free_memory_is_seen_from_outside():
    """What is on a Jetson's GPU is in no process; only the machine's own figure shows it."""
    values = iter([900, 700, 200, 650])
    seen = threading.Event()

    def read():
        value = next(values, None)
        if value is None:
            seen.set()
        return value

    with MemoryWatch(read, 0.001) as watch:
        assert seen.wait(10)
    assert watch.facts() == {"free_before": 900, "least_free": 200, "taken": 700}
    with MemoryWatch(lambda: None, 0.001) as watch:
        pass
    assert set(watch.facts().values()) == {None}

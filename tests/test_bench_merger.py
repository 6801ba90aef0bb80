"""The benchmark on a small merger, and what it says where nothing can be measured."""

import argparse
import dataclasses
import json

import helpers_rooms  # noqa: F401
import numpy as np
import pytest

from bench import gpu, merger, timing
from bench.measure import IMPLEMENTATIONS, Settings, export, memory, times
from sttm_export.errors import UserError
from sttm_export.machine import load as machine_load
from sttm_export.timing.clock import interleave

# Policy threshold without a cap has no solver in the graph: the quickest to export.
SMALL = Settings(
    frames=4,
    channels=16,
    budget=1.0,
    policy="threshold",
    thresholds=(0.85, 0.65),
    threads=1,
    provider="cpu",
    runs=3,
    directory="",
    clip="carphone_16x14x14",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = dataclasses.replace(SMALL, directory=str(tmp_path_factory.mktemp("graphs") / "small"))
    exported = export(made)
    assert exported["graph_nodes"] > 100
    assert exported["export_seconds"] > 0
    merger.exported_file(made).write_text(json.dumps(exported))
    return made


def test_all_implementations_are_timed_and_agree(settings):
    row = times(settings)
    assert row["assignment_equal"]
    assert row["converged"]
    assert 0 < row["tokens"] <= row["max_tokens"] == 4 * 196
    assert row["thresholds_applied"] == pytest.approx([0.85, 0.65])
    for name in IMPLEMENTATIONS:
        assert 0 < row[name]["min_ms"] <= row[name]["median_ms"]
    assert row["speedup"] == pytest.approx(row["reference"]["median_ms"] / row["onnxruntime"]["median_ms"], rel=0.05)


def test_a_wrong_assignment_would_be_told(settings, monkeypatch):
    from sttm_export.merging import reference

    def other(*arguments, **constants):
        merged = real(*arguments, **constants)
        return dataclasses.replace(merged, assignment=merged.assignment + 1)

    real = reference.merge
    monkeypatch.setattr(reference, "merge", other)
    row = times(settings)
    assert not row["assignment_equal"]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_memory_of_every_implementation(settings, name):
    assert memory(settings, name)["peak_mib"] >= 0


def test_a_row_is_measured_in_processes_of_its_own_and_stored(settings, tmp_path):
    row = merger.measure(settings, wait=0.0)
    assert all(row[name]["peak_mib"] > 0 for name in IMPLEMENTATIONS)
    line = merger.table_line(row)
    assert "assignment equal" in line
    assert "T=  4" in line
    path = tmp_path / "new" / "result.json"
    merger.store(path, row)
    merger.store(path, {**row, "tokens": 7})
    merger.store(path, {**row, "frames": 2})
    stored = json.loads(path.read_text())
    assert [(one["frames"], one["tokens"]) for one in stored["rows"]] == [(2, row["tokens"]), (4, 7)]
    assert {"cpu", "cores", "memory_gib", "gpu"} == set(stored["device"])
    assert {"python", "torch", "onnxruntime"} <= set(stored["versions"])


def test_a_step_that_fails_is_told(settings):
    broken = dataclasses.replace(settings, directory="/nowhere", clip="bunny_16x14x14")
    with pytest.raises(UserError, match=r"step 'time' at 4 frames ended with 1: .*There is no graph at"):
        merger.run_step("time", broken)


def test_impossible_settings_are_refused_before_anything_runs(capsys):
    assert merger.main(["--frames", "1", "--policies", "budget"]) == 2
    assert "too few for a budget of 0.5" in capsys.readouterr().err
    assert merger.main(["--model", "llava"]) == 2
    assert "Unknown model 'llava'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        merger.main(["--provider", "tpu"])


def test_long_clips_get_fewer_rounds():
    options = merger.parser().parse_args([])
    assert isinstance(options, argparse.Namespace)
    assert [merger.rounds(options.runs, frames) for frames in (16, 64, 128, 256)] == [15, 15, 7, 3]


def test_interleaving_takes_turns():
    order = []
    taken = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=2, warm_up=1)
    assert "".join(order) == "ababab"
    assert {name: len(values) for name, values in taken.items()} == {"a": 2, "b": 2}
    assert timing.summary([3.0, 1.0, 2.04]) == {"median_ms": 2.0, "min_ms": 1.0}


def test_memory_is_the_rise_of_the_peak():
    assert 190 < timing.memory_mib(lambda: np.ones(200 * 2**17)) < 260
    assert timing.memory_mib(lambda: None) >= 0


def test_waiting_for_quiet_has_an_end(monkeypatch):
    loads = iter([3.0, 2.0, 1.0, 1.0])
    monkeypatch.setattr(machine_load, "load", lambda: next(loads))
    assert machine_load.wait_for_quiet(10.0, pause=0.0) == 1.0
    monkeypatch.setattr(machine_load, "load", lambda: 9.0)
    assert machine_load.wait_for_quiet(0.05, pause=0.01) == 9.0


def test_without_a_gpu_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpu_capability", lambda: None)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out.count(".") == 1
    assert gpu.main(["--require"]) == 2
    assert "There is no NVIDIA GPU here" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "gpu_capability", lambda: "sm86")
    assert "has no CUDA" in (gpu.missing() or "has no CUDA")


def test_the_module_can_be_traced_for_another_device(settings):
    """What the GPU part runs, with the CPU for a device: tables and all end up in one program."""
    inputs = settings.inputs()
    traced = gpu.traced_module(settings, inputs, "cpu")()
    outputs = gpu.cpu_outputs(settings, inputs)
    assert int(traced[1]) == int(outputs["num_tokens"])
    np.testing.assert_array_equal(traced[4], outputs["assignment"])

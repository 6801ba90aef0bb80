"""`sttm-export build`: real TensorRT-RTX, full TensorRT on a stand-in, every refusal, and nothing left half done."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest
from helpers_bundles import dead_process, put_engines
from helpers_standins import pretend_gpu
from test_cli_bundle import resign

from sttm_export.bundle.opened import open_bundle
from sttm_export.bundle.store import only_builder, seal_target
from sttm_export.cli import main
from sttm_export.engines.driver import gpu_capability
from sttm_export.graphs.rule_table import rules
from sttm_export.graphs.rules import Finding
from sttm_export.workflows import build as building

GRAPHS = ("vision_encoder", "token_merger")


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A copy of the tiny bundle with an encoder only where the merger's build would take long; no engines yet."""
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    shutil.rmtree(copy / "engines")
    return copy


@pytest.fixture
def small(bundle, monkeypatch):
    """Only the encoder, which builds in half a second."""
    monkeypatch.setattr(building, "graphs_of", lambda opened: [opened.onnx_path(GRAPHS[0])])
    return bundle


@pytest.fixture
def orin(small, monkeypatch):
    """An Orin: driver and TensorRT are stand-ins, parser and builder are NVIDIA's."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    return pretend_gpu(monkeypatch, cc="8.7", machine="aarch64")


def build(bundle, *options, target="jetson-orin-jp62"):
    return main(["build", str(bundle), "--target", target, *map(str, options)])


def engines(bundle, target="jetson-orin-jp62"):
    folder = bundle / "engines" / target
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def sidecar(bundle, target="jetson-orin-jp62", name="vision_encoder"):
    return json.loads(engines(bundle, target)[f"{name}.engine.json"])


def test_rtx_builds_here_and_the_bundle_stays_whole(bundle, capsys):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    assert build(bundle, "--compute-capability", "sm86", "--workspace", 512, target="rtx") == 0
    opened = open_bundle(bundle)
    assert [(r.graph, r.status, r.compute_capability) for r in opened.engine_records()] == [
        (name, "built", "sm86") for name in GRAPHS
    ]
    assert sidecar(bundle, "rtx", "token_merger.sm86")["options"]["workspace_mib"] == 512
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle / "engines" / "rtx", check=True)
    shown = capsys.readouterr()
    assert "Not run: no GPU here" in shown.out
    assert "[2/2] Build engines for rtx" in shown.err


def test_engines_that_are_there_are_not_replaced_unasked(small, capsys):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    assert build(small, "--compute-capability", "sm86", target="rtx") == 0
    before = engines(small, "rtx")
    assert build(small, "--compute-capability", "sm86", target="rtx") == 2
    assert engines(small, "rtx") == before
    assert "has engines for rtx (sm86) already; replace them with --force" in capsys.readouterr().err


def test_engines_of_other_capabilities_stay_and_damaged_ones_are_replaced(small, capsys):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    put_engines(small, "rtx", "sm75", "sm86", "sm89")
    good, bad = small / "engines" / "rtx" / "vision_encoder.sm75.engine", "token_merger.sm89.engine"
    for name in (bad, "vision_encoder.sm86.engine"):
        (small / "engines" / "rtx" / name).write_bytes(b"damaged")
    assert build(small, "--compute-capability", "sm80", target="rtx") == 2
    assert "was changed" in capsys.readouterr().err
    assert build(small, "--compute-capability", "sm86", "--force", target="rtx") == 0
    assert "the engine of token_merger for sm89 is damaged and was left out" in capsys.readouterr().err
    assert good.read_bytes() == b"engine"
    assert bad not in engines(small, "rtx")
    built = {(row.graph, row.compute_capability) for row in open_bundle(small).engine_records()}
    assert built == {(graph, one) for one in ("sm75", "sm86") for graph in GRAPHS} | {("vision_encoder", "sm89")}


def test_what_is_no_engine_stops_a_build(small, capsys):
    (put_engines(small, "rtx", "sm86") / "notes.txt").write_text("mine")
    assert build(small, "--force", target="rtx") == 2
    assert "holds 'notes.txt'" in capsys.readouterr().err
    assert "notes.txt" in engines(small, "rtx")


@pytest.mark.parametrize("place", ["../../secret", "/etc/hostname", "a/b"])
def test_a_graph_that_takes_its_weights_from_elsewhere_is_refused(small, capsys, place):
    """All sums are right: whoever made the bundle made it so."""
    import onnx

    path = small / "vision_encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    rows = [row for tensor in model.graph.initializer for row in tensor.external_data if row.key == "location"]
    assert rows
    rows[-1].value = place
    onnx.save(model, path)
    resign(small)
    assert build(small, target="rtx") == 2
    assert f"vision_encoder.onnx names '{place}', which is no " in capsys.readouterr().err


def test_two_builds_at_once_are_one_and_a_refusal(small, capsys):
    with only_builder(small):
        assert build(small, target="rtx") == 2
    error = capsys.readouterr().err
    assert "Engines are built into" in error
    assert "Check bundle" not in error


def test_what_a_killed_build_left_is_swept_or_put_back(small, capsys):
    put_engines(small, "rtx", "sm86")
    folder, dead = small / "engines", dead_process()
    (folder / "rtx").rename(folder / f".rtx.old-{dead}")
    (folder / f".rtx.partial-{dead}").mkdir()
    assert build(small, "--compute-capability", "sm86", target="rtx") == 2
    error = capsys.readouterr().err
    assert "was put back" in error
    assert "had left" in error
    assert "has engines for rtx (sm86) already" in error
    assert [path.name for path in folder.iterdir()] == ["rtx"]


@pytest.mark.skipif(gpu_capability() is not None, reason="this machine has a GPU")
def test_without_a_gpu_full_tensorrt_names_the_two_ways_on(bundle, capsys):
    assert build(bundle) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "this machine has no NVIDIA GPU" in error
    assert error.endswith(f"(bash {bundle}/device/build.sh), or use --target rtx here.")
    assert not (bundle / "engines").exists()


def test_what_an_export_could_not_build_is_not_in_the_way(tiny_bundle, orin, small):
    shutil.copytree(tiny_bundle / "engines" / "jetson-orin-jp62", small / "engines" / "jetson-orin-jp62")
    assert [record.status for record in open_bundle(small).engine_records()] == ["skipped"] * 2
    assert build(small) == 0
    assert [record.status for record in open_bundle(small).engine_records()] == ["built"]


def test_an_engine_for_the_gpu_that_is_here(orin, small, capsys):
    assert build(small, "--optimization-level", 1) == 0
    made = sidecar(small)
    assert made["tensorrt"] == "tensorrt 10.3.0.30"
    assert made["compute_capability"] == "sm87"
    assert made["options"]["optimization_level"] == 1
    assert made["timings"] == "new"
    assert "timing.cache" in engines(small)
    assert f"sttm-export validate {small} --engine" in capsys.readouterr().out
    open_bundle(small)


def test_the_bundle_keeps_the_timing_cache(orin, small, capsys):
    assert build(small) == 0
    times = engines(small)["timing.cache"]
    capsys.readouterr()
    assert build(small, "--force") == 0
    assert "kernel times of the last build were used again" in capsys.readouterr().err
    assert sidecar(small)["timings"] == "kept"
    assert engines(small)["timing.cache"] == times


def test_a_kept_cache_of_an_older_jetpack_is_made_anew_aloud(orin, small, capsys):
    assert build(small) == 0
    folder, times = small / "engines" / "jetson-orin-jp62", engines(small)["timing.cache"]
    (folder / "timing.cache").write_bytes(times.replace(b"10.3.0.30", b"10.3.0.26"))
    seal_target(folder, open_bundle(small, verify=False).engine_records())
    assert build(small, "--force") == 0
    assert "the timing cache is made anew: TensorRT does not take the last build's" in capsys.readouterr().err
    assert sidecar(small)["timings"] == "new"
    assert engines(small)["timing.cache"] == times


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        (["--workspace", 0], "jetson-orin-jp62", "--workspace 0 is not possible"),
        (["--optimization-level", 9], "jetson-orin-jp62", "Optimization level 9 is not possible"),
        (["--compute-capability", "sm99"], "rtx", "Unknown compute capability 'sm99'"),
        ([], "jetson-orin-jp63", "Unknown target 'jetson-orin-jp63'. Did you mean"),
        ([], "x86-trt103", "here is sm87 on aarch64; build on a host with such a GPU"),
        ([], "jetson-orin-jp72", "jetson-orin-jp72 has TensorRT 10.16, here is 10.3.0.30"),
    ],
)
def test_refusals(orin, small, capsys, options, target, message):
    assert build(small, *options, target=target) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("sttm-export: ")
    assert message in error
    assert not list((small / "engines").glob("*")) if (small / "engines").exists() else True


def test_a_rule_that_is_broken_is_refused_before_anything_is_built(orin, small, monkeypatch, capsys):
    rule = next(rule for rule in rules().values() if rule.severity == "error")
    found = [Finding(rule, "jetson-orin-jp62", "node 'x'", "")]
    monkeypatch.setattr("sttm_export.graphs.rules.check_rules", lambda path, target, rows: found)
    assert build(small) == 2
    assert "cannot build vision_encoder.onnx: error" in capsys.readouterr().err
    assert "Builder.build_serialized_network" not in orin.log.names()


def test_a_full_disk_is_foreseen(orin, small, monkeypatch, capsys):
    monkeypatch.setattr(building, "free_disk", lambda path: 1000)
    assert build(small) == 2
    assert "has 1000 B free; free some space, or build fewer" in capsys.readouterr().err


def test_a_failed_build_leaves_what_was_there(orin, small, monkeypatch, capsys):
    assert build(small) == 0
    before = engines(small)
    orin.knob(no_build="yes")
    assert build(small, "--force") == 2
    which, why, left = capsys.readouterr().err.splitlines()[-3:]
    assert which == "sttm-export: The jetson-orin-jp62 sm87 engine of vision_encoder could not be built."
    assert "tensorrt 10.3.0.30 could not build" in why
    assert "Nothing was changed" in left
    assert engines(small) == before
    assert [path.name for path in (small / "engines").iterdir()] == ["jetson-orin-jp62"]


def test_an_interrupt_leaves_what_was_there(bundle, capsys):
    """Ctrl-C while TensorRT-RTX is inside a build: no abort of the process, no traceback, nothing left."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

    def interrupt():
        while not list(bundle.glob("engines/.rtx.partial-*/rtx/token_merger.sm86.engine.partial")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert build(bundle, "--compute-capability", "sm86", target="rtx") == 130
    assert "interrupted; nothing was left behind" in capsys.readouterr().err
    assert not (bundle / "engines").exists()

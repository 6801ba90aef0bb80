"""trtexec: the command line it gets, and a build with a stand-in of it."""

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from helpers_trtexec import put_trtexec

from sttm_export.bundle.records import EngineRecord
from sttm_export.contracts.target import find_target, targets
from sttm_export.engines import build as build_module
from sttm_export.engines import trtexec as trtexec_module
from sttm_export.engines.build import build_engine
from sttm_export.engines.faults import EngineError, UnavailableError
from sttm_export.engines.options import BuildOptions
from sttm_export.engines.targets import build_targets
from sttm_export.engines.trtexec import find_trtexec, locate_trtexec, trtexec_command, trtexec_version
from sttm_export.errors import UserError

RTX, ORIN = find_target("rtx"), find_target("jetson-orin-jp62")


@pytest.fixture
def graph(tmp_path):
    """trtexec is a stand-in, so that any bytes will do."""
    path = tmp_path / "graph" / "tiny.onnx"
    path.parent.mkdir()
    path.write_bytes(b"a graph")
    return path


@pytest.fixture
def orin(monkeypatch, tmp_path):
    """An Orin with a stand-in trtexec; `orin(**knobs)` puts another one there."""
    monkeypatch.setattr(build_module, "gpu_capability", lambda: "sm87")
    monkeypatch.setattr(build_module.platform, "machine", lambda: "aarch64")

    def put(**knobs):
        return put_trtexec(tmp_path / "bin", monkeypatch, **knobs)

    put()
    return put


def build(graph, out, on_progress=None, **options):
    return build_engine(
        graph, ORIN, None, out, options=BuildOptions(**options), on_progress=on_progress, tool="trtexec"
    )


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_command_line_says_what_the_python_api_sets():
    options = BuildOptions(512, True, True, Path("t.cache"), True, 4)
    assert trtexec_command(ORIN, Path("a.onnx"), Path("b.engine"), options) == [
        "trtexec",
        "--onnx=a.onnx",
        "--saveEngine=b.engine",
        "--stronglyTyped",
        "--noTF32",
        "--profilingVerbosity=detailed",
        "--memPoolSize=workspace:512",
        "--timingCacheFile=t.cache",
        "--errorOnTimingCacheMiss",
        "--versionCompatible",
        "--stripWeights",
        "--builderOptimizationLevel=4",
        "--skipInference",
    ]


def test_by_default_only_the_types_are_kept():
    command = trtexec_command(ORIN, Path("a"), Path("b"), program="/opt/trtexec")
    assert command == [
        "/opt/trtexec",
        "--onnx=a",
        "--saveEngine=b",
        "--stronglyTyped",
        "--noTF32",
        "--profilingVerbosity=detailed",
        "--skipInference",
    ]


def test_strongly_typed_is_a_flag_of_version_10_only():
    full = [target for target in targets().values() if target.flavour == "tensorrt"]
    for target in full:
        flags = trtexec_command(target, Path("a"), Path("b"))
        assert ("--stronglyTyped" in flags) == (target.tensorrt < (11,)), target.name
        assert not {"--fp16", "--int8", "--best"} & set(flags)
    assert {target.tensorrt[0] for target in full} == {10, 11}


def test_rtx_is_not_built_with_it(graph, tmp_path):
    with pytest.raises(UserError, match=r"trtexec is a tool of full TensorRT and does not build for 'rtx'; use --with"):
        build_engine(graph, RTX, "sm86", tmp_path / "x.engine", tool="trtexec")


def test_a_build(orin, graph, tmp_path):
    calls, seen, out = orin(), [], tmp_path / "out" / "x.engine"
    result = build(graph, out, lambda *row: seen.append(row), workspace_mib=64)
    assert out.read_bytes() == b"engine of trtexec" and names_in(out.parent) == ["x.engine", "x.engine.json"]
    assert (result.tensorrt, result.built_with, result.scratch) == ("10.3.0.30", "trtexec", 4096)
    assert result.warnings == ("[TRT] a warning about tiny.onnx",)
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen) and seen[-1] == ("done", 1.0)
    assert "--memPoolSize=workspace:64" in json.loads(calls.read_text())


def test_the_sidecar_is_that_of_the_python_api(orin, graph, tmp_path):
    build(graph, tmp_path / "x.engine", version_compatible=True)
    text = (tmp_path / "x.engine.json").read_text()
    sidecar = json.loads(text)
    assert sidecar["sha256"] == hashlib.sha256(b"engine of trtexec").hexdigest() and sidecar["built_with"] == "trtexec"
    assert sidecar["tensorrt"] == "tensorrt 10.3.0.30" and sidecar["compute_capability"] == "sm87"
    assert sidecar["options"]["version_compatible"] and sidecar["options"]["tf32"] is False
    assert sidecar["command"][:2] == ["trtexec", "--onnx=tiny.onnx"] and str(tmp_path) not in text


def test_log_and_record_come_with_it(orin, graph, tmp_path):
    (record,) = build_targets([graph], [ORIN], out_dir=tmp_path / "engines", tool="trtexec")
    assert isinstance(record, EngineRecord) and record.status == "built" and record.compute_capability == "sm87"
    log = (tmp_path / "engines" / record.log).read_text()
    assert "&&&& PASSED" in log and str(tmp_path) not in log


def test_the_timing_cache_is_kept_and_frozen(orin, graph, tmp_path):
    out, cache = tmp_path / "out" / "x.engine", tmp_path / "t.cache"
    first = build(graph, out, timing_cache=cache)
    assert cache.read_bytes() == b"all kernels" and first.timing_cache.sha256_before == ""
    second = build(graph, out, timing_cache=cache, frozen_timing_cache=True)
    assert second.timing_cache.sha256_before == second.timing_cache.sha256_after == first.timing_cache.sha256_after
    assert "--timingCacheFile=t.cache" in second.command


@pytest.mark.parametrize(("deaf", "message"), [(False, "Timing cache miss"), (True, "does not hold every kernel")])
def test_a_frozen_cache_with_a_miss(orin, graph, tmp_path, deaf, message):
    """Whether trtexec says so or not."""
    cache = tmp_path / "t.cache"
    trtexec_module_cache(cache)
    orin(deaf=deaf)
    with pytest.raises(EngineError, match=message):
        build(graph, tmp_path / "out" / "x.engine", timing_cache=cache, frozen_timing_cache=True)
    assert names_in(tmp_path / "out") == [] and cache.read_bytes() == b"some kernels"


def trtexec_module_cache(cache):
    from sttm_export.engines.timing_cache import write_cache

    write_cache(cache, b"some kernels", "10.3.0.30", "sm87")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"code": 1, "lines": ["[E] Error[4]: no tactic"]},
            r"10.3.0.30 could not build tiny.onnx: Error\[4\]: no tactic",
        ),
        ({"code": 3}, r"could not build tiny.onnx: exit code 3, and no error in its log"),
        ({"kill": True}, r"could not build tiny.onnx: the system ended trtexec; memory ran out .*add swap"),
        ({"code": 1, "lines": ["[W] GPU memory (2147483648 bytes) could not be allocated"]}, r"asked for 2.0 GiB"),
        ({"no_engine": True}, r"said that all is well, but left no engine of tiny.onnx"),
    ],
)
def test_failures_are_told_in_its_own_words_and_leave_nothing(orin, graph, tmp_path, knobs, message):
    orin(**knobs)
    with pytest.raises(EngineError, match=message):
        build(graph, tmp_path / "out" / "x.engine", timing_cache=tmp_path / "t.cache")
    assert names_in(tmp_path / "out") == [] and not (tmp_path / "t.cache").exists()


def test_an_interrupt_ends_it_and_leaves_nothing(orin, graph, tmp_path):
    orin(sleep=60)
    started = time.monotonic()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        build(graph, tmp_path / "out" / "x.engine")
    assert time.monotonic() - started < 20 and names_in(tmp_path / "out") == []


def test_another_version_is_skipped_aloud(orin, graph, tmp_path):
    orin(number="101303")
    result = build(graph, tmp_path / "x.engine")
    assert result.status == "skipped" and "has TensorRT 10.3, here is 10.13.3.30" in result.reason


def test_no_trtexec_is_skipped_aloud(orin, graph, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(trtexec_module, "INSTALLED", "usr/src/absent/trtexec")
    result = build(graph, tmp_path / "x.engine")
    assert result.status == "skipped" and "sudo apt install libnvinfer-bin" in result.reason


def test_that_of_jetpack_is_found_off_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert locate_trtexec(tmp_path) == ""
    installed = tmp_path / "usr/src/tensorrt/bin/trtexec"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert locate_trtexec(tmp_path) == "", "not executable"
    with pytest.raises(UnavailableError, match="neither on PATH nor at /usr/src/tensorrt"):
        find_trtexec(tmp_path)
    installed.chmod(0o755)
    assert find_trtexec(tmp_path) == str(installed)
    first = tmp_path / "bin" / "trtexec"
    first.parent.mkdir()
    first.touch(0o755)
    assert find_trtexec(tmp_path) == str(first)


@pytest.mark.parametrize(
    ("number", "version"), [("100300", "10.3.0.30"), ("110401", "11.4.1.30"), ("8602", "8.6.2.30")]
)
def test_versions(tmp_path, monkeypatch, number, version):
    put_trtexec(tmp_path / "bin", monkeypatch, number)
    assert trtexec_version(find_trtexec()) == version


def test_a_trtexec_that_is_none(tmp_path):
    broken = tmp_path / "trtexec"
    broken.write_text("#!/bin/sh\necho 'libnvinfer.so.10: cannot open shared object file' >&2\nexit 127\n")
    with pytest.raises(UnavailableError, match=r"does not start \(Permission denied\)"):
        trtexec_version(str(broken))
    broken.chmod(0o755)
    with pytest.raises(UnavailableError, match=r"does not say its version \('libnvinfer.so.10: cannot open"):
        trtexec_version(str(broken))

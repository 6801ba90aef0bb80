"""Builds in a process of their own: whatever happens to it becomes an answer."""

import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers_children import plant
from helpers_graphs import INT32, node, proto, save, tiny_module, tiny_spec

from sttm_export.contracts.target import find_target
from sttm_export.engines import children as children_module
from sttm_export.engines import isolated as isolated_module
from sttm_export.engines.build import build_engine
from sttm_export.engines.children import python_command
from sttm_export.engines.faults import EngineError
from sttm_export.engines.options import BuildOptions
from sttm_export.graphs.export import export_graph

RTX = find_target("rtx")
pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return export_graph(tiny_module("float16"), tiny_spec("float16"), tmp_path_factory.mktemp("graph"))


def build(graph, out, **named):
    return build_engine(graph, RTX, "sm86", out, isolated=True, **named)


def children():
    """Processes of this one, zombies too."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(number) for task in tasks for number in task.read_text().split()}


def test_it_is_the_build_of_this_process(graph, tmp_path):
    seen = []
    options = BuildOptions(workspace_mib=64, optimization_level=2)
    apart = build(graph, tmp_path / "a.engine", options=options, on_progress=lambda *row: seen.append(row))
    here = build_engine(graph, RTX, "sm86", tmp_path / "b.engine", options=options)
    assert (apart.size, apart.options, apart.scratch) == (here.size, here.options, here.scratch)
    assert apart.path.read_bytes()[:4] == b"vtrt" and "Input filename:   tiny.onnx" in "\n".join(apart.log)
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0.0 and fractions[-1] == 1.0


def test_refusals_come_through(tmp_path):
    model = proto([node("MatMul", ["x", "x"], ["y"])], [("x", INT32, [4, 4])], [("y", INT32, [4, 4])])
    with pytest.raises(EngineError, match=r"refuses graph.onnx: node 'MatMul_y' \(MatMul\): .*INT32"):
        build(save(model, tmp_path), tmp_path / "out" / "x.engine")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_workspace_that_is_too_small_is_told(graph, tmp_path):
    """The reason is found in the child, whose log has it, and comes through as it is."""
    with pytest.raises(EngineError, match="no kernel fits into a workspace of 1 MiB; give a larger --workspace"):
        build(graph, tmp_path / "x.engine", options=BuildOptions(workspace_mib=1))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(graph, tmp_path):
    (tmp_path / "tiny.engine.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        build(graph, tmp_path / "tiny.engine")
    assert full.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_what_progress_raises_ends_the_process(graph, tmp_path):
    def stop(phase, fraction):
        raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        build(graph, tmp_path / "x.engine", on_progress=stop)
    assert list(tmp_path.iterdir()) == [] and children() <= before


def in_place_of_the_child(monkeypatch, code):
    real = subprocess.Popen

    def start(command, **named):
        return real([command[0], "-c", code], **named)

    monkeypatch.setattr(isolated_module.subprocess, "Popen", start)


def test_a_process_that_the_system_ends(graph, tmp_path, monkeypatch):
    in_place_of_the_child(monkeypatch, "import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EngineError, match=r"could not build tiny.onnx: the system ended its process; memory ran out"):
        build(graph, tmp_path / "x.engine")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_stands_still(graph, tmp_path, monkeypatch):
    """Its threads wait for one that found no memory: an answer comes all the same."""
    monkeypatch.setattr(children_module, "PATIENCE", 1.0)
    in_place_of_the_child(monkeypatch, "import time; input(); time.sleep(600)")
    with pytest.raises(EngineError, match=r"tiny.onnx: its process stood still and was ended; memory ran out"):
        build(graph, tmp_path / "x.engine")
    assert list(tmp_path.iterdir()) == []


def test_what_lies_beside_a_graph_is_not_imported(graph, tmp_path, monkeypatch):
    """A bundle's directory is the working directory of the build, and a bundle may come from anybody."""
    shutil.copytree(graph.parent, tmp_path / "bundle")
    plant(tmp_path / "bundle", tmp_path / "ran")
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, f":{os.environ.get(name, '')}:")
    monkeypatch.chdir(tmp_path / "bundle")
    assert build(tmp_path / "bundle" / graph.name, tmp_path / "x.engine").status == "built"
    assert not (tmp_path / "ran").exists()


def test_a_process_that_dies_inside_tensorrt(graph, tmp_path, monkeypatch):
    in_place_of_the_child(monkeypatch, "import os, signal; input(); os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(EngineError, match=r"its process died of SIGSEGV, inside TensorRT; if memory was short"):
        build(graph, tmp_path / "x.engine")


def test_a_process_that_dies(graph, tmp_path, monkeypatch):
    in_place_of_the_child(monkeypatch, "import sys; input(); sys.exit(3)")
    with pytest.raises(EngineError, match=r"its process ended with code 3 and no answer"):
        build(graph, tmp_path / "x.engine")


def test_an_interrupt_does_not_wait_for_tensorrt(graph, tmp_path, monkeypatch):
    in_place_of_the_child(monkeypatch, "import time; time.sleep(60)")
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build(graph, tmp_path / "x.engine")
    assert time.monotonic() - started < 20 and list(tmp_path.iterdir()) == []


def test_a_child_that_is_asked_nothing_ends_quietly():
    """Its parent was interrupted before it had sent the request."""
    command = python_command("sttm_export.engines.isolated", "1")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""

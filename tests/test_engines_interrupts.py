import os
import signal
import threading

import pytest
from helpers_graphs import tiny_module, tiny_spec

from sttm_export.contracts.target import find_target
from sttm_export.engines.build import build_engine
from sttm_export.engines.interrupts import held_interrupts
from sttm_export.engines.progress import PhaseTree
from sttm_export.graphs.export import export_graph


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_stops_the_builder(number):
    before, tree = signal.getsignal(number), PhaseTree(None)
    tree.start("build", None, 2)
    with held_interrupts(tree):
        assert tree.step("build", 0) is True
        os.kill(os.getpid(), number)
        assert tree.step("build", 1) is False and isinstance(tree.error, KeyboardInterrupt)
    assert signal.getsignal(number) is before


def test_under_nohup_a_lost_terminal_is_none():
    before, tree = signal.signal(signal.SIGHUP, signal.SIG_IGN), PhaseTree(None)
    try:
        with held_interrupts(tree):
            os.kill(os.getpid(), signal.SIGHUP)
        assert tree.error is None and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_that_came_first_stays():
    tree = PhaseTree(None)
    tree.error = OSError("full")
    with held_interrupts(tree):
        os.kill(os.getpid(), signal.SIGINT)
    assert isinstance(tree.error, OSError)


def test_other_threads_leave_signals_alone():
    """Python sets handlers in the main thread only."""
    before, done = signal.getsignal(signal.SIGINT), []

    def work():
        with held_interrupts(PhaseTree(None)):
            done.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_ctrl_c_inside_tensorrt(tmp_path):
    """The signal comes while TensorRT-RTX is at work in this process; it ends through the progress monitor."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    graph = export_graph(tiny_module("float32"), tiny_spec("float32"), tmp_path / "graph")

    def press(phase, fraction):
        if not pressed:
            pressed.append(phase)
            os.kill(os.getpid(), signal.SIGINT)

    pressed = []
    with pytest.raises(KeyboardInterrupt):
        build_engine(graph, find_target("rtx"), "sm86", tmp_path / "out" / "x.engine", on_progress=press)
    assert pressed and list((tmp_path / "out").iterdir()) == []

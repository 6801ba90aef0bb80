"""Ctrl-C while TensorRT works: the build is asked to stop, instead of an exception in the middle of C++."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from sttm_export.engines.progress import PhaseTree


@contextlib.contextmanager
def held_interrupts(tree: PhaseTree) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into an end of the build while the block runs.

    Python raises KeyboardInterrupt in whatever it executes next. During a build that is a callback of TensorRT (log,
    progress, writer), and an exception in there cannot pass through TensorRT: it aborts the process. So the signal is
    noted in the tree, the progress monitor answers with it, and who called TensorRT raises it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        if tree.error is None:
            tree.error = KeyboardInterrupt()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Under nohup, a lost terminal is no interruption.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, note) for number in heard}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

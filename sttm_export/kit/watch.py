"""How little memory was free while something ran: the peak as the machine saw it.

A process's own high-water mark leaves out what it puts on the GPU, which on a Jetson is the same memory and no part of
any process, and what its children hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sttm_export.engines.meminfo import free_memory

_SECONDS = 0.05


class MemoryWatch:
    """Sample free memory beside the work of a block.

    Args:
        read: gives the bytes that are free, or None.
        seconds: between two samples.
    """

    def __init__(self, read: Callable[[], int | None] = free_memory, seconds: float = _SECONDS) -> None:
        self._read, self._seconds = read, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = self.least = read()

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def facts(self) -> dict[str, Any]:
        """`free_before`, `least_free` and the difference `taken`, in bytes; None where the system does not say."""
        known = self.before is not None and self.least is not None
        taken = max(self.before - self.least, 0) if known else None  # type: ignore[operator]
        return {"free_before": self.before, "least_free": self.least, "taken": taken}

    def _sample(self) -> None:
        while not self._done.wait(self._seconds):
            free = self._read()
            if free is not None and self.least is not None:
                self.least = min(self.least, free)

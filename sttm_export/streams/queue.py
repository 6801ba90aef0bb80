"""Frames that wait between the thread that reads a source and the one that works: few, and dropped by one rule."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FrameQueue(Generic[T]):
    """At most `size` things wait, in the order in which they came.

    The rule where it is full: a source that waits is made to wait, and nothing is dropped. For one that cannot, the
    oldest of those that wait is dropped whole, and counted: what is seen next is as new as can be.

    Args:
        size: most things that wait.
        waits: whether the one that puts can wait.
    """

    def __init__(self, size: int, *, waits: bool) -> None:
        self._size, self._waits = size, waits
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = self._finished = False
        self._error: BaseException | None = None
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def dropped(self) -> int:
        """Things that were dropped since the beginning."""
        return self._dropped

    @property
    def finished(self) -> bool:
        """Whether nothing waits and nothing will come any more."""
        with self._changed:
            return self._finished and not self._items

    def put(self, item: T) -> bool:
        """Add one thing; False where nobody will take it any more."""
        with self._changed:
            while self._waits and len(self._items) >= self._size and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            if len(self._items) >= self._size:
                self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    @property
    def error(self) -> BaseException | None:
        """The error for which nothing comes any more, if it was one."""
        return self._error

    def finish(self, error: BaseException | None = None) -> None:
        """Say that nothing comes any more, and for which error, if it was one."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def get(self, timeout: float) -> T | None:
        """Take the oldest thing; None after `timeout` seconds without one, and at the end (see `finished`)."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished, timeout)
            if self._items:
                self._changed.notify_all()
                return self._items.popleft()
            return None

    def close(self) -> None:
        """Say that nothing is taken any more: who waits to put is let go."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

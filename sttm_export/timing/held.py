"""Graphs that stay loaded while they are timed, as in a program that runs for long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.session import StatefulSession


class Held(Loader):
    """A loader that loads a graph once in a block, and frees all of them at its end."""

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep what is opened in the block."""
        self._sessions: dict[str, StatefulSession] = {}
        with ExitStack() as self._stack:
            yield
        self._sessions = {}

    def hold(self, name: str) -> StatefulSession:
        """Load a graph, the first time.

        Raises:
            UserError: it cannot be loaded.
        """
        if name not in self._sessions:
            self._sessions[name] = self._stack.enter_context(super().open(name))
        return self._sessions[name]

    @contextmanager
    def open(self, name: str) -> Iterator[StatefulSession]:
        """Load a graph, the first time; see `hold`."""
        yield self.hold(name)

"""What a user sees while long work runs: numbered steps with a live bar, and one line for each that is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

Advance = Callable[[str, float | None], None]
"""Called with (what is being done, fraction in [0, 1]); None, or 0, where it is not known how far that is."""


class _Console(Console):
    """Prints texts as they are: a path or a reason may hold what rich would take for markup or an emoji."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Leave it to `cli.main`: rich would end the process with 1, the exit code of a numeric miss."""
        raise  # noqa: PLE0704


def table_console() -> Console:
    """Console for tables on standard output; a file or a pipe is 80 columns wide, or as `COLUMNS` says."""
    return _Console()


class Steps:
    """Numbered steps of one command; seconds of each are kept for `times.json`."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or _Console(stderr=True)
        self.total = total
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        """Show a bar while the block runs, and a line with its time when it is done."""
        number = len(self.seconds) + 1
        head = f"[{number}/{self.total}] {title}"
        start = time.perf_counter()
        if not self.console.is_terminal:
            yield _ignore
            self._done(head, title, start)
            return
        with Progress(*_columns(), console=self.console, transient=True, expand=True) as progress:
            # Without a total the bar runs to and fro: how far it is is not known until somebody says so.
            task = progress.add_task(head, total=None, what="")

            def advance(what: str, fraction: float | None) -> None:
                progress.update(task, what=what, total=1.0 if fraction else None, completed=fraction or 0.0)

            yield advance
        self._done(head, title, start)

    def _done(self, head: str, title: str, start: float) -> None:
        self.seconds[title] = round(time.perf_counter() - start, 2)
        self.console.print(f"{head}  {self.seconds[title]:.1f} s", markup=False, soft_wrap=True)

    def warn(self, rejected: str) -> None:
        """Print that a bundle was rejected, if it was; `rejected` is the reason that `Bundle.rejected` gives."""
        if rejected:
            self.say(f"this bundle was rejected when it was exported: {rejected}")

    def say(self, line: str) -> None:
        """Print one line under the step that was just done."""
        self.console.print(f"      {line}", markup=False, soft_wrap=True)


def _columns() -> tuple[ProgressColumn, ...]:
    """What comes last is cut where the terminal is narrow: the words for what is being done now."""
    return (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    )


def _ignore(_what: str, _fraction: float | None) -> None:
    """No bar where the output is a file: CI logs get one line a step."""

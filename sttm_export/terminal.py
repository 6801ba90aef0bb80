"""What a user sees while long work runs: numbered steps with a live bar, and one line for each that is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

Advance = Callable[[str, float | None], None]
"""Called with (what is being done, fraction in [0, 1]); None, or 0, where it is not known how far that is."""

# No estimate before this many seconds and this share of a step.
_TOO_SOON, _TOO_LITTLE = 3.0, 0.03
# Seconds from one state that is shown to the next: on a terminal, and in a log.
_RENEWED, _LOGGED = 0.1, 60.0


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
    def step(self, title: str, *, steady: bool = False) -> Iterator[Advance]:
        """Show a bar while the block runs, and a line with its time when it is done.

        Args:
            title: of the step.
            steady: whether fractions are shares of the work, so that they tell what time is left.
        """
        number = len(self.seconds) + 1
        head = f"[{number}/{self.total}] {title}"
        start = time.perf_counter()
        if not self.console.is_terminal:
            yield _ignore
            self._done(head, title, start)
            return
        with Progress(*_columns(), console=self.console, transient=True, expand=True) as progress:
            # Without a total the bar runs to and fro: how far it is is not known until somebody says so.
            task = progress.add_task(head, total=None, what="", ends=None)

            def advance(what: str, fraction: float | None) -> None:
                ends = expected_end(time.perf_counter() - start, fraction) if steady else None
                progress.update(task, what=what, total=1.0 if fraction else None, completed=fraction or 0.0, ends=ends)

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


class Ticker:
    """One line that is renewed while something goes on without end; in a file, a line now and then.

    Args:
        console: where to.
        clock: gives seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown: float | None = None

    def __enter__(self) -> Ticker:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, line: str) -> None:
        """Show the newest state in place of the one before, if enough time has passed."""
        now = self._clock()
        if self._shown is not None and now - self._shown < (_RENEWED if self._live else _LOGGED):
            return
        self._shown = now
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line that stays; from any thread."""
        self._console.print(line, markup=False, soft_wrap=True)


def expected_end(elapsed: float, fraction: float | None) -> float | None:
    """When a step ends, in seconds from its start, if it goes on as it went; None where too little of it is done."""
    if not fraction or elapsed < _TOO_SOON or fraction < _TOO_LITTLE:
        return None
    return elapsed / fraction


def in_words(seconds: float) -> str:
    """A time that is left, no finer than an estimate of it can be; nothing where it is over."""
    if seconds <= 0:
        return ""
    if seconds >= 90:
        return f"about {round(seconds / 60)} min left"
    return f"about {max(5, 5 * round(seconds / 5))} s left"


class _Left(ProgressColumn):
    """How long a step still takes; between two fractions that are told, it counts down."""

    def render(self, task: Task) -> Text:
        ends = task.fields["ends"]
        return Text(in_words(ends - (task.elapsed or 0.0)) if ends else "", style="progress.remaining")


def _columns() -> tuple[ProgressColumn, ...]:
    """What comes last is cut where the terminal is narrow: the words for what is being done now."""
    return (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        _Left(),
        TextColumn("{task.fields[what]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    )


def _ignore(_what: str, _fraction: float | None) -> None:
    """No bar where the output is a file: CI logs get one line a step."""

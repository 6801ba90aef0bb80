"""Where the frames of a stream come from: what a source is, and what it owes to the one that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from sttm_export.runtime.frame import Frame


class Source(Protocol):
    """Frames one after the other, of a camera, a file or a pipe.

    Numbers and times of frames rise. What goes wrong for good is raised by `frames`: a `UserError` where the user can
    fix it.
    """

    @property
    def waits(self) -> bool:
        """Whether it can wait for a slow reader, as a file or a pipe can; of one that cannot, frames are dropped."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """What it counts since the beginning, by names that stand in records, such as `reopened`; may be empty."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield frames as they come; blocks between them, and ends where the source does. Called once."""
        ...

    def close(self) -> None:
        """Make `frames`, which runs in another thread, end soon; may be called again, and before it began."""
        ...

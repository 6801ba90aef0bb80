"""A video file as a source: as fast as it is asked for, or at its own speed as a camera would give it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sttm_export.errors import UserError
from sttm_export.runtime.frame import Frame
from sttm_export.runtime.probe import open_video
from sttm_export.runtime.video import frame_time, upright
from sttm_export.streams.connection import reason_of
from sttm_export.streams.pictures import NothingDecoded, Pictures, Say
from sttm_export.streams.ticks import Ticks


class VideoFile:
    """Frames of a file, which ends where the file does; numbers and times are those of `read_video`.

    Args:
        path: of the file.
        say: takes a sentence where the file breaks off, or the size of its pictures changes.
        fps: frames to take a second.
        pace: give each frame when it is due, as a camera does, which waits for nobody: whoever is slower loses frames.
        clock: seconds, for the pace.
        wait: waits so many seconds, and says whether it was closed meanwhile.
    """

    def __init__(
        self,
        path: Path,
        say: Say,
        *,
        fps: float | None = None,
        pace: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.waits = not pace
        self._path, self._say, self._ticks, self._clock = path, say, Ticks(fps), clock
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._pictures = Pictures(str(path), say)

    @property
    def counters(self) -> Mapping[str, int]:
        """Pictures decoded, and packets and pictures left out as damaged."""
        return {"decoded": self._pictures.decoded, "corrupt": self._pictures.corrupt}

    def close(self) -> None:
        """End at the next frame, or at once where one is not due yet."""
        self._closed.set()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            UserError: a file that is no readable video, or not one frame of which can be decoded.
        """
        import av

        with open_video(self._path) as (container, stream):
            began = first = None
            try:
                for number, picture in self._pictures.of(container, stream):
                    moment = frame_time(picture, stream, number)
                    first = moment if first is None else first
                    if not self._ticks.takes(moment - first):
                        continue
                    began = self._clock() if began is None else began
                    if self._closed.is_set() or self._early(began + moment - first):
                        return
                    yield Frame(number, moment - first, upright(picture))
            except av.error.EOFError:
                pass
            except (av.error.FFmpegError, NothingDecoded) as error:
                self._say(f"{self._path} breaks off ({reason_of(error, 0)}); what came before counts")
        if first is None:
            raise UserError(
                f"Not one frame of {self._path} can be decoded: the file is damaged; give a video that plays."
            )

    def _early(self, due: float) -> bool:
        """Wait until a frame is due, if it is given at its pace; whether it was closed meanwhile."""
        ahead = due - self._clock()
        return not self.waits and ahead > 0 and self._wait(ahead)

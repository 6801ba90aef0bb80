"""A bundle that stays loaded: videos and cameras in, merged tokens and answers out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.merge import Thresholds
from sttm_export.contracts.model import MAX_FPS
from sttm_export.errors import UserError
from sttm_export.pipeline.layers_below import whole_vision
from sttm_export.pipeline.loader import Loader
from sttm_export.pipeline.speaking import Asking, Speaker
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.pipeline import Progress
from sttm_export.runtime.resident import Floats, Vision
from sttm_export.runtime.video import Pictures, Video, read_sampled
from sttm_export.streams.window import Emitted, Window

Frames = Pictures | Sequence[NDArray[np.uint8]]


class Pipeline:
    """The graphs of a bundle, loaded once; made by `sttm_export.load`.

    It holds one window of frames. `run` fills it with a video, `push` adds the frames of a camera one by one, `tokens`
    merges what is in it, and `ask` answers questions about that.

    Threads: any thread may call any method; one call is served at a time, and others wait for it. Answers that come
    piece by piece (`ask_stream`) hold the pipeline only while a piece is made; where the window has changed in between,
    or something else was asked, the next piece is a `UserError`. Processes: load after a fork, not before it.

    Use it in a `with`, or close it: memory of a GPU is not garbage-collected.

    Args:
        loader: loads the graphs.
        thresholds: what the merger is given.
        window: frames of the window at most; None for as many as the merger takes.
        still_tolerance: levels of grey by which a frame may differ from one before it and still take over its
            features; None encodes every frame.

    Raises:
        UserError: a graph cannot be loaded, or a window or tolerance that is not possible.
    """

    def __init__(
        self, loader: Loader, thresholds: Thresholds, *, window: int | None = None, still_tolerance: int | None = 0
    ) -> None:
        self._loader, self._thresholds = loader, thresholds
        self._lock, self._stack = threading.RLock(), ExitStack()
        self._vision: Vision | None = None
        self._speaker: Speaker | None = None
        # What was put into the window, counted; up to which count the language model has read it; and questions.
        self._version, self._read, self._asked = 0, -1, 0
        self._duration: float | None = None  # seconds that the video in the window lasts; None for pushed frames
        try:
            self._vision = self._stack.enter_context(whole_vision(loader))
            pixels = loader.bundle.model.pixels
            self._window = Window(self._vision, pixels, size=window, still_tolerance=still_tolerance)
        except BaseException:
            self._stack.close()
            raise

    @property
    def bundle(self) -> Bundle:
        """The bundle that is loaded."""
        return self._loader.bundle

    @property
    def backend(self) -> str:
        """What runs the graphs: `tensorrt 10.3.0.30`, `onnxruntime 1.32.0 CPUExecutionProvider`."""
        return self._seeing().backend

    @property
    def reason(self) -> str:
        """Why it is that one, where `auto` was asked for; empty otherwise."""
        return self._loader.backend.why

    @property
    def window(self) -> Window:
        """The frames that it holds, for who runs a loop of his own; as for `Pipeline`, one thread at a time."""
        return self._window

    def run(
        self,
        video: str | Path | Video | Frames,
        *,
        timestamps: Iterable[float] | None = None,
        fps: float | None = None,
        on_progress: Progress | None = None,
    ) -> Emitted:
        """Look at a whole video; the window holds it afterwards, and nothing of what was in it before.

        Args:
            video: a file, which is sampled as the model was evaluated; a decoded `Video`; or frames, uint8 RGB
                [n, h, w, 3] or a list of [h, w, 3].
            timestamps: [n] seconds of frames that are given as such; None for one a second.
            fps: frames a second to sample of a file; None for the model's.
            on_progress: called with (frames done, n).

        Returns:
            The merged tokens with numbers and times of the frames.

        Raises:
            UserError: an unreadable video, more frames than the window takes, or a graph that cannot be run.
        """
        with self._lock:
            self._seeing()
            shown = _as_shown(self.decode(video, fps) if isinstance(video, (str, Path)) else video, timestamps)
            count, most = len(shown.frames), self._window.size
            if not 1 <= count <= most:
                raise UserError(f"{count} frames are given and the window takes 1 to {most}; give a sample of them.")
            self.clear()
            for done, label in enumerate(zip(shown.frames, shown.times, shown.numbers, strict=True), 1):
                self._window.push(*label)
                if on_progress:
                    on_progress(done, count)
            self._duration = shown.duration
            return self.tokens()

    def decode(self, path: str | Path, fps: float | None = None) -> Video:
        """Decode the frames of a file that `run` looks at; any thread may, also while another runs the graphs.

        Raises:
            UserError: an unreadable video, or a rate that is not possible.
        """
        if fps is not None and not 0 < fps <= MAX_FPS:
            raise UserError(f"{fps:g} frames a second are not possible; give a number above 0 and at most {MAX_FPS:g}.")
        return read_sampled(path, self.bundle.model.sampling, fps, self._window.size)

    def push(self, frame: NDArray[np.uint8], timestamp: float) -> None:
        """Add a frame; the oldest one leaves where the window is full.

        Args:
            frame: uint8 RGB [h, w, 3].
            timestamp: seconds, by any clock that does not go back.

        Raises:
            UserError: a frame that is none, or the encoder cannot be run.
        """
        with self._lock:
            self._seeing()
            self._window.push(frame, timestamp)
            self._version += 1
            self._duration = None

    def tokens(self) -> Emitted:
        """Merge what is in the window.

        Raises:
            UserError: it is empty, or a graph cannot be run.
        """
        with self._lock:
            self._seeing()
            return self._window.emit(self._thresholds)

    def clear(self) -> None:
        """Forget all frames."""
        with self._lock:
            self._window.clear()
            self._version += 1
            self._duration = None

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Answer a question about what is in the window. The first one loads the language model and reads the window.

        Args:
            question: text.
            max_new_tokens: of the answer at most; None for 128, or as many as there is room for.
            temperature: 0 takes the likeliest token each time; above, tokens are drawn.
            top_k: draw of so many likeliest tokens only.
            top_p: draw of the likeliest tokens only that have this probability together.
            seed: of the draws; the same seed gives the same answer.

        Raises:
            UserError: no decoder in the bundle, an empty window, no room for question and answer.
        """
        return "".join(
            self.ask_stream(
                question, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
            )
        )

    def ask_stream(
        self,
        question: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The same, and the text comes as it is made."""
        asking = Asking(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        with self._lock:
            self._seeing()
            text = self._reading().answer(question, asking)
            self._asked += 1
            version = self._version, self._asked
        while True:
            with self._lock:
                self._seeing()
                if version != (self._version, self._asked):
                    raise UserError(
                        "The window changed, or something else was asked, while a question was answered; ask again."
                    )
                piece = next(text, None)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Free everything; safe to call twice. A closed pipeline takes no calls."""
        with self._lock:
            self._vision = self._speaker = None
            self._stack.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seeing(self) -> Vision:
        if self._vision is None:
            raise UserError("This pipeline is closed; load the bundle again.")
        return self._vision

    def _reading(self) -> Speaker:
        """The language model, once it has read the window."""
        if self._speaker is None:
            self._speaker = Speaker(self._loader, self._stack, self._merging)
        if self._read != self._version:
            features, times = self._window.features(), self._window.timestamps
            since = [time - times[0] for time in times]
            self._speaker.watch(features, since, _lasting(since) if self._duration is None else self._duration)
            self._read = self._version
        return self._speaker

    def _merging(self, hidden: Floats) -> MergedTokens:
        if self.bundle.manifest.recipe.merge_layer:
            return self._seeing().merge_given(hidden, self._thresholds)
        # Embeddings merge, and those are where the merger reads them.
        return self._window.emit(self._thresholds).merged


@dataclass(frozen=True)
class _Shown:
    """Frames of a video."""

    frames: Frames
    times: Sequence[float]
    numbers: Sequence[int]
    duration: float | None  # seconds


def _as_shown(video: Video | Frames, timestamps: Iterable[float] | None) -> _Shown:
    if isinstance(video, Video):
        return _Shown(video.frames, video.timestamps.tolist(), video.indices.tolist(), video.info.duration)
    count = len(video)
    times = [float(number) for number in range(count)] if timestamps is None else [float(time) for time in timestamps]
    if len(times) != count:
        raise UserError(f"{count} frames and {len(times)} timestamps are given; give one for each frame.")
    return _Shown(video, times, range(count), None)


def _lasting(times: Sequence[float]) -> float:
    """Seconds that frames last, the last one as long as the others in the mean; a single one a second."""
    return times[-1] * len(times) / (len(times) - 1) if len(times) > 1 else 1.0

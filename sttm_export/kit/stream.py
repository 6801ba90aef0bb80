"""A stream of raw frames through the engines of a bundle: what is asked for, checked before any work, and followed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sttm_export.bundle.opened import Bundle, check_outside_bundles
from sttm_export.bundle.store import ENGINES
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.contracts.merge import Thresholds, check_solved, check_thresholds
from sttm_export.contracts.model import MAX_FPS
from sttm_export.engines.compatibility import select_engines
from sttm_export.errors import UserError
from sttm_export.kit.telling import Telling
from sttm_export.runtime.memory import GpuMemory
from sttm_export.runtime.resident import FEATURES, Vision
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.streams.checks import check_counts
from sttm_export.streams.following import PLACE_MATTERS, Following
from sttm_export.streams.output import PIPE, check_output, open_sink
from sttm_export.streams.raw import RawSource, parse_size
from sttm_export.streams.runner import Plan, follow
from sttm_export.streams.window import Window


@dataclass(frozen=True)
class Request:
    """What was asked for; None leaves the bundle's or the model's value."""

    frames: str  # `-` or a file
    size: str  # `1920x1080`
    rate: float  # frames a second that come
    output: str  # `-`, a file `.npz`, or a directory
    pixel_format: str = "rgb24"
    live: bool = False  # who writes cannot wait
    fps: float | None = None  # frames a second to look at
    window: int | None = None  # frames
    every: int | None = None  # frames from window to window
    windows: int | None = None  # after which it ends
    queue: int = 8  # frames that may wait
    still_tolerance: int | None = 0  # levels of grey; None looks at every frame
    spatial: float | None = None  # threshold
    temporal: float | None = None  # threshold
    keep: int | None = None  # newest windows in a directory
    target: str | None = None  # whose engines
    cuda_graph: bool = False


def run_stream(bundle: Bundle, request: Request) -> str:
    """Follow the frames to their end, and write window after window.

    Args:
        bundle: opened.
        request: what was asked for.

    Returns:
        One line about what was done.

    Raises:
        UserError: an option, the bundle or the machine is not as it must be, and nothing was written; or the frames
            end in the middle of one, or a window cannot be written: windows before that are, each whole.
        KeyboardInterrupt: it was ended; says how many windows are written.
        BrokenPipeError: nobody reads the windows any more.
    """
    thresholds = _check(bundle, request)
    with ExitStack() as stack:
        width, height = parse_size(request.size)
        frames = _open_frames(request.frames, stack)
        source = RawSource(frames, width, height, request.rate, request.pixel_format, waits=not request.live)
        vision = stack.enter_context(_vision(bundle, request))
        window = Window(vision, bundle.model.pixels, size=request.window, still_tolerance=request.still_tolerance)
        plan = Plan(
            every=window.size if request.every is None else request.every,
            thresholds=thresholds,
            fps=request.fps or bundle.model.sampling.fps,
            queue=request.queue,
            most_windows=request.windows,
        )
        telling = stack.enter_context(Telling())
        _say_of(bundle, telling)
        telling.say(f"with {vision.backend}")
        if not vision.warm_up(thresholds):
            telling.say(PLACE_MATTERS)
        following = Following("the pipe" if request.frames == PIPE else request.frames, telling)
        sink = following.watching(open_sink(request.output, request.keep, stack))
        with following.to_the_end():
            follow(source, window, sink, plan, following.tell)
    return f"{following.summary}{'' if request.output == PIPE else f' → {request.output}'}"


def _say_of(bundle: Bundle, telling: Telling) -> None:
    """What its tokens are worth."""
    if rejected := bundle.rejected(engines=False):
        telling.say(f"this bundle was rejected when it was exported: {rejected}")
    if bundle.weights.is_random:
        telling.say(f"{bundle.weights.describe()}: the tokens prove the graphs, not the model")


def _check(bundle: Bundle, request: Request) -> Thresholds:
    """Refuse, before any work, what is not possible; return the thresholds."""
    layer = bundle.manifest.recipe.merge_layer
    if layer:
        raise UserError(
            f"Tokens of this bundle merge inside its language model, at the input of layer {layer}, and the kit runs "
            "vision encoder and merger alone; export with --merge-layer 0, or run the bundle with the whole package."
        )
    for option, rate in (("--rate", request.rate), ("--fps", request.fps)):
        if rate is not None and not 0 < rate <= MAX_FPS:
            raise UserError(
                f"{option} {rate:g} is not possible; give frames a second, above 0 and at most {MAX_FPS:g}."
            )
    step = bundle.model.frames_per_step
    check_counts(
        step,
        bundle.merge.frames * step,
        every=request.every,
        window=request.window,
        queue=request.queue,
        windows=request.windows,
    )
    check_thresholds(request.spatial, request.temporal)
    check_solved(bundle.merge, request.temporal)
    check_output(request.output, request.keep, [("the frames", Path(request.frames))])
    check_outside_bundles(request.output)
    return bundle.manifest.thresholds.given(request.spatial, request.temporal)


def _open_frames(name: str, stack: ExitStack) -> BinaryIO:
    """Open the frames; the pipe is read by a copy of its descriptor, with nothing buffered before it."""
    if name == PIPE and sys.stdin is not None and sys.stdin.isatty():
        raise UserError("--frames - reads a pipe, and this is a terminal; put ffmpeg or GStreamer before it with |.")
    try:
        if name == PIPE:
            return stack.enter_context(os.fdopen(os.dup(0), "rb", buffering=0))
        return stack.enter_context(Path(name).open("rb", buffering=0))
    except OSError as error:
        raise UserError(f"Cannot read --frames {name}: {error.strerror}; give {PIPE} or a file of frames.") from error


@contextmanager
def _vision(bundle: Bundle, request: Request) -> Iterator[Vision]:
    """Load the engines of encoder and merger in one stream, and free them at the end of the block."""
    names = [VISION_ENCODER, TOKEN_MERGER]
    selection = select_engines(bundle.path / ENGINES, bundle.engine_records(), names, request.target)
    with ExitStack() as stack:
        memory = GpuMemory()
        stack.callback(memory.close)
        encoder, merger = (
            stack.enter_context(
                TrtSession(
                    selection.engines[name],
                    bundle.graph(name),
                    cuda_graph=request.cuda_graph,
                    stream=memory.queue,
                    placed=[FEATURES],
                )
            )
            for name in names
        )
        yield Vision(encoder, merger, memory, bundle.merge, fixed=request.cuda_graph)

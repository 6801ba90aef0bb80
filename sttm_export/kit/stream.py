"""A stream of raw frames through the engines of a bundle: what is asked for, checked before any work, and followed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from sttm_export.bundle.opened import Bundle, bundle_around
from sttm_export.bundle.store import ENGINES
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.contracts.merge import Thresholds, check_solved, check_thresholds
from sttm_export.contracts.model import MAX_FPS
from sttm_export.engines.compatibility import select_engines
from sttm_export.errors import UserError
from sttm_export.files.whole import check_not_input, check_writable
from sttm_export.kit.telling import Telling
from sttm_export.runtime.memory import GpuMemory
from sttm_export.runtime.resident import FEATURES, Vision
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.streams.raw import RawSource, parse_size
from sttm_export.streams.records import FileSink, FolderSink, StreamSink
from sttm_export.streams.runner import Plan, Sink, follow
from sttm_export.streams.window import Window

PIPE = "-"
_ONE_FILE = ".npz"


@dataclass(frozen=True)
class Request:
    """What was asked for; None leaves the bundle's or the model's value."""

    frames: str  # `-` or a file
    size: str  # `1920x1080`
    rate: float  # frames a second that come
    output: str  # `-`, a file `.npz`, or a directory
    pixel_format: str = "rgb24"
    fps: float | None = None  # frames a second to look at
    window: int | None = None  # frames
    every: int | None = None  # frames from window to window
    windows: int | None = None  # after which it ends
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
            end in the middle of one, and what came before was.
        OSError: nobody reads the pipe, or the disk under it is full.
    """
    thresholds = _check(bundle, request)
    with ExitStack() as stack:
        frames = _open_frames(request.frames, stack)
        width, height = parse_size(request.size)
        source = RawSource(frames, width, height, request.rate, request.pixel_format)
        vision = stack.enter_context(_vision(bundle, request))
        window = Window(vision, bundle.model.pixels, size=request.window, still_tolerance=request.still_tolerance)
        plan = Plan(
            every=window.size if request.every is None else request.every,
            thresholds=thresholds,
            fps=request.fps or bundle.model.sampling.fps,
            most_windows=request.windows,
        )
        telling = Telling(vision.backend)
        sink = telling.watching(_sink(request, stack))
        try:
            follow(source, window, sink, plan, telling.tell)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{telling.windows} are written, each whole") from None
        finally:
            telling.end()
    return f"{telling.summary}{'' if request.output == PIPE else f' → {request.output}'}"


def _check(bundle: Bundle, request: Request) -> Thresholds:
    """Refuse, before any work, what is not possible; return the thresholds."""
    layer = bundle.manifest.recipe.merge_layer
    if layer:
        raise UserError(
            f"Tokens of this bundle merge inside its language model, at the input of layer {layer}, and the kit runs "
            "vision encoder and merger alone; export with --merge-layer 0, or run the bundle with the whole package."
        )
    if request.fps is not None and not 0 < request.fps <= MAX_FPS:
        raise UserError(f"--fps {request.fps:g} is not possible; give a number above 0 and at most {MAX_FPS:g}.")
    if not 0 < request.rate <= MAX_FPS:
        raise UserError(f"--rate {request.rate:g} is not possible; give a number above 0 and at most {MAX_FPS:g}.")
    check_thresholds(request.spatial, request.temporal)
    check_solved(bundle.merge, request.temporal)
    _check_output(request)
    given = bundle.manifest.thresholds
    return replace(
        given,
        spatial=given.spatial if request.spatial is None else request.spatial,
        temporal=given.temporal if request.temporal is None else request.temporal,
    )


def _check_output(request: Request) -> None:
    if request.keep is not None and (request.output == PIPE or request.output.endswith(_ONE_FILE)):
        raise UserError("--keep is about windows in a directory; give --output a directory with it, or leave it out.")
    if request.output == PIPE:
        if os.isatty(1):
            raise UserError("--output - writes windows to a pipe or file, and this is a terminal; add | or >.")
        return
    path = Path(request.output)
    if request.output.endswith(_ONE_FILE):
        check_writable(path, "--output")
        check_not_input(path, "--output", [("the frames", Path(request.frames))])
    elif not path.is_dir() and (path.exists() or not path.resolve().parent.is_dir()):
        raise UserError(
            f"--output {request.output} is no directory, nor in one; give a directory, {PIPE}, or a file "
            f"{_ONE_FILE} for one window."
        )
    if (around := bundle_around(path / "window")) is not None:
        raise UserError(
            f"--output {request.output} would lie in the bundle {around}, which holds nothing else; give another place."
        )


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


def _sink(request: Request, stack: ExitStack) -> Sink:
    if request.output == PIPE:
        return StreamSink(stack.enter_context(os.fdopen(os.dup(1), "wb", buffering=0)))
    path = Path(request.output)
    return FileSink(path) if request.output.endswith(_ONE_FILE) else FolderSink(path, request.keep)

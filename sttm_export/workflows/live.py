"""A camera, a stream or a file through the vision side of a bundle, window after window, until it ends or is ended."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle, bundle_around
from sttm_export.errors import UserError
from sttm_export.files.whole import check_not_input, check_writable
from sttm_export.pipeline.backend import ENGINE, choose_backend
from sttm_export.pipeline.layers_below import whole_vision
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.probe import open_video
from sttm_export.streams.address import Address, read_address
from sttm_export.streams.camera import Camera
from sttm_export.streams.records import FileSink, FolderSink, StreamSink
from sttm_export.streams.runner import Plan, Sink, follow
from sttm_export.streams.source import Source
from sttm_export.streams.video_file import VideoFile
from sttm_export.streams.window import Window
from sttm_export.terminal import Steps, Ticker
from sttm_export.workflows.following import Following
from sttm_export.workflows.viewing import Viewing, check_policy, check_viewing, thresholds

PIPE = "-"
_ONE_FILE = ".npz"
_NOT_EXACT = (
    "what runs the encoder gives a frame features that differ in last bits with its place in a batch, so that windows "
    "may differ in last bits from `run` on the same frames"
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Request(Viewing):
    """What is followed, how, and where its windows go; None leaves the bundle's or the model's value."""

    source: str  # an address, a device or a file
    output: str  # `-`, a file `.npz`, or a directory
    window: int | None = None  # frames at most
    every: int | None = None  # frames from window to window; None for those of a window
    still_tolerance: int | None = 0  # levels of grey; None encodes every frame
    keep: int | None = None  # newest windows in a directory
    windows: int | None = None  # after which it ends
    queue: int = 8  # frames that may wait
    timeout: float = 5.0  # seconds without data after which a source has broken off
    retries: int | None = None  # tries in a row to open it again; None for ever
    transport: str = "tcp"  # of RTSP
    pace: bool = False  # play a file at its own speed, as a camera


def follow_source(bundle: Bundle, request: Request, steps: Steps) -> str:
    """Follow a source to its end, and write window after window.

    Args:
        bundle: opened.
        request: what was asked for.
        steps: tells of loading.

    Returns:
        One line about what was done.

    Raises:
        UserError: an option that is not possible, a source that cannot be opened or is gone for good, an output that
            cannot be written; windows before that are written, each whole.
        KeyboardInterrupt: it was ended; says how many windows are written.
        BrokenPipeError: nobody reads the pipe any more.
    """
    address = _check(bundle, request)
    with ExitStack() as stack:
        with steps.step("Load the graphs"):
            window, exact = stack.enter_context(_window(bundle, request))
        steps.say(f"with {window.backend}")
        if not exact:
            steps.say(_NOT_EXACT)
        ticker = stack.enter_context(Ticker(steps.console))
        source = _source(address, bundle, request, ticker)
        following = Following(address.shown, ticker)
        sink = following.watching(_sink(request, stack))
        with _said_at_the_end(following):
            follow(source, window, sink, _plan(bundle, request, window), following.tell)
    return following.summary


def _plan(bundle: Bundle, request: Request, window: Window) -> Plan:
    every = window.size if request.every is None else request.every
    return Plan(every, thresholds(bundle, request), queue=request.queue, most_windows=request.windows)


@contextmanager
def _said_at_the_end(following: Following) -> Iterator[None]:
    """However it ends, what is written is said; a full disk in one sentence."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{following.summary}; each window that was written is whole") from None
    except UserError as error:
        raise UserError(f"{error}{following.written}") from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"Window {following.windows + 1} cannot be written: {error.strerror}; free some space or choose another "
            f"--output.{following.written}"
        ) from error


def _check(bundle: Bundle, request: Request) -> Address:
    """Refuse, before any work, what is not possible; return what is followed."""
    check_viewing(request)
    check_policy(bundle, request)
    step = bundle.model.frames_per_step
    for option, number in (("--every", request.every), ("--window", request.window)):
        if number is not None and (number < 1 or number % step):
            raise UserError(f"{option} {number} is not possible; give a whole number of frames, a multiple of {step}.")
    most = request.window or bundle.merge.frames * step
    if request.every is not None and request.every > most:
        raise UserError(
            f"--every {request.every} is more than the {most} frames of a window, so that frames would be in none; "
            f"give at most {most}, or a lower --fps."
        )
    for option, number in (("--queue", request.queue), ("--windows", request.windows), ("--keep", request.keep)):
        if number is not None and number < 1:
            raise UserError(f"{option} {number} is not possible; give a whole number from 1.")
    if not 0 < request.timeout <= 3600:
        raise UserError(f"--timeout {request.timeout:g} is not possible; give seconds, above 0 and at most 3600.")
    if request.retries is not None and request.retries < 0:
        raise UserError(f"--retries {request.retries} is not possible; give 0 or more, or leave it out for no end.")
    address = _check_source(request)
    _check_output(request, address)
    return address


def _check_source(request: Request) -> Address:
    address = read_address(request.source)
    if address.kind == "file":
        with open_video(request.source):
            pass
    elif request.pace:
        raise UserError(f"--pace plays a file at its own speed, and {address.shown} has its own; leave it out.")
    return address


def _check_output(request: Request, address: Address) -> None:
    one_file, path = request.output.endswith(_ONE_FILE), Path(request.output)
    if request.keep is not None and (request.output == PIPE or one_file):
        raise UserError("--keep is about windows in a directory; give --output a directory with it, or leave it out.")
    if request.output == PIPE:
        if os.isatty(1):
            raise UserError("--output - writes windows to a pipe or file, and this is a terminal; add | or >.")
        return
    if one_file:
        check_writable(path, "--output")
        if address.kind == "file":
            check_not_input(path, "--output", [("the source", Path(request.source))])
    elif not path.is_dir() and (path.exists() or not path.resolve().parent.is_dir()):
        raise UserError(
            f"--output {path} is no directory, nor in one; give a directory, {PIPE}, or a file {_ONE_FILE} for the "
            "newest window."
        )
    if (around := bundle_around(path / "window")) is not None:
        raise UserError(
            f"--output {path} would lie in the bundle {around}, which holds nothing else; give another place."
        )


@contextmanager
def _window(bundle: Bundle, request: Request) -> Iterator[tuple[Window, bool]]:
    """Load both graphs for as long as the block runs, and try them once.

    Yields:
        The window over them, and whether a frame's features are the same in every place of a batch.
    """
    backend = choose_backend(bundle, ENGINE if request.engine else request.provider or "cpu", request.target)
    loader = Loader(bundle, backend, cuda_graph=request.cuda_graph)
    with whole_vision(loader) as vision:
        window = Window(vision, bundle.model.pixels, size=request.window, still_tolerance=request.still_tolerance)
        yield window, vision.warm_up(thresholds(bundle, request))


def _source(address: Address, bundle: Bundle, request: Request, ticker: Ticker) -> Source:
    fps = request.fps or bundle.model.sampling.fps
    if address.kind == "file":
        return VideoFile(Path(request.source), ticker.say, fps=fps, pace=request.pace)
    return Camera(
        address,
        ticker.say,
        fps=fps,
        timeout=request.timeout,
        retries=request.retries,
        transport=request.transport,
    )


def _sink(request: Request, stack: ExitStack) -> Sink:
    if request.output == PIPE:
        return StreamSink(stack.enter_context(os.fdopen(os.dup(1), "wb", buffering=0)))
    path = Path(request.output)
    return FileSink(path) if request.output.endswith(_ONE_FILE) else FolderSink(path, request.keep)

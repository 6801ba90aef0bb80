"""A camera, a stream or a file through the vision side of a bundle, window after window, until it ends or is ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle, check_outside_bundles
from sttm_export.errors import UserError
from sttm_export.pipeline.backend import choose_backend
from sttm_export.pipeline.layers_below import whole_vision
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.probe import open_video
from sttm_export.streams.address import Address, read_address
from sttm_export.streams.camera import Camera
from sttm_export.streams.checks import check_counts
from sttm_export.streams.following import PLACE_MATTERS, Following
from sttm_export.streams.output import check_output, open_sink
from sttm_export.streams.runner import Plan, follow
from sttm_export.streams.source import Source
from sttm_export.streams.video_file import VideoFile
from sttm_export.streams.window import Window
from sttm_export.terminal import Steps, Ticker
from sttm_export.workflows.viewing import Viewing, backend_name, check_policy, check_viewing, thresholds


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
            steps.say(PLACE_MATTERS)
        ticker = stack.enter_context(Ticker(steps.console))
        source = _source(address, bundle, request, ticker)
        following = Following(address.shown, ticker)
        sink = following.watching(open_sink(request.output, request.keep, stack))
        with following.to_the_end():
            follow(source, window, sink, _plan(bundle, request, window), following.tell)
    return following.summary


def _plan(bundle: Bundle, request: Request, window: Window) -> Plan:
    every = window.size if request.every is None else request.every
    return Plan(every, thresholds(bundle, request), queue=request.queue, most_windows=request.windows)


def _check(bundle: Bundle, request: Request) -> Address:
    """Refuse, before any work, what is not possible; return what is followed."""
    check_viewing(request)
    check_policy(bundle, request)
    step = bundle.model.frames_per_step
    check_counts(
        step,
        bundle.merge.frames * step,
        every=request.every,
        window=request.window,
        queue=request.queue,
        windows=request.windows,
    )
    if not 0 < request.timeout <= 3600:
        raise UserError(f"--timeout {request.timeout:g} is not possible; give seconds, above 0 and at most 3600.")
    if request.retries is not None and request.retries < 0:
        raise UserError(f"--retries {request.retries} is not possible; give 0 or more, or leave it out for no end.")
    address = _check_source(request)
    read = [("the source", Path(request.source))] if address.kind == "file" else []
    check_output(request.output, request.keep, read)
    check_outside_bundles(request.output)
    return address


def _check_source(request: Request) -> Address:
    address = read_address(request.source)
    if address.kind == "file":
        with open_video(request.source):
            pass
    elif request.pace:
        raise UserError(f"--pace plays a file at its own speed, and {address.shown} has its own; leave it out.")
    return address


@contextmanager
def _window(bundle: Bundle, request: Request) -> Iterator[tuple[Window, bool]]:
    """Load both graphs for as long as the block runs, and try them once.

    Yields:
        The window over them, and whether a frame's features are the same in every place of a batch.
    """
    backend = choose_backend(bundle, backend_name(request), request.target)
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

"""The way from frames in memory, for a clip and for a live window, in turns with what leaves merging out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import VISION_ENCODER
from sttm_export.contracts.merge import Thresholds
from sttm_export.contracts.model import counted
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.resident import Floats, Vision
from sttm_export.streams.window import Pixels, Window
from sttm_export.timing.clock import WHOLE, Candidate, Limits, Measured, Parts, Told, measure, milliseconds
from sttm_export.timing.decoder import ALL, MERGED, Asked
from sttm_export.timing.engines import counted_run
from sttm_export.timing.inputs import Inputs
from sttm_export.timing.proxies import Laps
from sttm_export.timing.result import Computed, Figure, computed

PIPELINE, LIVE = "pipeline", "live step"
MOVING, STILL = "moving", "still"
PUSH, EMIT = "push", "merge"
BELOW_TOO = "A live step runs the layers below the merge layer over the whole window, each time."


def looking(bundle: Bundle, vision: Vision, inputs: Inputs) -> tuple[Window, Callable[[], None]]:
    """Return a window, and what lets it see the clip anew; every frame is encoded."""
    window = Window(vision, bundle.model.pixels, still_tolerance=None)

    def look() -> None:
        window.clear()
        for frame, time in zip(inputs.frames, inputs.timestamps.tolist(), strict=True):
            window.push(frame, time)

    return window, look


def measure_pipeline(
    bundle: Bundle, vision: Vision, inputs: Inputs, given: Thresholds, limits: Limits, told: Told
) -> list[Figure]:
    """Time frames to merged tokens, and frames to all features on the host, in turns."""
    window, look = looking(bundle, vision, inputs)

    def merged() -> None:
        look()
        window.emit(given)

    def whole() -> None:
        look()
        window.features()

    calls: dict[str, Candidate] = {
        MERGED: lambda: {WHOLE: milliseconds(merged)},
        ALL: lambda: {WHOLE: milliseconds(whole)},
    }
    work = f"{counted(len(inputs.frames), 'frame')} of {inputs.size} to tokens"
    return _figures(PIPELINE, work, measure(calls, limits, told), calls if limits.gpu else {})


def measure_seeing(
    bundle: Bundle,
    vision: Vision,
    asked: Asked,
    inputs: Inputs,
    given: Thresholds,
    limits: Limits,
    told: Told,
) -> list[Figure]:
    """Time frames to the first token of an answer, with merged tokens and with all, in turns."""
    window, look = looking(bundle, vision, inputs)
    inside = bundle.manifest.recipe.merge_layer > 0

    def features() -> Floats:
        look()
        return window.features()

    def merge(hidden: Floats) -> MergedTokens:
        # As `Pipeline` does: embeddings merge where they lie, hidden states come from the host.
        return vision.merge_given(hidden, given) if inside else window.emit(given).merged

    calls: dict[str, Candidate] = {
        MERGED: lambda: asked.see(MERGED, features, merge),
        ALL: lambda: asked.see(ALL, features, merge),
    }
    work = f"{counted(len(inputs.frames), 'frame')} of {inputs.size} to the first token"
    return _figures(PIPELINE, work, measure(calls, limits, told), calls if limits.gpu else {})


def measure_live(
    bundle: Bundle, vision: Vision, inputs: Inputs, given: Thresholds, limits: Limits, told: Told
) -> list[Figure]:
    """Time one step of a live stream with a full window: a batch of new frames, and its tokens merged."""
    window = Window(vision, bundle.model.pixels)
    every = min(bundle.graph(VISION_ENCODER).inputs[0].shape[0], window.size)
    moving, still, laps = panned(list(inputs.frames)), inputs.frames[0], Laps()

    def push(frames: Sequence[Pixels]) -> None:
        for frame in frames:
            window.push(frame, 0.0)

    def step(frames: Sequence[Pixels]) -> Parts:
        laps.take()

        def run() -> None:
            laps.add(PUSH, lambda: push(frames))
            laps.add(EMIT, lambda: window.emit(given))

        return {WHOLE: milliseconds(run), **laps.take()}

    def stand() -> Parts:
        # Until nothing moves any more, so that the first frame of the step is no news.
        push([still] * every)
        window.emit(given)
        return again()

    def move() -> Parts:
        return step([next(moving) for _ in range(every)])

    def again() -> Parts:
        return step([still] * every)

    # Full of one frame, as it is encoded once: what merging takes does not depend on what merges.
    push([still] * window.size)
    window.emit(given)
    found = measure({MOVING: move, STILL: stand}, limits, told)
    news = f"{every} new frames" if every > 1 else "one new frame"
    work = f"{news} of {inputs.size} into a window of {window.size}"
    if not limits.gpu:
        return _figures(LIVE, work, found, {})
    stand()
    return _figures(LIVE, work, found, {STILL: again, MOVING: move})


def _figures(name: str, work: str, found: Mapping[str, Measured], calls: Mapping[str, Candidate]) -> list[Figure]:
    """Figures of what was measured, with what one more run of each of the calls asks of the GPU."""
    counts = {way: counted_run(call) for way, call in calls.items()}
    return [Figure.of(name, way, work, measured, counts=counts.get(way)) for way, measured in found.items()]


def compute_live(figures: Sequence[Figure], every: int) -> Iterator[Computed]:
    """What a live stream can keep up with."""
    for figure in figures:
        rate = 1e3 * every / figure.times.median
        how = f"{counted(every, 'frame')} over the median of a step with as many new ones"
        yield computed(f"live, {figure.way}", rate, "frames a second", how)


def panned(frames: Sequence[Pixels]) -> Iterator[Pixels]:
    """Frames without end, none like the one before or as it was given: each is moved to the side, as a camera pans."""
    for count, frame in enumerate(cycle(frames)):
        yield np.roll(frame, 1 + count % (frame.shape[1] - 1), axis=1)

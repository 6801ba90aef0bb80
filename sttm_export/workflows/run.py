"""Video in, merged tokens out: the graphs of a bundle one after the other, up to the token merger."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.files.whole import check_suffix, written_whole
from sttm_export.pipeline.layers_below import run_layers_below
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.draw import render_tokens, write_png
from sttm_export.runtime.merged import MergedTokens, write_npz
from sttm_export.runtime.overlay import Overlay
from sttm_export.runtime.resident import Floats
from sttm_export.runtime.stills import embed_picture
from sttm_export.runtime.video import Video
from sttm_export.streams.window import Window
from sttm_export.terminal import Advance, Steps
from sttm_export.workflows.example import example_json, shown_clip
from sttm_export.workflows.scene import Scene
from sttm_export.workflows.viewing import (
    Viewing,
    check_outputs,
    check_policy,
    check_viewing,
    decode,
    open_loader,
    say_encoded,
    say_merged,
    thresholds,
)


@dataclass(frozen=True)
class Request(Viewing):
    """What to run on, and where to write."""

    video: Path  # the file
    output: Path  # the tokens
    picture: Path  # the contact sheet
    overlay: Path | None = None  # a video of the frames with their tokens, if it is wanted
    report: Path | None = None  # a page with a player of them and with figures, if it is wanted


def run_bundle(bundle: Bundle, request: Request, steps: Steps) -> MergedTokens:
    """Run a video as far as its tokens merge, and write what was asked for, all of it or nothing.

    Raises:
        UserError: unreadable video, unwritable output, a value that is not possible, no engine that runs here.
    """
    check_request(request)
    check_policy(bundle, request)
    loader, layer = open_loader(bundle, request), bundle.manifest.recipe.merge_layer
    video = decode(bundle, request.video, request, steps)
    features, merged = _see(loader, video, request, steps)
    say_merged(merged, bundle, steps)
    if layer:
        steps.say(f"the tokens are hidden states at the input of decoder layer {layer}, not embeddings")
    with steps.step("Write the results") as advance:
        note = _write(bundle, request, _Seen(video, features, merged), advance)
    if note:
        steps.say(note)
    if bundle.weights.is_random:
        steps.say(f"{bundle.weights.describe()}: the tokens prove the graphs, not the model")
    return merged


def _see(loader: Loader, video: Video, request: Request, steps: Steps) -> tuple[Floats, MergedTokens]:
    """Return what merges of a video, [T', N, C], and what becomes of it."""
    bundle, hidden, telling = loader.bundle, list[Floats](), list[Advance]()

    def below(features: Floats) -> Floats:
        hidden.append(run_layers_below(loader, features, telling[0]))
        return hidden[0]

    with ExitStack() as stack:
        with steps.step("Encode the frames", steady=True) as advance:
            vision = stack.enter_context(loader.vision(below if bundle.manifest.recipe.merge_layer else None))
            window, count = Window(vision, bundle.model.pixels), len(video.frames)
            for done, (frame, time) in enumerate(zip(video.frames, video.timestamps.tolist(), strict=True)):
                advance(f"{done} of {count}", done / count)
                window.push(frame, time)
            features = window.features()
        say_encoded(features, vision.backend, steps)
        with steps.step("Merge the tokens") as advance:
            telling.append(advance)
            merged = window.emit(thresholds(bundle, request)).merged
    return (hidden or [features])[0], merged


def check_request(request: Request) -> None:
    """Refuse, before any work, values that are not possible and outputs that cannot be written."""
    check_viewing(request)
    written = {"--output": request.output, "--picture": request.picture}
    for option, path, suffix in (("--overlay", request.overlay, ".mp4"), ("--report", request.report, ".html")):
        if path:
            check_suffix(path, option, suffix)
            written[option] = path
    check_outputs(written, {"the video": request.video})


@dataclass(frozen=True)
class _Seen:
    """The video, what merged of it, and what became of that."""

    video: Video
    features: Floats  # [T', N, C]
    merged: MergedTokens


def _write(bundle: Bundle, request: Request, seen: _Seen, advance: Advance) -> str:
    """Write what was asked for; a sentence where the overlay is not what everybody can play."""
    model, video, merged, note = bundle.model, seen.video, seen.merged, ""
    step, title = model.frames_per_step, f"{model.title}, {request.video.name}"
    frames, times = video.frames[::step], video.timestamps[::step]
    sheet = render_tokens(frames, merged, model.grid, timestamps=times, title=title)
    further = [path for path in (request.overlay, request.report) if path]
    with written_whole(request.output, request.picture, *further) as (tokens, picture, *files):
        write_npz(tokens, merged, timestamps=times, frame_indices=video.indices)
        write_png(picture, sheet)
        if request.overlay:
            note = Overlay(frames, merged, model.grid, times).write(files[0], advance)
        if request.report:
            advance("the report", None)
            files[-1].write(_page(bundle, request, seen, embed_picture(sheet)).encode("utf-8"))
    return note


def _page(bundle: Bundle, request: Request, seen: _Seen, picture: str) -> str:
    from sttm_export.validation.report import render_clip_report

    model, video, merged = bundle.model, seen.video, seen.merged
    scene = Scene(video.frames, video.timestamps, request.video.name, video.note)
    example = example_json(scene, merged, seen.features, bundle.merge, model.frames_per_step)
    clip = shown_clip(scene, merged, model)
    return render_clip_report(bundle.manifest.data, example, picture, clip, bundle.rejected(engines=False))

"""Video in, merged tokens out: the graphs of a bundle one after the other, up to the token merger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.files.whole import written_whole
from sttm_export.runtime.draw import render_tokens, write_png
from sttm_export.runtime.merged import MergedTokens, write_npz
from sttm_export.runtime.overlay import Overlay, check_overlay
from sttm_export.runtime.video import Video
from sttm_export.terminal import Advance, Steps
from sttm_export.workflows.layers_below import run_layers_below
from sttm_export.workflows.viewing import (
    Loader,
    Viewing,
    check_outputs,
    check_policy,
    check_viewing,
    decode,
    encode,
    merge,
    say_merged,
)


@dataclass(frozen=True)
class Request(Viewing):
    """What to run on, and where to write."""

    video: Path  # the file
    output: Path  # the tokens
    picture: Path  # the contact sheet
    overlay: Path | None = None  # the video of the frames with their tokens, if it is wanted


def run_bundle(bundle: Bundle, request: Request, steps: Steps) -> MergedTokens:
    """Run a video as far as its tokens merge, and write tokens, picture and overlay, all or none.

    Raises:
        UserError: unreadable video, unwritable output, a value that is not possible, no engine that runs here.
    """
    check_request(request)
    check_policy(bundle, request)
    loader, layer = Loader(bundle, request), bundle.manifest.recipe.merge_layer
    video = decode(bundle, request.video, request, steps)
    features = encode(loader, video, steps)
    with steps.step("Merge the tokens") as advance:
        if layer:
            features = run_layers_below(loader, features, advance)
        merged = merge(loader, request, features)
    say_merged(merged, bundle, steps)
    if layer:
        steps.say(f"the tokens are hidden states at the input of decoder layer {layer}, not embeddings")
    with steps.step("Write tokens, picture and overlay" if request.overlay else "Write tokens and picture") as advance:
        note = _write(bundle, request, video, merged, advance)
    if note:
        steps.say(note)
    if bundle.weights.is_random:
        steps.say(f"{bundle.weights.describe()}: the tokens prove the graphs, not the model")
    return merged


def check_request(request: Request) -> None:
    """Refuse, before any work, values that are not possible and outputs that cannot be written."""
    check_viewing(request)
    written = {"--output": request.output, "--picture": request.picture}
    if request.overlay:
        check_overlay(request.overlay)
        written["--overlay"] = request.overlay
    check_outputs(written, {"the video": request.video})


def _write(bundle: Bundle, request: Request, video: Video, merged: MergedTokens, advance: Advance) -> str:
    """Write what was asked for; a sentence where the overlay is not what everybody can play."""
    model, note = bundle.model, ""
    step, title = model.frames_per_step, f"{model.title}, {request.video.name}"
    frames, times = video.frames[::step], video.timestamps[::step]
    sheet = render_tokens(frames, merged, model.grid, timestamps=times, title=title)
    overlays = [request.overlay] if request.overlay else []
    with written_whole(request.output, request.picture, *overlays) as (tokens, picture, *files):
        write_npz(tokens, merged, timestamps=times, frame_indices=video.indices)
        write_png(picture, sheet)
        for file in files:
            note = Overlay(frames, merged, model.grid, times).write(file, advance)
    return note

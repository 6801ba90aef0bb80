"""Video in, merged tokens out: the graphs of a bundle one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle, bundle_around
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.contracts.model import MAX_FPS
from sttm_export.engines.compatibility import Selection, engines_here
from sttm_export.errors import UserError
from sttm_export.files.whole import check_not_input, check_writable, written_whole
from sttm_export.runtime.draw import render_tokens, write_png
from sttm_export.runtime.merged import NOT_CONVERGED, MergedTokens, write_npz
from sttm_export.runtime.ort_session import OrtSession, check_provider
from sttm_export.runtime.pipeline import encode_frames, merge_features
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.providers import CPU
from sttm_export.runtime.session import Session
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.runtime.video import published_sampler, read_video
from sttm_export.terminal import Steps
from sttm_export.validation.finiteness import nonfinite


@dataclass(frozen=True)
class Request:
    """What to run on, with what, and where to write; None leaves the bundle's or the model's value."""

    video: Path  # the file
    output: Path  # the tokens
    picture: Path  # the contact sheet
    fps: float | None = None  # frames a second to sample
    spatial: float | None = None  # threshold
    temporal: float | None = None  # threshold
    provider: str | None = None  # of ONNX Runtime; None for the CPU, or with engines
    engine: bool = False  # run the bundle's engines, not ONNX Runtime
    target: str | None = None  # the target whose engines; None takes the first that run here
    cuda_graph: bool = False  # launch each engine as one CUDA graph


def run_bundle(bundle: Bundle, request: Request, steps: Steps) -> MergedTokens:
    """Run both graphs on a video and write tokens and picture, both or none.

    Raises:
        UserError: unreadable video, unwritable output, a value that is not possible, no engine that runs here.
    """
    check_request(request)
    model, merge = bundle.model, bundle.merge
    if merge.policy == "budget" and request.temporal is not None:
        raise UserError(
            "--temporal-threshold does nothing here: the bundle has policy budget, which solves it for every clip; "
            "leave it out, or export with --policy threshold."
        )
    selection = engines_here(bundle, request.target) if request.engine else None
    if selection is None:
        check_provider(CPU if request.provider is None else request.provider)
    with steps.step("Decode the video"):
        # The graph takes at most T frames, whatever the model was evaluated with.
        step = model.frames_per_step
        bound = min(model.sampling.max_frames, merge.frames * step)
        video = read_video(request.video, published_sampler(request.fps or model.sampling.fps, bound))
    steps.say(
        f"{len(video.frames)} of {video.info.frames} frames, at most {merge.frames * step} a clip {video.note}".rstrip()
    )
    with steps.step("Encode the frames", steady=True) as advance:
        graph = bundle.graph(VISION_ENCODER)
        values = pixel_values(video.frames, model.pixels, step)
        # One session at a time: on an edge GPU two sets of weights may be one too many.
        with open_session(bundle, VISION_ENCODER, request, selection) as session:
            backend = session.backend
            features = encode_frames(session, graph, values, lambda done, n: advance(f"{done} of {n}", done / n))
    steps.say(f"with {backend}")
    if fault := nonfinite(features):
        steps.say(f"the vision encoder's features: {fault}; tokens of those cells mean nothing")
    with steps.step("Merge the tokens"):
        defaults = bundle.manifest.thresholds
        spatial = defaults.spatial if request.spatial is None else request.spatial
        temporal = defaults.temporal if request.temporal is None else request.temporal
        with open_session(bundle, TOKEN_MERGER, request, selection) as session:
            merged = merge_features(session, merge, features, len(features), spatial, temporal)
    if not merged.converged:
        steps.say(NOT_CONVERGED)
    if len(features) == 1:
        steps.say(f"the clip has one {model.step}, so there was nothing to merge across frames")
    with steps.step("Write tokens and picture"):
        title = f"{model.title}, {request.video.name}"
        times = video.timestamps[::step]
        sheet = render_tokens(video.frames[::step], merged, model.grid, timestamps=times, title=title)
        with written_whole(request.output, request.picture) as (tokens, picture):
            write_npz(tokens, merged, timestamps=times, frame_indices=video.indices)
            write_png(picture, sheet)
    if bundle.weights.is_random:
        steps.say(f"{bundle.weights.describe()}: the tokens prove the graphs, not the model")
    return merged


def check_request(request: Request) -> None:
    """Refuse, before any work, values that are not possible and outputs that cannot be written."""
    if request.engine and request.provider is not None:
        raise UserError(
            f"--engine runs TensorRT engines and --provider {request.provider} runs ONNX Runtime; give one of the two."
        )
    if not request.engine and (request.target is not None or request.cuda_graph):
        raise UserError("--target and --cuda-graph are about engines; give --engine with them.")
    if request.fps is not None and not 0 < request.fps <= MAX_FPS:
        raise UserError(
            f"--fps {request.fps:g} is not possible; give frames a second, above 0 and at most {MAX_FPS:g}."
        )
    for name, value in (("spatial", request.spatial), ("temporal", request.temporal)):
        if value is not None and not -1.0 <= value <= 1.0:
            raise UserError(f"--{name}-threshold {value:g} is no cosine; give a number from -1 to 1.")
    check_outputs(request)


def check_outputs(request: Request) -> None:
    """Refuse outputs that cannot be written, that are the video, one file, or in a bundle; also by links."""
    written = {"--output": request.output, "--picture": request.picture}
    for option, path in written.items():
        check_writable(path, option)
        check_not_input(path, option, [("the video", request.video)])
        around = bundle_around(path)
        if around is not None:
            raise UserError(
                f"{option} {path} would lie in the bundle {around}, which holds nothing else; give --output a file "
                "elsewhere."
            )
    check_not_input(request.picture, "--picture", [(f"the --output {request.output}", request.output)])


@contextmanager
def open_session(bundle: Bundle, name: str, request: Request, selection: Selection | None) -> Iterator[Session]:
    """Load a graph of the bundle, as an engine if there is a selection, and free it at the end of the block."""
    graph = bundle.graph(name)
    if selection is None:
        provider = CPU if request.provider is None else request.provider
        yield OrtSession(bundle.onnx_path(name), graph, provider=provider, low_memory=True)
        return
    with TrtSession(selection.engines[name], graph, cuda_graph=request.cuda_graph) as session:
        yield session

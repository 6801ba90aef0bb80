"""A video through the vision side of a bundle, up to its merged tokens: what `run` and `ask` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle, bundle_around
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.contracts.merge import Thresholds, check_solved, check_thresholds
from sttm_export.contracts.model import MAX_FPS
from sttm_export.errors import UserError
from sttm_export.files.whole import check_not_input, check_writable
from sttm_export.pipeline.backend import ENGINE, choose_backend
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.finiteness import nonfinite
from sttm_export.runtime.merged import NOT_CONVERGED, MergedTokens
from sttm_export.runtime.pipeline import encode_frames, merge_features
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.resident import Floats
from sttm_export.runtime.video import Video, read_sampled
from sttm_export.terminal import Steps


@dataclass(frozen=True, kw_only=True)
class Viewing:
    """How a video is looked at and what runs the graphs; None leaves the bundle's or the model's value."""

    fps: float | None = None  # frames a second to sample
    spatial: float | None = None  # threshold
    temporal: float | None = None  # threshold
    provider: str | None = None  # of ONNX Runtime; None for the CPU, or with engines
    engine: bool = False  # run the bundle's engines, not ONNX Runtime
    target: str | None = None  # the target whose engines; None takes the first that run here
    cuda_graph: bool = False  # launch each engine as one CUDA graph


def backend_name(viewing: Viewing) -> str:
    """Name what was asked for, as `choose_backend` takes it."""
    if viewing.engine:
        return ENGINE
    return "cpu" if viewing.provider is None else viewing.provider


def open_loader(bundle: Bundle, viewing: Viewing) -> Loader:
    """Choose what runs the graphs; memory is given back after each run, as each graph runs for one video.

    Raises:
        UserError: no engines that run here, or a provider that this ONNX Runtime does not have.
    """
    backend = choose_backend(bundle, backend_name(viewing), viewing.target)
    return Loader(bundle, backend, cuda_graph=viewing.cuda_graph, low_memory=True)


def check_viewing(viewing: Viewing) -> None:
    """Refuse, before any work, values that are not possible."""
    if viewing.engine and viewing.provider is not None:
        raise UserError(
            f"--engine runs TensorRT engines and --provider {viewing.provider} runs ONNX Runtime; give one of the two."
        )
    if not viewing.engine and (viewing.target is not None or viewing.cuda_graph):
        raise UserError("--target and --cuda-graph are about engines; give --engine with them.")
    if viewing.fps is not None and not 0 < viewing.fps <= MAX_FPS:
        raise UserError(
            f"--fps {viewing.fps:g} is not possible; give frames a second, above 0 and at most {MAX_FPS:g}."
        )
    check_thresholds(viewing.spatial, viewing.temporal)


def check_outputs(written: Mapping[str, Path], inputs: Mapping[str, Path]) -> None:
    """Refuse outputs that cannot be written, that are an input, one file, or in a bundle; also by links.

    Args:
        written: the files by their options.
        inputs: what is read, by what it is.
    """
    before = list(inputs.items())
    for option, path in written.items():
        check_writable(path, option)
        check_not_input(path, option, before)
        if (around := bundle_around(path)) is not None:
            raise UserError(
                f"{option} {path} would lie in the bundle {around}, which holds nothing else; give {option} a file "
                "elsewhere."
            )
        before.append((f"the {option} {path}", path))


def check_policy(bundle: Bundle, viewing: Viewing) -> None:
    """Refuse a threshold that the bundle solves itself."""
    check_solved(bundle.merge, viewing.temporal)


def decode(bundle: Bundle, path: Path, viewing: Viewing, steps: Steps) -> Video:
    """Decode the frames that the bundle looks at.

    Raises:
        UserError: unreadable video.
    """
    model, most = bundle.model, bundle.merge.frames * bundle.model.frames_per_step
    with steps.step("Decode the video"):
        video = read_sampled(path, model.sampling, viewing.fps, most)
    steps.say(f"{len(video.frames)} of {video.info.frames} frames, at most {most} a clip {video.note}".rstrip())
    return video


def encode(loader: Loader, video: Video, steps: Steps) -> Floats:
    """Run the vision encoder over the frames; [T', N, C]."""
    bundle = loader.bundle
    with steps.step("Encode the frames", steady=True) as advance:
        graph = bundle.graph(VISION_ENCODER)
        values = pixel_values(video.frames, bundle.model.pixels, bundle.model.frames_per_step)
        # Alone: beside a language model, two sets of weights may be one too many.
        with loader.open(VISION_ENCODER) as session:
            backend = session.backend
            features = encode_frames(session, graph, values, lambda done, n: advance(f"{done} of {n}", done / n))
    say_encoded(features, backend, steps)
    return features


def say_encoded(features: Floats, backend: str, steps: Steps) -> None:
    """Say what ran, and whether what it made can be used."""
    steps.say(f"with {backend}")
    if fault := nonfinite(features):
        steps.say(f"the vision encoder's features: {fault}; tokens of those cells mean nothing")


def thresholds(bundle: Bundle, viewing: Viewing) -> Thresholds:
    """Those that were given, or the bundle's."""
    return bundle.manifest.thresholds.given(viewing.spatial, viewing.temporal)


def merge(loader: Loader, viewing: Viewing, features: Floats) -> MergedTokens:
    """Run the token merger over what merges, [T', N, C], with the thresholds given or the bundle's."""
    given, merging = thresholds(loader.bundle, viewing), loader.bundle.merge
    with loader.open(TOKEN_MERGER) as session:
        return merge_features(session, merging, features, len(features), given.spatial, given.temporal)


def say_merged(merged: MergedTokens, bundle: Bundle, steps: Steps) -> None:
    """Say what is unusual about a merge."""
    if not merged.converged:
        steps.say(NOT_CONVERGED)
    if merged.num_frames == 1:
        steps.say(f"the clip has one {bundle.model.step}, so there was nothing to merge across frames")

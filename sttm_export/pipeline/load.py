"""`sttm_export.load`: a bundle, ready to be shown videos."""

from __future__ import annotations

from pathlib import Path

from sttm_export.bundle.opened import Bundle, open_to_run
from sttm_export.contracts.merge import Thresholds, check_solved, check_thresholds
from sttm_export.errors import UserError
from sttm_export.pipeline.backend import AUTO, choose_backend
from sttm_export.pipeline.loader import Loader
from sttm_export.pipeline.resident import Pipeline


def load(
    bundle: str | Path,
    *,
    backend: str = AUTO,
    target: str | None = None,
    cuda_graph: bool = False,
    threads: int = 0,
    window: int | None = None,
    still_tolerance: int | None = 0,
    spatial_threshold: float | None = None,
    temporal_threshold: float | None = None,
) -> Pipeline:
    """Load the vision side of a bundle; its language model follows with the first question.

    Neither PyTorch nor transformers nor onnx is imported. Of the bundle's files those are held to their sums that are
    loaded. With TensorRT, and with ONNX Runtime on CUDA, encoder and merger share one stream and the features stay in
    the memory of the GPU.

    Args:
        bundle: directory that sttm-export wrote.
        backend: `engine` for the bundle's TensorRT engines; `cpu`, `cuda`, `tensorrt` or the full name of a provider of
            ONNX Runtime; `auto` for engines that run here, else CUDA, else the CPU (`Pipeline.backend` says which it
            is, `Pipeline.reason` why).
        target: whose engines; None takes the first that run here.
        cuda_graph: launch each engine as one CUDA graph.
        threads: of ONNX Runtime within an operator; 0 leaves the choice to it.
        window: frames that are held at most; None for as many as the merger takes.
        still_tolerance: levels of grey, 0 to 255, by which a frame's pixels, at the model's resolution, may differ from
            a frame before it and still take over its features; None encodes every frame.
        spatial_threshold: cosine at which four cells merge; None for the bundle's.
        temporal_threshold: cosine at which tokens merge across frames; None for the bundle's. A bundle with the policy
            `budget` solves it, and takes none.

    Raises:
        UserError: no bundle, a file that was changed, a backend that is not here, or a value that is not possible.
    """
    loader, thresholds = prepare(
        open_to_run(bundle),
        backend=backend,
        target=target,
        cuda_graph=cuda_graph,
        threads=threads,
        spatial_threshold=spatial_threshold,
        temporal_threshold=temporal_threshold,
    )
    return Pipeline(loader, thresholds, window=window, still_tolerance=still_tolerance)


def prepare(
    opened: Bundle,
    *,
    backend: str = AUTO,
    target: str | None = None,
    cuda_graph: bool = False,
    threads: int = 0,
    spatial_threshold: float | None = None,
    temporal_threshold: float | None = None,
) -> tuple[Loader, Thresholds]:
    """Choose what `load` is about to load, and load nothing; arguments are those of `load`.

    Returns:
        What loads the graphs, and the thresholds that the merger is to be given.

    Raises:
        UserError: as `load`.
    """
    check_thresholds(spatial_threshold, temporal_threshold)
    check_solved(opened.merge, temporal_threshold)
    chosen = choose_backend(opened, backend, target)
    if cuda_graph and chosen.engines is None:
        raise UserError("A CUDA graph is made of engines; give the backend 'engine' with it.")
    thresholds = opened.manifest.thresholds.given(spatial_threshold, temporal_threshold)
    return Loader(opened, chosen, cuda_graph=cuda_graph, threads=threads), thresholds

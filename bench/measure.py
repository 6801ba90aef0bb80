"""One measurement in a process of its own: `python -m bench.measure STEP SETTINGS`; prints one line of JSON.

Steps: `export` writes the graph, `time` times all implementations in turns, `memory:NAME` runs one for its peak.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.clip import real_features
from bench.timing import memory_mib, summary
from sttm_export.contracts.graph import token_merger_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.timing.clock import interleave, milliseconds

GRID = (14, 14)
IMPLEMENTATIONS = ("onnxruntime", "reference", "static_eager")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@dataclass(frozen=True)
class Settings:
    """What one row of the result is about.

    Attributes:
        frames: T.
        channels: C.
        budget: share of tokens.
        policy: `budget` or `threshold`.
        thresholds: spatial and temporal, given to the merger.
        threads: of ONNX Runtime and PyTorch.
        provider: a key of `PROVIDERS`.
        runs: timed rounds.
        directory: where the graph lies.
        clip: a file of tests/golden.
    """

    frames: int
    channels: int
    budget: float
    policy: Any
    thresholds: tuple[float, float]
    threads: int
    provider: str
    runs: int
    directory: str
    clip: str

    def to_json(self) -> str:
        """One command-line argument."""
        return json.dumps(asdict(self))

    @property
    def merge(self) -> MergeSpec:
        """The merger's constants."""
        return MergeSpec(self.frames, *GRID, self.channels, self.budget, self.policy)

    def check(self) -> None:
        """Refuse impossible settings before anything runs; `UserError`."""
        token_merger_graph(self.merge, "fp32")

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Inputs of the graph, by name."""
        return {
            "features": real_features(self.frames, self.channels, self.clip),
            "num_frames": np.array(self.frames, np.int32),
            "spatial_threshold": np.array(self.thresholds[0], np.float32),
            "temporal_threshold": np.array(self.thresholds[1], np.float32),
        }


def export(settings: Settings) -> dict[str, Any]:
    """Write the graph; seconds it took and nodes it has."""
    import onnx

    from sttm_export.graphs.export import export_graph
    from sttm_export.merging.static import TokenMerger

    started = time.perf_counter()
    path = export_graph(
        TokenMerger(settings.merge), token_merger_graph(settings.merge, "fp32"), Path(settings.directory)
    )
    seconds = time.perf_counter() - started
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return {"export_seconds": round(seconds, 1), "graph_nodes": len(nodes)}


def times(settings: Settings) -> dict[str, Any]:
    """Time ONNX Runtime, the reference and the static module on the same features; compare what they decide."""
    inputs = settings.inputs()
    session = onnxruntime_session(settings)
    first = milliseconds(lambda: session.run(inputs))
    outputs = session.run(inputs)
    applied = outputs["thresholds_applied"]
    reference = reference_merge(settings, inputs, (float(applied[0]), float(applied[1])))
    expected = reference()
    static = static_merge(settings, inputs)
    calls = {"onnxruntime": lambda: session.run(inputs), "reference": reference, "static_eager": static}
    taken = {name: summary(values) for name, values in interleave(calls, settings.runs, warm_up=2).items()}
    return {
        **taken,
        "speedup": round(taken["reference"]["median_ms"] / taken["onnxruntime"]["median_ms"], 2),
        "first_run_ms": round(first, 1),
        "tokens": int(outputs["num_tokens"]),
        "max_tokens": settings.merge.max_tokens,
        "thresholds_applied": [round(float(value), 6) for value in applied],
        "converged": bool(outputs["converged"]),
        "assignment_equal": bool(np.array_equal(outputs["assignment"], expected.assignment.numpy())),
    }


def memory(settings: Settings, name: str) -> dict[str, Any]:
    """Peak memory of loading and running one implementation twice, features not counted."""
    inputs = settings.inputs()
    # Imports are not what is compared.
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401

    def call() -> Callable[[], Any]:
        if name == "reference":
            return reference_merge(settings, inputs, settings.thresholds)
        if name == "static_eager":
            return static_merge(settings, inputs)
        session = onnxruntime_session(settings)
        return lambda: session.run(inputs)

    def run() -> None:
        function = call()
        function()
        function()

    return {"peak_mib": memory_mib(run)}


def onnxruntime_session(settings: Settings) -> Any:
    """Open the exported graph."""
    from sttm_export.runtime.ort_session import OrtSession

    graph = token_merger_graph(settings.merge, "fp32")
    path = Path(settings.directory) / graph.onnx_file
    return OrtSession(path, graph, threads=settings.threads, provider=PROVIDERS[settings.provider])


def reference_merge(
    settings: Settings, inputs: dict[str, NDArray[Any]], thresholds: tuple[float, float]
) -> Callable[[], Any]:
    """The oracle in PyTorch at given thresholds; it solves none, which is to its advantage."""
    import torch

    from sttm_export.merging.reference import merge

    torch.set_num_threads(settings.threads)
    # A view: the reference takes [T, C, H, W] and turns it back at no cost.
    grid = torch.from_numpy(inputs["features"]).unflatten(1, GRID).permute(0, 3, 1, 2)
    return lambda: merge(grid, *thresholds, temporal_step=True)


def static_merge(settings: Settings, inputs: dict[str, NDArray[Any]]) -> Callable[[], Any]:
    """The module that is exported, run by PyTorch."""
    import torch

    from sttm_export.merging.static import TokenMerger

    torch.set_num_threads(settings.threads)
    module, tensors = TokenMerger(settings.merge), [torch.from_numpy(array) for array in inputs.values()]

    def run() -> Any:
        with torch.inference_mode():
            return module(*tensors)

    return run


def main(arguments: list[str]) -> None:
    """Run one step and print its result."""
    step, _, name = arguments[0].partition(":")
    fields = json.loads(arguments[1])
    settings = Settings(**{**fields, "thresholds": tuple(fields["thresholds"])})
    result = {"export": export, "time": times}[step](settings) if not name else memory(settings, name)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])

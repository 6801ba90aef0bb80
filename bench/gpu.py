"""The token merger on a GPU: ONNX Runtime CUDA against PyTorch CUDA, in turns.

Run from the repository: `python -m bench.gpu --output bench/results/<device>.json`.

Without an NVIDIA GPU, or without builds of PyTorch and ONNX Runtime for it, says so and ends with 0; `--require` makes
that a 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.measure import Settings, export
from bench.timing import summary
from sttm_export.contracts.graph import token_merger_graph
from sttm_export.engines.driver import gpu_capability
from sttm_export.errors import UserError
from sttm_export.families.registry import load_model
from sttm_export.timing.clock import interleave, milliseconds

# ONNX Runtime rounds operands of float32 products to 10 bits by default. Only sums of features would feel it, decisions
# come from multiply and sum, but a comparison in float32 should be one.
CUDA_OPTIONS = {"use_tf32": "0"}


def missing() -> str | None:
    """One sentence on why nothing can be measured here, or None."""
    if gpu_capability() is None:
        return "There is no NVIDIA GPU here, so nothing was measured; run this on a machine that has one."
    import onnxruntime
    import torch

    if not torch.cuda.is_available():
        return "This PyTorch has no CUDA, so nothing was measured; install a CUDA build of torch."
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "This ONNX Runtime has no CUDA, so nothing was measured; install onnxruntime-gpu in its place."
    return None


def measure(settings: Settings) -> dict[str, Any]:
    """Time the graph by ONNX Runtime CUDA and the static module by PyTorch CUDA; inputs and outputs stay on the GPU."""
    exported = export(settings)
    inputs = settings.inputs()
    by_torch, memory = _torch_call(settings, inputs)
    by_ort, outputs = _ort_call(settings, inputs)
    first = milliseconds(by_ort)
    on_cpu = cpu_outputs(settings, inputs)
    on_gpu = outputs()
    taken = interleave({"onnxruntime": by_ort, "torch": by_torch}, settings.runs, warm_up=3)
    times = {name: summary(values) for name, values in taken.items()}
    return {
        "policy": settings.policy,
        "budget": settings.budget,
        "frames": settings.frames,
        "channels": settings.channels,
        **exported,
        **times,
        "speedup": round(times["torch"]["median_ms"] / times["onnxruntime"]["median_ms"], 2),
        "first_run_ms": round(first, 1),
        "torch_peak_mib": memory(),
        "tokens": int(on_gpu["num_tokens"]),
        "assignment_equals_cpu": bool(np.array_equal(on_gpu["assignment"], on_cpu["assignment"])),
    }


def _torch_call(settings: Settings, inputs: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], float]]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    run = traced_module(settings, inputs, "cuda")

    def wait() -> None:
        run()
        torch.cuda.synchronize()

    return wait, lambda: round(torch.cuda.max_memory_allocated() / 2**20, 1)


def traced_module(settings: Settings, inputs: dict[str, Any], device: str) -> Callable[[], Any]:
    """Return a call of the static module on a device. It is traced: its tables are made on the CPU as it runs."""
    import torch
    from torch.export.passes import move_to_device_pass

    from sttm_export.merging.static import TokenMerger

    tensors = tuple(torch.from_numpy(array) for array in inputs.values())
    program = move_to_device_pass(torch.export.export(TokenMerger(settings.merge), tensors), device)
    module, moved = program.module(), [tensor.to(device) for tensor in tensors]

    def run() -> Any:
        with torch.inference_mode():
            return module(*moved)

    return run


def _ort_call(settings: Settings, inputs: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    import onnxruntime as ort

    graph = token_merger_graph(settings.merge, "fp32")
    session = ort.InferenceSession(
        str(Path(settings.directory) / graph.onnx_file),
        providers=[("CUDAExecutionProvider", CUDA_OPTIONS), "CPUExecutionProvider"],
    )
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    names = [tensor.name for tensor in graph.outputs]
    for name in names:
        binding.bind_output(name, "cuda", 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run, lambda: dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))


def cpu_outputs(settings: Settings, inputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs of the same graph by ONNX Runtime on the CPU."""
    from bench.measure import onnxruntime_session

    result: dict[str, Any] = onnxruntime_session(replace(settings, provider="cpu")).run(inputs)
    return result


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").split("\n", 1)[0])
    made.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64, 128], metavar="T")
    made.add_argument("--channels", type=int, default=3584, metavar="C")
    made.add_argument("--budget", type=float, default=0.5)
    made.add_argument("--runs", type=int, default=30)
    made.add_argument("--require", action="store_true", help="end with 2 where there is no GPU")
    made.add_argument("--output", type=Path, help="the result file")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure, or say why not."""
    options = parser().parse_args(arguments)
    reason = missing()
    if reason:
        print(reason)
        return UserError.exit_code if options.require else 0
    thresholds = load_model("llava-video-7b").published_thresholds(options.budget)
    rows = []
    for frames in options.frames:
        with tempfile.TemporaryDirectory() as directory:
            settings = Settings(
                frames=frames,
                channels=options.channels,
                budget=options.budget,
                policy="budget",
                thresholds=(thresholds.spatial, thresholds.temporal),
                threads=0,
                provider="cuda",
                runs=options.runs,
                directory=directory,
                clip="bikes_32x14x14",
            )
            rows.append(measure(settings))
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        machine.write_result(options.output, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())

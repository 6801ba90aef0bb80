"""The same table as `bench.decoder` on a GPU: ONNX Runtime CUDA, and engines where TensorRT can build them here.

Run from the repository: `python -m bench.decoder_gpu --output bench/results/decoder-<device>.json`.

Without an NVIDIA GPU, or without a build of ONNX Runtime for it, says so and ends with 0; `--require` makes that a 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import decoder, machine
from bench.gpu import missing
from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.target import TargetSpec, targets
from sttm_export.engines.api import UnavailableError
from sttm_export.engines.build import EngineRequest, build_engine, check_available
from sttm_export.engines.driver import gpu_capability
from sttm_export.errors import UserError
from sttm_export.runtime.session import StatefulSession


def openers() -> Iterator[tuple[str, decoder.Opener]]:
    """Yield what can run graphs here, by name."""
    yield "onnxruntime-cuda", _open_cuda
    target = find_target_here()
    if target is not None:
        yield target.flavour, _engine_opener(target)


def find_target_here() -> TargetSpec | None:
    """Return the target whose engines this machine builds and runs; None where there is no TensorRT for its GPU."""
    capability = gpu_capability()
    for target in targets().values():
        if capability not in target.compute_capabilities:
            continue
        try:
            check_available(target)
        except UnavailableError:
            continue
        return target
    return None


def _open_cuda(path: Path, graph: GraphSpec) -> StatefulSession:
    from sttm_export.runtime.ort_session import OrtSession

    return OrtSession(path, graph, provider="cuda")


def _engine_opener(target: TargetSpec) -> decoder.Opener:
    """Return what builds an engine beside its graph, if there is none yet, and loads it."""
    from sttm_export.runtime.trt_session import TrtSession

    capability = gpu_capability() if target.builds_without_gpu else None

    def open_engine(path: Path, graph: GraphSpec) -> StatefulSession:
        engine = path.with_suffix(f".{target.name}.engine")
        if not engine.is_file():
            build_engine(EngineRequest(path, target, capability, row_counts=graph.row_counts), engine)
        return TrtSession(engine, graph)

    return open_engine


def parser() -> argparse.ArgumentParser:
    """Return the command line: that of `bench.decoder`, without what is about the processor."""
    made = decoder.parser("bench.decoder_gpu")
    made.description = (__doc__ or "").split("\n", 1)[0]
    made.add_argument("--require", action="store_true", help="end with 2 where there is no GPU")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure, or say why not."""
    options = parser().parse_args(arguments)
    reason = missing()
    if reason:
        print(reason)
        return UserError.exit_code if options.require else 0
    try:
        found = measured(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.output:
        machine.write_result(options.output, found)
    return 0


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the result: the rows of everything that runs graphs here."""
    settings = decoder.settings_of(options)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.graphs or Path(scratch)
        decoder.run_alone(decoder.export_all, settings, folder)
        for name, opener in openers():
            for row in decoder.measure(settings, folder, opener):
                print(f"{name:17s} {decoder.table_line(row)}", flush=True)
                rows.append({"by": name} | row)
    return decoder.result(settings, rows, model=options.model)


if __name__ == "__main__":
    sys.exit(main())

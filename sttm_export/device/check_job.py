"""A job: run the engine of one graph on its fixture, compare with the reference, and take the time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttm_export.bundle import open_bundle
from sttm_export.device.jobs import serve_job
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.runtime.session import Array
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.spec.graph import VISION_ENCODER
from sttm_export.validation.fixture_check import check_encoder_fixture, check_merger_fixture

_MOST_MILLISECONDS = 20_000.0


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Run and compare; return the validation report and the latency in milliseconds."""
    bundle, name = open_bundle(request["bundle"], verify=False), request["graph"]
    graph = bundle.graph(name)
    fixture = read_fixture(bundle.fixture_path(name), graph)
    with TrtSession(Path(request["engine"]), graph, onnx_path=bundle.onnx_path(name)) as session:
        if name == VISION_ENCODER:
            report = check_encoder_fixture(session, fixture, bundle.model, bundle.accumulate)
        else:
            report = check_merger_fixture(session, fixture, bundle.merge)
        taken = _time(session, fixture[0], request["runs"])
    latency = {"median_ms": statistics.median(taken), "min_ms": min(taken), "runs": len(taken)}
    return {"validation": report.to_json(), "latency": latency}


def _time(session: TrtSession, inputs: Mapping[str, Array], runs: int) -> list[float]:
    """Milliseconds of each run; fewer runs where those asked for would take too long."""
    first = session.measure(inputs, 1)
    affordable = int(_MOST_MILLISECONDS / max(first[0], 1e-3))
    return session.measure(inputs, min(runs, affordable)) if affordable > 1 else first


if __name__ == "__main__":
    serve_job(check)

"""A job: run the engine of one graph on its fixtures, compare with the reference, and take the time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttm_export.bundle import CLIP, Bundle, open_bundle
from sttm_export.device.jobs import serve_job
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.runtime.session import Array, Session
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.spec.graph import VISION_ENCODER
from sttm_export.validation.fixture_check import check_encoder_fixture, check_merger_fixture
from sttm_export.validation.results import ValidationReport

_MOST_MILLISECONDS = 20_000.0


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Run and compare; return the validation report and the latency in milliseconds."""
    bundle, name = open_bundle(request["bundle"], verify=False), request["graph"]
    graph = bundle.graph(name)
    with TrtSession(Path(request["engine"]), graph, onnx_path=bundle.onnx_path(name)) as session:
        report = check_fixtures(session, bundle)
        taken = _time(session, read_fixture(bundle.fixture_path(name), graph)[0], request["runs"])
    latency = {"median_ms": statistics.median(taken), "min_ms": min(taken), "runs": len(taken)}
    return {"validation": report.to_json(), "latency": latency}


def check_fixtures(session: Session, bundle: Bundle) -> ValidationReport:
    """Run one graph on each of its fixtures, one in memory at a time, and compare."""
    report = ValidationReport()
    for case, path in bundle.fixture_paths(session.graph.name).items():
        fixture = read_fixture(path, session.graph)
        if session.graph.name == VISION_ENCODER:
            found = check_encoder_fixture(session, fixture, bundle.model, bundle.accumulate)
        else:
            found = check_merger_fixture(session, fixture, bundle.merge)
        report += found.on("the clip" if case == CLIP else f"the case {case}")
    return report


def _time(session: TrtSession, inputs: Mapping[str, Array], runs: int) -> list[float]:
    """Milliseconds of each run; fewer runs where those asked for would take too long."""
    first = session.measure(inputs, 1)
    affordable = int(_MOST_MILLISECONDS / max(first[0], 1e-3))
    return session.measure(inputs, min(runs, affordable)) if affordable > 1 else first


if __name__ == "__main__":
    serve_job(check)

"""A job: run the engine of one graph on its fixtures, compare with the reference, and take the time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttm_export.bundle.opened import Bundle, open_bundle
from sttm_export.contracts.graph import CLIP
from sttm_export.engines.children import Row, Tell, serve
from sttm_export.errors import UserError
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.kit.measure import settle
from sttm_export.runtime.session import Array, Session
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.validation.fixture_check import check_fixture
from sttm_export.validation.results import ValidationReport


def check(request: Row, _tell: Tell) -> Row:
    """Run and compare; return the validation report, latencies in milliseconds, and the engine's layers."""
    bundle, name = open_bundle(request["bundle"], verify=False), request["graph"]
    graph = bundle.graph(name)
    with TrtSession(Path(request["engine"]), graph) as session:
        report = check_fixtures(session, bundle)
        inputs = read_fixture(bundle.fixture_path(name), graph)[0]
        latency = {
            "copies": settle(lambda count: session.measure(inputs, count), request["runs"]),
            "compute": settle(lambda count: session.measure(inputs, count, copies=False), request["runs"]),
        }
        layers, reason = _layers(session)
    # One session at a time: a small device has no room for two.
    latency["graph"] = _as_graph(bundle, request, inputs)
    return {"validation": report.to_json(), "latency": latency, "layers": layers, "layers_reason": reason}


def check_fixtures(session: Session, bundle: Bundle) -> ValidationReport:
    """Run one graph on each of its fixtures, one in memory at a time, and compare."""
    report = ValidationReport()
    for case, path in bundle.fixture_paths(session.graph.name).items():
        found = check_fixture(session, read_fixture(path, session.graph), bundle.rules(session.graph.name))
        report += found.on("the clip" if case == CLIP else f"the case {case}")
    return report


def _as_graph(bundle: Bundle, request: dict[str, Any], inputs: Mapping[str, Array]) -> dict[str, Any]:
    """The same run launched as one CUDA graph, copies included; why not, where it cannot be captured."""
    try:
        with TrtSession(Path(request["engine"]), bundle.graph(request["graph"]), cuda_graph=True) as session:
            return settle(lambda count: session.measure(inputs, count), request["runs"])
    except UserError as error:
        return {"reason": str(error)}


def _layers(session: TrtSession) -> tuple[list[dict[str, str]], str]:
    try:
        return [dataclasses.asdict(layer) for layer in session.layers()], ""
    except UserError as error:
        return [], str(error)


if __name__ == "__main__":
    serve(check)

"""Bundles without graphs: what a directory must have to be taken for one, made in a millisecond."""

import dataclasses
import hashlib
import json
import subprocess

from sttm_export.bundle.manifest import FORMAT
from sttm_export.bundle.records import EngineRecord
from sttm_export.bundle.store import engines_staging, publish_engines
from sttm_export.bundle.sums import write_sums
from sttm_export.contracts.graph import Judge, JudgedGraph
from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.registry import load_model

_MODEL = load_model("llava-video-7b")
_MERGE = MergeSpec(4, _MODEL.grid.height, _MODEL.grid.width, _MODEL.channels, 0.5)
_RECIPE = Recipe(_MODEL, _MERGE, Thresholds(0.85, 0.65, "given"), "fp16", "fp32", 1)
FIELDS = {
    "format": FORMAT,
    "program": "sttm-export 0.1.0",
    "model": dataclasses.asdict(_MODEL),
    "precision": "fp16",
    "accumulate": "fp32",
    "batch": 1,
    "merge": dataclasses.asdict(_MERGE),
    "thresholds": {"spatial": 0.85, "temporal": 0.65, "source": "given"},
    "decoding": None,
    "calibration": None,
    "quantization": None,
    "weights": {"kind": "random", "identifier": "random", "sha256": "0" * 64, "revision": None, "seed": 0},
    "graphs": [
        dataclasses.asdict(JudgedGraph.of(_RECIPE.encoder_graph, Judge("floats", 28, 4304), 26)),
        dataclasses.asdict(JudgedGraph.of(_RECIPE.merger_graph, Judge("decisions"))),
    ],
    "targets": ["rtx"],
    "rule_findings": {},
    "versions": {},
    "files": [],
    "validation": None,
    "example": None,
}
_STAGE = {"stage": "engine", "against": "eager", "graph": "token_merger", "tensor": "tokens", "reason": "departs"}
MISSED = {"passed": False, "results": [{**_STAGE, "passed": False, "comparison": None, "decisions": None}]}
MISSED["findings"] = []


def make_bundle(directory, *, files=("a.onnx",), **fields):
    """Write the named files, a manifest and the sums of all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    (directory / "manifest.json").write_text(json.dumps(FIELDS | fields))
    write_sums(directory, [*files, "manifest.json"])
    return directory


def contents(directory):
    """Every file and link below a directory with what is in it, and the empty directories."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if path.is_file() or path.is_symlink() or not any(path.iterdir())
    }


def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


GRAPHS = ("vision_encoder", "token_merger")


def write_engine(folder, target, graph, capability, data=b"engine", stem="{graph}.{capability}"):
    """Put an engine of a few bytes, with sidecar and log, into a target's directory; return its record."""
    name = stem.format(graph=graph, capability=capability)
    (folder / f"{name}.engine").write_bytes(data)
    sidecar = {"engine": f"{name}.engine", "tensorrt": "tensorrt 10.3.0.30", "compute_capability": capability}
    (folder / f"{name}.engine.json").write_text(json.dumps(sidecar))
    (folder / f"{name}.log").write_text("a log")
    digest, below = hashlib.sha256(data).hexdigest(), f"{target}/{name}"
    return EngineRecord(
        target, capability, graph, "built", "", f"{below}.engine", digest, len(data), 1.0, f"{below}.log"
    )


def put_engines(bundle, target, *capabilities, data=b"engine", stem="{graph}.{capability}"):
    """Give a bundle engines of a few bytes for a target."""
    with engines_staging(bundle, target) as partial:
        records = [write_engine(partial, target, graph, one, data, stem) for one in capabilities for graph in GRAPHS]
        return publish_engines(bundle, target, partial, records)

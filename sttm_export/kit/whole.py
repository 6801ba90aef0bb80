"""Does the bundle hold what the kit uses, unchanged, and is it meant for the target? Checks like those of a machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.bundle.records import sha256_of
from sttm_export.bundle.sums import read_sums
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.memory import builder_base
from sttm_export.machine.needs import Needs, derive_needs
from sttm_export.machine.requirements import Check

KIT = "device"


def check_bundle(bundle: Bundle, target: TargetSpec) -> list[Check]:
    """Hold the bundle's files, fixtures, precision and rules against what a build for the target takes."""
    return [_files(bundle), _fixtures(bundle), _precision(bundle, target), _rules(bundle, target)]


def bundle_needs(bundle: Bundle, target: TargetSpec) -> Needs:
    """Return memory and disk that the bundle's engines for a target take."""
    sizes = {row.path: row.bytes for row in bundle.manifest.files}
    files = {name: f"{name}.onnx" for name in graph_names(bundle)}
    graphs = {name: sizes.get(file, 0) + sizes.get(f"{file}.data", 0) for name, file in files.items()}
    fixtures = {name: sizes.get(f"fixtures/{name}.npz", 0) for name in graphs}
    return derive_needs(graphs, fixtures, builder_base(target))


def graph_names(bundle: Bundle) -> list[str]:
    """Graphs of the bundle, in order."""
    return [graph.name for graph in bundle.manifest.graphs]


def is_writable(bundle: Path) -> bool:
    """Whether engines can be put into the bundle."""
    folders = [folder for folder in (bundle, bundle / "engines") if folder.exists()]
    return all(os.access(folder, os.W_OK) for folder in folders)


def _used(bundle: Bundle) -> Iterator[str]:
    """What the kit reads; report and picture may be left behind to save room on a device."""
    graphs = graph_names(bundle)
    wanted = {f"{name}.onnx" for name in graphs} | {f"{name}.onnx.data" for name in graphs}
    for row in bundle.manifest.files:
        if row.path in wanted or row.path.startswith(("fixtures/", f"{KIT}/")):
            yield row.path


def _files(bundle: Bundle) -> Check:
    needed, mend = "every file the build uses as it was exported", "copy the bundle anew, or export it again"
    recorded = read_sums(bundle.path)
    wrong = [name for name in _used(bundle) if not _same(bundle.path / name, recorded.get(name))]
    if not wrong:
        return Check("files", "ok", "unchanged, by sha256", needed)
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Check("files", "failed", f"{wrong[0]}{more} missing or changed", needed, mend)


def _same(path: Path, digest: str | None) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _fixtures(bundle: Bundle) -> Check:
    listed = {row.path for row in bundle.manifest.files}
    missing = [name for name in graph_names(bundle) if f"fixtures/{name}.npz" not in listed]
    needed = "reference inputs and outputs of every graph"
    if not missing:
        return Check("fixtures", "ok", "there", needed)
    mend = "export again without --no-validation: engines that nothing was compared with are not kept"
    return Check("fixtures", "failed", f"none for {' and '.join(missing)}", needed, mend)


def _precision(bundle: Bundle, target: TargetSpec) -> Check:
    found, needed = bundle.manifest.precision, f"one of {', '.join(target.precisions)}"
    if found in target.precisions:
        return Check("precision", "ok", found, needed)
    return Check("precision", "failed", found, needed, "export again with a --precision that the target has")


def _rules(bundle: Bundle, target: TargetSpec) -> Check:
    """Rules need the onnx package, so they were checked at export, for every target that there was then."""
    needed = f"graphs that break no rule of {target.name}"
    findings = bundle.manifest.rule_findings.get(target.name)
    if findings is None:
        known = ", ".join(bundle.manifest.rule_findings)
        return Check("rules", "unknown", f"checked for {known}", needed, "export again, with a program that knows it")
    broken = [row for row in findings if row.severity == "error"]
    if not broken:
        return Check("rules", "ok", "checked at export, none broken", needed)
    mend = "export with another --precision or for another target; no build would succeed, or it would be wrong"
    found = f"{broken[0].graph}: {broken[0].finding} ({len(broken)} in all)"
    return Check("rules", "failed", found, needed, mend)

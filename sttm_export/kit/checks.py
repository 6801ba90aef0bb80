"""Before any work: which target this machine is, and whether the bundle is whole and meant for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sttm_export.bundle.manifest import MANIFEST
from sttm_export.bundle.opened import Bundle
from sttm_export.bundle.records import sha256_of
from sttm_export.bundle.sums import read_sums
from sttm_export.contracts.records import read_json
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.memory import builder_base
from sttm_export.errors import UserError, did_you_mean
from sttm_export.machine.facts import MachineFacts
from sttm_export.machine.needs import Needs, derive_needs
from sttm_export.machine.requirements import Check, check_machine, failed

KIT, TARGETS = "device", "targets.json"


def own_bundle(program: str, script: str) -> Path:
    """Return the bundle that a program of its kit lies in.

    Args:
        program: its file, `<bundle>/device/sttm_export/kit/….py`.
        script: that starts it.

    Raises:
        UserError: it lies in none.
    """
    bundle = Path(program).resolve().parents[3]
    if not (bundle / MANIFEST).is_file():
        raise UserError(f"This is not the kit of a bundle; run bash device/{script} in the directory of a bundle.")
    return bundle


def read_targets(path: Path) -> list[TargetSpec]:
    """Read the targets that travel with a kit.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return [TargetSpec.from_json(row) for row in read_json(path)]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged; copy the bundle anew, with its directory device/.") from error


def pick_target(
    facts: MachineFacts, targets: Sequence[TargetSpec], wanted: str | None, exported: Sequence[str]
) -> TargetSpec:
    """Return the named target, or the one that fits this machine, or the one that misses least.

    The last is not a guess to build for: its checks fail, and the user is told what the nearest target lacks.

    Args:
        facts: this machine.
        targets: those of the kit.
        wanted: name, if one was given.
        exported: targets whose rules the graphs were checked against; preferred where several fit.

    Raises:
        UserError: there is no target of that name.
    """
    names = [target.name for target in targets]
    if wanted is not None:
        if wanted not in names:
            raise UserError(f"The kit has no target '{wanted}'.{did_you_mean(wanted, names)}")
        return targets[names.index(wanted)]

    def misses(target: TargetSpec) -> tuple[bool, int, bool]:
        faults = failed(check_machine(facts, target))
        elsewhere = any(fault.name == "processor" for fault in faults)
        return elsewhere, len(faults), target.name not in exported

    return min(targets, key=misses)


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
    needed, fix = "every file the build uses as it was exported", "copy the bundle anew, or export it again"
    recorded = read_sums(bundle.path)
    wrong = [name for name in _used(bundle) if not _same(bundle.path / name, recorded.get(name))]
    if not wrong:
        return Check("files", "ok", "unchanged, by sha256", needed)
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Check("files", "failed", f"{wrong[0]}{more} missing or changed", needed, fix)


def _same(path: Path, digest: str | None) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _fixtures(bundle: Bundle) -> Check:
    listed = {row.path for row in bundle.manifest.files}
    missing = [name for name in graph_names(bundle) if f"fixtures/{name}.npz" not in listed]
    needed = "reference inputs and outputs of every graph"
    if not missing:
        return Check("fixtures", "ok", "there", needed)
    fix = "export again without --no-validation: engines that nothing was compared with are not kept"
    return Check("fixtures", "failed", f"none for {' and '.join(missing)}", needed, fix)


def _precision(bundle: Bundle, target: TargetSpec) -> Check:
    manifest, needed = bundle.manifest, f"one of {', '.join(target.precisions)}"
    weights = manifest.decoding.weights if manifest.decoding else "float"
    found = manifest.precision if weights == "float" else f"{manifest.precision}, weights of the decoder in {weights}"
    if manifest.precision not in target.precisions:
        return Check("precision", "failed", found, needed, "export again with a --precision that the target has")
    if weights in target.lacks:
        fix = f"{target.lacks[weights]}; export again without --decoder-precision {weights}, or update JetPack"
        return Check("precision", "failed", found, needed, fix)
    return Check("precision", "ok", found, needed)


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
    fix = "export with another --precision or for another target; no build would succeed, or it would be wrong"
    found = f"{broken[0].graph}: {broken[0].finding} ({len(broken)} in all)"
    return Check("rules", "failed", found, needed, fix)

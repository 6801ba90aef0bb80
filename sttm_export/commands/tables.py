"""The table that closes an export and that `inspect` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sttm_export.bundle import Bundle
from sttm_export.engines.records import EngineRecord
from sttm_export.terminal import table_console
from sttm_export.validation.report import format_size, listed_files, verdict

_COLOR = {"passed": "green", "missed": "red", "unchecked": "yellow"}


def print_bundle(bundle: Bundle, console: Console | None = None) -> None:
    """Print files, sizes, K, decisions and the verdict."""
    console = console or table_console()
    manifest = bundle.manifest.data
    console.print(_facts(bundle))
    console.print(_files(manifest))
    if records := bundle.engine_records():
        console.print(engine_table(records))
    if manifest["validation"]:
        console.print(stage_table(manifest["validation"]))
        for finding in manifest["validation"]["findings"]:
            console.print(f"finding: {finding}", markup=False)
    outcome = verdict(manifest)
    said = (f"Verdict: {outcome}", f"bold {_COLOR[outcome]}")
    console.print(Text.assemble(said, f"   report: {bundle.path / 'report.html'}"))
    if reason := bundle.rejected():
        console.print(f"This bundle was rejected when it was exported: {reason}.", style="bold red")


def _facts(bundle: Bundle) -> Table:
    merge, manifest = bundle.merge, bundle.manifest
    thresholds, example = manifest.thresholds, manifest.example
    table = Table(title=f"Bundle {bundle.path}", show_header=False)
    rows = [
        ("model", f"{bundle.model.title}, {manifest.precision}"),
        ("weights", _loud(bundle)),
        ("frames × cells", f"{merge.frames} × {merge.cells} ({merge.height}×{merge.width}), C = {merge.channels}"),
        (
            "budget",
            f"{merge.budget:g}: K = {merge.max_tokens} tokens of {merge.frames * merge.cells}, policy {merge.policy}",
        ),
        ("thresholds", f"spatial {thresholds.spatial:g}, temporal {thresholds.temporal:g} ({thresholds.source})"),
    ]
    if example:
        used = example.num_tokens / max(example.max_tokens, 1)
        solved = "spatial {:.4f}, temporal {:.4f}".format(*map(float, example.thresholds))
        rows.append(("validation clip", f"{example.clip}: {example.num_tokens} tokens, {used:.1%} of K; {solved}"))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _loud(bundle: Bundle) -> str:
    """Where the weights come from; random ones are said loudly."""
    source = bundle.weights
    return (
        f"{source.describe().upper()}: the numbers prove the graphs, not the model"
        if source.is_random
        else source.describe()
    )


def _files(manifest: dict[str, Any]) -> Table:
    table = Table("file", "size", "sha256", title="Files")
    for row in listed_files(manifest["files"]):
        table.add_row(row["path"], format_size(row["bytes"]), f"{row['sha256'][:16]}…" if row["sha256"] else "")
    return table


def engine_table(records: Sequence[EngineRecord]) -> Table:
    """One row for each engine that was built, skipped or refused."""
    table = Table("target", "graph", "status", "size", "seconds", "why not", title="Engines")
    for record in records:
        size, seconds = (format_size(record.bytes), f"{record.seconds:.1f}") if record.bytes else ("", "")
        target = f"{record.target} {record.compute_capability}".rstrip()
        table.add_row(target, record.graph, record.status, size, seconds, record.reason)
    return table


def stage_table(validation: dict[str, Any]) -> Table:
    """One row for each tensor of each stage, from `ValidationReport.to_json()`."""
    table = Table("stage", "graph", "tensor", "cosine", "norm ratio", "SQNR dB", "decisions", "verdict", title="Stages")
    for row in validation["results"]:
        figures, decisions = row["comparison"], row["decisions"]
        floats = ("", "", "")
        if figures:
            ratios = f"{float(figures['norm_ratio_min']):.5f}…{float(figures['norm_ratio_max']):.5f}"
            floats = (f"{float(figures['cosine_min']):.6f}", ratios, f"{float(figures['sqnr_db']):.1f}")
        agreed = (
            f"{decisions['cells_differing']} of {decisions['cells']} differ, {len(decisions['ties'])} ties"
            if decisions
            else ""
        )
        mark = Text("pass", "green") if row["passed"] else Text("MISS", "red")
        table.add_row(row["stage"], row["graph"], row["tensor"], *floats, agreed, mark)
    return table

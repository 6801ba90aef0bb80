"""The table that closes an export and that `inspect` shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from sttm_export.bundle.opened import Bundle
from sttm_export.bundle.records import EngineRecord
from sttm_export.commands.layout import print_facts, print_table
from sttm_export.contracts.losses import Losses
from sttm_export.contracts.model import counted
from sttm_export.contracts.quantization import Quantization
from sttm_export.system import size_text
from sttm_export.terminal import table_console
from sttm_export.validation.report import listed_files, verdict

_FIGURES = ("cosine_min", "norm_ratio_min", "norm_ratio_max", "sqnr_db")
_COLOR = {"passed": "green", "missed": "red", "unchecked": "yellow"}


def print_bundle(bundle: Bundle, console: Console | None = None) -> None:
    """Print files, sizes, K, decisions and the verdict."""
    console = console or table_console()
    manifest = bundle.manifest.data
    print_facts(console, f"Bundle {bundle.path}", _facts(bundle))
    _print_files(manifest, console)
    if records := bundle.engine_records():
        print_engines(records, console)
    if losses := bundle.manifest.int4_losses:
        print_losses(losses, console)
    if manifest["validation"]:
        print_stages(manifest["validation"], console)
    outcome = verdict(manifest)
    said = (f"Verdict: {outcome}", f"bold {_COLOR[outcome]}")
    console.print(Text.assemble(said, f"   report: {bundle.path / 'report.html'}"), soft_wrap=True)
    if reason := bundle.rejected():
        console.print(f"This bundle was rejected when it was exported: {reason}.", style="bold red", soft_wrap=True)


def _facts(bundle: Bundle) -> list[tuple[str, str]]:
    merge, manifest = bundle.merge, bundle.manifest
    thresholds, example = manifest.thresholds, manifest.example
    rows = [
        ("model", f"{bundle.model.title}, {manifest.precision}"),
        ("weights", _loud(bundle)),
        (
            f"{bundle.model.step.split()[0]}s × cells",
            f"{merge.frames} × {merge.cells} ({merge.height}×{merge.width}), C = {merge.channels}",
        ),
        (
            "budget",
            f"{merge.budget:g}: K = {merge.max_tokens} tokens of {merge.frames * merge.cells}, policy {merge.policy}",
        ),
        ("thresholds", f"spatial {thresholds.spatial:g}, temporal {thresholds.temporal:g} ({thresholds.source})"),
    ]
    if decoding := manifest.decoding:
        groups = f"{len(manifest.recipe.below)} + {len(manifest.recipe.above)} groups of layers"
        text = f"chunks of {decoding.chunk} rows, {decoding.text} slots for text"
        text += f"; weights in {decoding.weights}" if decoding.weights != "float" else ""
        rows.append(("language model", f"tokens merge before layer {decoding.merge_layer}; {groups}; {text}"))
    if manifest.calibration:
        file = manifest.calibration
        rows.append(("calibration", f"{file.name}, {file.frames} frames of {counted(file.clips, 'clip')}"))
    if manifest.quantization:
        rows += _int8(manifest.quantization)
    if example:
        used = example.num_tokens / max(example.max_tokens, 1)
        solved = "spatial {:.4f}, temporal {:.4f}".format(*map(float, example.thresholds))
        frames = counted(len(example.tokens_per_frame), bundle.model.step)
        ended = "" if example.converged else "; merging did NOT CONVERGE"
        kept = f"{example.num_tokens} tokens, {used:.1%} of K"
        rows.append(("validation clip", f"{example.clip}, {frames}: {kept}; {solved}{ended}"))
    return rows


def _int8(made: Quantization) -> list[tuple[str, str]]:
    """What is int8, what it saves, and what it changes."""
    costly = max(made.points, key=lambda row: float(row.cost))
    sizes = f"weights {size_text(made.weight_bytes)} for {size_text(made.weight_bytes_float16)} in float16"
    least = min((float(row.sqnr_db) for row in made.points if row.int8), default=math.inf)
    layers = f"{len(made.int8)} of {len(made.points)} layers, products of {least:.1f} dB and better"
    kept = f"; float16: {', '.join(row.name for row in made.kept[:4])}" if made.kept else ""
    more = f" and {len(made.kept) - 4} more" if len(made.kept) > 4 else ""
    rows = [("int8", f"{layers}; {sizes}; most costly {costly.name}, {float(costly.cost):.2g}{kept}{more}")]
    if change := made.decisions:
        cells = f"{change.cells_differing} of {change.cells} cells otherwise than by float features"
        moved = f"tokens move by {float(change.moved_relative):.2%}, features {float(change.features_sqnr_db):.1f} dB"
        rows.append(("int8 decisions", f"{cells}, {change.tokens_int8} tokens for {change.tokens_float}; {moved}"))
    return rows


def _loud(bundle: Bundle) -> str:
    """Where the weights come from; random ones are said loudly."""
    source = bundle.weights
    return (
        f"{source.describe().upper()}: the numbers prove the graphs, not the model"
        if source.is_random
        else source.describe()
    )


def _print_files(manifest: dict[str, Any], console: Console) -> None:
    rows = [
        (row["path"], size_text(row["bytes"]), f"{row['sha256'][:16]}…" if row["sha256"] else "")
        for row in listed_files(manifest["files"])
    ]
    print_table(console, "Files", ("file", "size", "sha256"), rows)


def print_engines(records: Sequence[EngineRecord], console: Console) -> None:
    """Print one row for each engine that was built, skipped or refused, and why one is not there."""
    rows = []
    for record in records:
        size, seconds = (size_text(record.bytes), f"{record.seconds:.1f}") if record.bytes else ("", "")
        target = f"{record.target} {record.compute_capability}".rstrip()
        rows.append((target, record.graph, record.status, size, seconds))
    print_table(console, "Engines", ("target", "graph", "status", "size", "seconds"), rows)
    for reason in dict.fromkeys(f"{r.target}, {r.status}: {r.reason}" for r in records if r.reason):
        console.print(Text(reason), soft_wrap=True)


def print_losses(losses: Losses, console: Console) -> None:
    """Print what weights of four bits lose, beside what float16 rounds away; `docs/quantization.md` says how."""
    errors = sorted(float(row.relative) for row in losses.weights)
    spread = f"{errors[0]:.3f} to {errors[-1]:.3f}, {counted(len(errors), 'weight')}"
    rows = [
        (f"layer {row.layer}", f"{row.added:.3f}", f"{row.stream:.3f}", _small(row.rounding)) for row in losses.layers
    ]
    if found := losses.logits:
        rows.append(("logits", f"{found.head:.3f}", f"{found.relative:.3f}", _small(found.rounding)))
        best = f"the best token is the same in {found.same_best} of {counted(found.rows, 'row')}"
        spread += f"; logits: cosine {found.cosine:.4f}, {best}"
    heading = ("relative error of", "by itself", "with all since the merge layer", "of float16 alone")
    if rows:
        print_table(console, "What INT4 weights lose", heading, rows)
    console.print(Text(f"INT4: relative error of a weight {spread}"), soft_wrap=True)


def _small(figure: float) -> str:
    return f"{figure:.1e}" if figure else ""


def print_stages(validation: dict[str, Any], console: Console) -> None:
    """Print `ValidationReport.to_json()`: for each graph and clip one row a tensor and stage; then the findings."""
    for (graph, clip), rows in groupby(validation["results"], key=lambda row: (row["graph"], row.get("clip", ""))):
        title = f"Stages of {graph}{f', on {clip}' if clip else ''}"
        shown = [(row["stage"], row["tensor"], _measured(row), _mark(row)) for row in rows]
        print_table(console, title, ("stage", "tensor", "measured", "verdict"), shown)
    for finding in validation["findings"]:
        console.print(Text(f"finding: {finding}"), soft_wrap=True)


def _measured(row: dict[str, Any]) -> str:
    """Figures of a tensor that passed, the reason of one that did not."""
    figures, decisions = row["comparison"], row["decisions"]
    if figures:
        ratios = f"{float(figures['norm_ratio_min']):.5f}…{float(figures['norm_ratio_max']):.5f}"
        text = (
            f"cosine {float(figures['cosine_min']):.6f}, norm ratio {ratios}, SQNR {float(figures['sqnr_db']):.1f} dB"
        )
        return text if row["passed"] else f"{text}; {row['reason']}"
    if decisions and row["passed"]:
        return f"{decisions['cells_differing']} of {decisions['cells']} differ, {len(decisions['ties'])} ties"
    return str(row["reason"])


def _mark(row: dict[str, Any]) -> Text:
    if row["passed"]:
        return Text("pass", "green")
    return Text("skip", "yellow") if row.get("skipped") else Text("MISS", "red")

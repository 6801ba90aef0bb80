"""`report.json` and, from it alone, `report.md`: what machine, what was checked, built, measured, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sttm_export.engines.execution import Layer, count_attention
from sttm_export.kit.measure import AGREEMENT
from sttm_export.machine.jetson import PowerFacts
from sttm_export.machine.requirements import Check
from sttm_export.system import size_text

REPORT, READABLE = "report.json", "report.md"
_KINDS = {"copies": "with copies", "compute": "compute alone", "graph": "as a CUDA graph, with copies"}
_WIDEST = 100
_MARK = {"ok": "ok", "failed": "**failed**", "unknown": "unknown"}


def write_reports(folder: Path, report: dict[str, Any]) -> None:
    """Write both reports into a directory."""
    text = json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")
    (folder / READABLE).write_text(readable_report(report), encoding="utf-8")


def readable_report(report: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    target = report["target"]
    parts = [
        [f"# Engines of {report['model']} for {target['title']}", "", _verdict(report)],
        ["## Machine", "", *_table(("", ""), _machine(report["machine"]))],
        [
            "## Checks before the build",
            "",
            *_table(("check", "", "found", "needed", "to do"), map(_check, report["checks"])),
        ],
        [
            "## Engines",
            "",
            *_table(("graph", "size", "built in", "memory taken", "least left free", "sha256"), _engines(report)),
        ],
        ["## Against the reference", "", *_validation(report["validation"])],
        ["## Latency", "", *_latency(report)],
        ["## Layers", "", *_layers(report)],
    ]
    return "\n".join(line for part in parts for line in [*part, ""])


def check_lines(checks: Sequence[Check]) -> list[str]:
    """Return lines for a terminal: each check, and under one that is not ok what to do."""
    lines = []
    for check in checks:
        lines.append(f"  {check.status:7}  {check.name}: {check.found}; needed: {check.needed}")
        if check.status != "ok" and check.fix:
            lines.append(f"           → {check.fix}")
    return lines


def mark(row: dict[str, Any]) -> str:
    """One word for a result of a validation report."""
    return "pass" if row["passed"] else "skip" if row["skipped"] else "MISS"


def _verdict(report: dict[str, Any]) -> str:
    if report["passed"]:
        return "**Passed**: every engine was run on this machine and agrees with the reference."
    return f"**Rejected**: {report['reason']} No engine of this build was kept."


def _machine(facts: dict[str, Any]) -> list[tuple[str, str]]:
    gpu, memory = facts["gpu"], facts["memory"]
    rows = [
        ("board", facts["model"]),
        ("system", f"{facts['distribution'] or facts['system']}, {facts['processor']}"),
        ("JetPack", f"{facts['jetpack'] or '?'} (Jetson Linux {facts['l4t']})" if facts["l4t"] else ""),
        ("GPU", f"{gpu['name']}, {gpu['compute_capability']}, CUDA {gpu['cuda']}" if gpu else ""),
        ("memory", size_text(memory["total"]) if memory["total"] else ""),
        (
            "TensorRT",
            "; ".join(f"{name} {row['version']}" for name, row in facts["tensorrt"].items() if row["version"]),
        ),
        ("Python, NumPy", f"{facts['python']}, {facts['numpy']['version']}"),
        ("power mode", PowerFacts(**facts["power"]).described),
    ]
    return [(name, value) for name, value in rows if value]


def _check(check: dict[str, str]) -> tuple[str, ...]:
    return (check["name"], _MARK[check["status"]], check["found"], check["needed"], check["fix"])


def _engines(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for build in report["builds"]:
        record = build["record"]
        taken, least = (_size(build["memory"][name]) for name in ("taken", "least_free"))
        size = size_text(record["bytes"]) if record["bytes"] else record["status"]
        rows.append((record["graph"], size, f"{record['seconds']:.1f} s", taken, least, record["sha256"][:16]))
    return rows


def _size(size: int | None) -> str:
    return "" if size is None else size_text(size)


def _validation(validation: dict[str, Any] | None) -> list[str]:
    if not validation or not validation["results"]:
        return ["Nothing was compared."]
    head = ("stage", "against", "tensor", "on", "measured", "allowed", "", "in words")
    lines = _table(head, map(_stage, validation["results"]))
    return lines + [f"- {finding}" for finding in validation["findings"]]


def _stage(row: dict[str, Any]) -> tuple[str, ...]:
    gate, decisions = row["gate"], row["decisions"]
    measured, allowed = "", ""
    if gate:
        measured, allowed = f"{float(gate['needed']):.2g}", f"{gate['relative']:.2g} = {gate['derivation']}"
    if decisions:
        measured = f"{decisions['cells_differing']} of {decisions['cells']} cells differ"
        allowed = f"ties within {decisions['band']:.2g} of a threshold"
    verdict = mark(row) if row["passed"] else f"**{mark(row)}**"
    tensor = f"{row['graph']}.{row['tensor']}"
    return (row["stage"], row["against"], tensor, row["clip"], measured, allowed, verdict, row["reason"])


def latency_text(found: dict[str, Any]) -> str:
    """The three figures of one graph, in a line."""
    parts = [f"{_milliseconds(found[kind])} {words}" for kind, words in _KINDS.items()]
    return "median: " + ", ".join(parts)


def _milliseconds(figure: dict[str, Any]) -> str:
    return f"{figure['median_ms']:.2f} ms" if "median_ms" in figure else "not possible"


def _latency(report: dict[str, Any]) -> list[str]:
    if not report["latency"]:
        return ["Not measured."]
    rows, notes = [], []
    for name, found in report["latency"].items():
        for kind, words in _KINDS.items():
            figure = found[kind]
            if "median_ms" not in figure:
                rows.append((name, words, "not possible", "", "", ""))
                notes.append(f"- {name}: {figure['reason']}")
                continue
            settled = f"yes, in {figure['windows']} windows" if figure["settled"] else "**no**"
            least = f"{figure['min_ms']:.2f} ms"
            rows.append((name, words, _milliseconds(figure), least, str(figure["runs"]), settled))
    mode = PowerFacts(**report["machine"]["power"]).described
    notes.append(
        "By the GPU's clock, in windows of runs until the medians of two in a row agreed within "
        f"{AGREEMENT:.0%}. Power mode: {mode}; clocks were left as they are."
    )
    return [*_table(("graph", "what", "median", "least", "runs", "settled"), rows), *notes]


def _layers(report: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in report["layers"].items():
        if found["reason"]:
            lines += [f"{name}: layers were not listed: {found['reason']}.", ""]
            continue
        layers = [Layer(**row) for row in found["layers"]]
        blocks, fused = report["attention_blocks"].get(name, 0), count_attention(layers)
        attention = f" Attention is fused in {fused} of {blocks} blocks, by the names of kernels." if blocks else ""
        rows = [
            (str(number), layer.name[:_WIDEST], layer.kind, layer.kernel[:_WIDEST])
            for number, layer in enumerate(layers, 1)
        ]
        lines += [f"{name}: {len(layers)} layers.{attention}", "", *_table(("", "layer", "kind", "kernel"), rows), ""]
    return lines or ["Not listed."]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows), ""]

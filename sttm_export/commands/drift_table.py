"""What `validate --bisect` prints: the last tensors in their bands, and the first out of its own."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from sttm_export.commands.layout import print_table
from sttm_export.drift.checks import Check
from sttm_export.drift.report import DriftReport

_BLOCKS = 4


def print_drift(report: DriftReport, console: Console) -> None:
    """Print both passes of a search and its result."""
    if report.boundaries:
        _print(report.boundaries[-_BLOCKS:], f"{report.graph}: ends of blocks, whole graph", console)
    title = f"{report.graph}: tensor by tensor, {report.compared} compared in {report.runs} runs"
    _print(report.checks, title, console)
    if report.finding is None:
        console.print(Text(report.sentence), soft_wrap=True)


def _print(checks: Sequence[Check], title: str, console: Console) -> None:
    rows = []
    for check in checks:
        place = check.place
        module = f"{place.module}\n{place.source}" if place.source else place.module
        mark = Text("in", "green") if check.passed else Text("OUT", "red")
        figures = (f"{check.measured:.2g}", f"{check.allowed:.2g}", str(check.nan), str(check.inf))
        rows.append((place.tensor, place.op, module, *figures, _expected(check), mark))
    headings = ("tensor", "op", "PyTorch module", "error", "band", "NaN", "Inf", "expected", "")
    print_table(console, title, headings, rows)


def _expected(check: Check) -> str:
    return f"{check.low:.3g} … {check.high:.3g}"

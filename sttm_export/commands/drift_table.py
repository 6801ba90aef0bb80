"""What `validate --bisect` prints: the last tensors in their bands, and the first out of its own."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sttm_export.validation.drift import Check, DriftReport

_BLOCKS = 4


def print_drift(report: DriftReport, console: Console) -> None:
    """Print both passes of a search and its result."""
    if report.boundaries:
        console.print(_table(report.boundaries[-_BLOCKS:], f"{report.graph}: ends of blocks, whole graph"))
    title = f"{report.graph}: tensor by tensor, {report.compared} compared in {report.runs} runs"
    console.print(_table(report.checks, title))
    if report.finding is None:
        console.print(report.sentence(), markup=False)


def _table(checks: Sequence[Check], title: str) -> Table:
    table = Table(title=title)
    for heading in ("tensor", "op", "PyTorch module", "error", "band", "NaN", "Inf", "expected", ""):
        # Names are folded, not cut: they are what one searches for.
        table.add_column(heading, overflow="fold")
    for check in checks:
        place = check.place
        module = f"{place.module}\n{place.source}" if place.source else place.module
        mark = Text("in", "green") if check.passed else Text("OUT", "red")
        figures = (f"{check.measured:.2g}", f"{check.allowed:.2g}", str(check.nan), str(check.inf))
        table.add_row(place.tensor, place.op, module, *figures, _expected(check), mark)
    return table


def _expected(check: Check) -> str:
    return f"{check.low:.3g} … {check.high:.3g}"

"""`--dry-run`: what an export would take, part by part."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from sttm_export.commands.layout import print_facts, print_table
from sttm_export.system import size_text
from sttm_export.terminal import table_console
from sttm_export.workflows.estimate import (
    PartEstimate,
    engine_copies,
    estimate_bytes,
    estimate_memory,
    estimate_parts,
)

if TYPE_CHECKING:
    from sttm_export.workflows.plan import ExportPlan


def print_estimate(plan: ExportPlan) -> None:
    """Print a row for each part, and the sums; nothing is read and nothing is written."""
    console, rows, copies = table_console(), estimate_parts(plan), engine_copies(plan)
    stored = ", decoder weights in int4" if plan.recipe.has_int4 else ""
    model = f"{plan.model.title}, {plan.recipe.precision}{stored}"
    print_facts(console, f"Dry run of {plan.output}", [("model", model)])
    header = ("part", "parameters", "weights", "memory to export", "memory to build", "minutes")
    shown = [_shown(list(alike)) for _, alike in groupby(rows, key=_figures)]
    print_table(console, "Parts", header, shown)
    most = max(row.engine_memory for row in rows)
    builds = f", {size_text(most)} to build engines" if most else ""
    facts = [
        ("disk", f"about {size_text(estimate_bytes(plan))}, with {copies} engine(s) of each graph"),
        ("memory", f"about {size_text(estimate_memory(plan))} to export{builds}; parts are done one after the other"),
        ("time", f"about {sum(row.seconds for row in rows) / 60:.0f} minutes on two cores, as measured once"),
    ]
    print_facts(console, "Together", facts)
    console.print(Text("Nothing was written; leave --dry-run out to export."), soft_wrap=True)


def _figures(row: PartEstimate) -> tuple[str, ...]:
    build = size_text(row.engine_memory) if row.engine_memory else ""
    minutes = f"{row.seconds / 60:.1f}"
    return (f"{row.parameters:,}", size_text(row.weights), size_text(row.memory), build, minutes)


def _shown(alike: list[PartEstimate]) -> tuple[str, ...]:
    """One row for parts in turn that take the same, as the groups of a decoder do; its figures are of one of them."""
    first, count = alike[0], len(alike)
    name = first.name if count == 1 else f"{first.name} … {alike[-1].name}, {count}, each"
    return (name, *_figures(first))

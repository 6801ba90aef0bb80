"""Tables of fidelity for the documentation: `python -m bench.fidelity_table bench/results/fidelity.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import fidelity_rule
from bench.fidelity_plot import total
from bench.methods import TITLES

COLUMNS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
GAP = "–"
Result = dict[str, Any]


def tables(result: Result) -> dict[str, str]:
    """Every table by its name."""
    sources = result["sources"]
    trained = [name for name in sources if sources[name]["trained"]] or list(sources)
    found = {f"{name} relative_error": by_budget(result, name, "relative_error") for name in trained}
    found |= {f"{name} cosine": by_budget(result, name, "cosine") for name in trained[:1]}
    return found | {
        "alike": how_alike(result),
        "rule": fidelity_rule.table(result),
        "sources": by_source(result),
        "published": by_published(result, trained[0]),
    }


def by_budget(result: Result, source: str, figure: str) -> str:
    """Means over the clips of a source: a row for each method, a column for each budget."""
    head = ["mean over clips", *(f"{budget:.0%}".replace("%", " %") for budget in COLUMNS)]
    return _table(head, lambda method: [_mean(result, source, method, budget, figure) for budget in COLUMNS])


def by_source(result: Result) -> str:
    """Means over the clips of every source at 30 and 50 %."""
    places = [(name, budget) for name in result["sources"] for budget in (0.3, 0.5)]
    head = [
        "relative error",
        *(f"{result['sources'][name]['title']}: {budget:.0%}".replace("%", " %") for name, budget in places),
    ]
    return _table(
        head, lambda method: [_mean(result, name, method, budget, "relative_error") for name, budget in places]
    )


def how_alike(result: Result) -> str:
    """Median cosines across frames and within them, of every clip."""
    lines = ["| median cosine | clip | with its place in the next frame | with its right neighbour |", "|---" * 4 + "|"]
    for source in result["sources"].values():
        for clip, (across, beside) in source["alike"].items():
            lines.append(f"| {source['title']} | {clip} | {_shown(across)} | {_shown(beside)} |")
    return "\n".join(lines)


def by_published(result: Result, source: str) -> str:
    """Where published thresholds lead each clip, and the peers at that count."""
    rows = [row for row in result["rows"] if row["source"] == source and row["budget"] is None]
    kinds = [method for method in TITLES if any(row["method"] == method for row in rows)]
    lines = [f"| clip | thresholds | tokens | {' | '.join(TITLES[method] for method in kinds)} |"]
    lines.append("|---" * (3 + len(kinds)) + "|")
    for row in (row for row in rows if row["method"] == "sttm-published"):
        same = {
            one["method"]: one for one in rows if (one["clip"], one["thresholds"]) == (row["clip"], row["thresholds"])
        }
        share = 100 * row["kept"] / total(result, source, row["clip"])
        cells = [_shown(same[method]["relative_error"]) if method in same else GAP for method in kinds]
        pair = ", ".join(f"{value:.2f}" for value in row["thresholds"])
        lines.append(f"| {row['clip']} | {pair} | {row['kept']} ({share:.1f} %) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(head: list[str], cells: Callable[[str], list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, title in TITLES.items():
        found = cells(method)
        if set(found) != {GAP}:
            lines.append(f"| {title} | {' | '.join(found)} |")
    return "\n".join(lines)


def _mean(result: Result, source: str, method: str, budget: float, figure: str) -> str:
    """The mean over the clips of a source; a gap where one of them cannot be reached."""
    keys = ("source", "method", "budget")
    found = [row[figure] for row in result["rows"] if tuple(row[key] for key in keys) == (source, method, budget)]
    return _shown(float(np.mean(found))) if len(found) == len(result["sources"][source]["clips"]) else GAP


def _shown(value: float) -> str:
    return f"{value:.3f}"


if __name__ == "__main__":
    for name, text in tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).items():
        print(f"\n{name}\n\n{text}")

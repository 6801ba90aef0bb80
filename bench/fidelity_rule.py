"""What a choice of the spatial threshold for each clip gains over the one of the other clips, from a result file.

The rule has no parameter: cells merge within frames, at the published threshold, only where neighbours of a frame are
more alike than a place is to itself in the next frame (medians of cosines). Otherwise nothing merges within frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.methods import published

BUDGETS = (0.2, 0.3, 0.5, 0.7)
Result = dict[str, Any]


def gains(result: Result, source: str, budget: float) -> tuple[float, float]:
    """Share of the calibrated choice's error that the oracle saves, and the rule; means over the clips of a source."""
    given: list[float] = result["spatial_thresholds"]
    found = [row for row in result["lines"] if (row["source"], row["budget"]) == (source, budget)]
    lines = {row["clip"]: np.array(row["errors"]) for row in found}
    saved = []
    for clip, errors in lines.items():
        mean = np.mean([other for name, other in lines.items() if name != clip], axis=0)
        # Of equal ones the greatest, as in `bench.fidelity`.
        calibrated = errors[len(mean) - 1 - int(np.argmin(mean[::-1]))]
        across, beside = result["sources"][source]["alike"][clip]
        chosen = errors[given.index(max(given)) if across >= beside else given.index(published(budget)[0])]
        saved.append((1 - errors.min() / calibrated, 1 - chosen / calibrated))
    oracle, rule = np.mean(saved, axis=0)
    return float(oracle), float(rule)


def table(result: Result) -> str:
    """A row for each source whose clips are several; at each budget what the oracle saves, and what the rule does."""
    head = [f"{100 * budget:.0f} %: {who}" for budget in BUDGETS for who in ("oracle", "rule")]
    lines = [f"| saved of the calibrated choice's error | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for name, source in result["sources"].items():
        if len(source["clips"]) > 1 and {row["budget"] for row in result["lines"] if row["source"] == name} >= set(
            BUDGETS
        ):
            cells = [f"{100 * gain:.1f} %" for budget in BUDGETS for gain in gains(result, name, budget)]
            lines.append(f"| {source['title']} | {' | '.join(cells)} |")
    return "\n".join(lines)

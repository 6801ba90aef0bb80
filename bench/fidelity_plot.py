"""Draw fidelity at a budget: relative error against the share of tokens, a line for each method.

Run from the repository: `python -m bench.fidelity_plot bench/results/fidelity.json bench/results/fidelity.png`.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.methods import TITLES
from bench.plot import FAINT, INK
from bench.results_file import draw_result
from sttm_export.errors import UserError

# STTM in strong blues, what merges in warm hues, what drops in greys and greens; markers tell apart what hues do not.
LOOKS = {
    "sttm-budget": ("#0b6e99", "o", "-", 2.4),
    "sttm-calibrated": ("#0a2f5c", "s", "-", 2.4),
    "sttm-threshold": ("#6fb7d6", ".", "--", 1.2),
    "tome-clip": ("#d1603d", "^", "-", 1.5),
    "tome-frame": ("#e6a87c", "v", "-", 1.5),
    "framefusion": ("#f2c14e", "D", "-", 4.5),  # wide, as STTM may lie right upon it
    "evs": ("#5b8c5a", "P", "-", 1.2),
    "dycoke": ("#9ab87a", "X", "-", 1.2),
    "pooling": ("#8a8f98", "h", "-", 1.2),
    "frames": ("#b9bdc4", "d", "-", 1.2),
}
COLUMNS = 3
Points = list[tuple[float, float]]


def panels(result: dict[str, Any]) -> list[tuple[str, list[str], str]]:
    """(heading, clips, source) of each panel: every clip of the trained sources, then the means of the others."""
    sources = result["sources"]
    names = sorted(sources, key=lambda name: not sources[name]["trained"])
    found = []
    for name in names:
        title, clips = sources[name]["title"], sources[name]["clips"]
        if sources[name]["trained"]:
            found += [(f"{clip}, {shape[0]} frames: {title}", [clip], name) for clip, shape in clips.items()]
        else:
            found.append((f"{title}: mean of {len(clips)} clips", list(clips), name))
    return found


def line(result: dict[str, Any], source: str, clips: Iterable[str], method: str) -> Points:
    """Mean share of tokens and mean relative error at each budget that all of these clips reach."""
    names = list(clips)
    rows = [row for row in result["rows"] if row["source"] == source and row["method"] == method and row["budget"]]
    points = []
    for budget in sorted({row["budget"] for row in rows}):
        found = [row for row in rows if row["budget"] == budget and row["clip"] in names]
        if len(found) == len(names):
            shares = [row["kept"] / total(result, source, row["clip"]) for row in found]
            points.append((float(np.mean(shares)), float(np.mean([row["relative_error"] for row in found]))))
    return points


def published(result: dict[str, Any], source: str, clip: str) -> Points:
    """Where published thresholds happen to lead a clip."""
    rows = [row for row in result["rows"] if (row["source"], row["clip"]) == (source, clip)]
    found = [row for row in rows if row["method"] == "sttm-published"]
    return [(row["kept"] / total(result, source, clip), row["relative_error"]) for row in found]


def total(result: dict[str, Any], source: str, clip: str) -> int:
    """Cells of a clip."""
    frames, height, width, _ = result["sources"][source]["clips"][clip]
    return int(frames * height * width)


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture.

    Raises:
        UserError: there are no rows.
    """
    if not result["rows"]:
        raise UserError("The result file has no rows; make one with python -m bench.fidelity.")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    wanted = panels(result)
    height = len(wanted) // COLUMNS + 1  # a place is left for the legend
    with plt.rc_context({"font.size": 9.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT}):
        figure, axes = plt.subplots(height, COLUMNS, figsize=(12.6, 3.5 * height + 0.7), dpi=90, squeeze=False)
        places = list(axes.flat)
        for axis, panel in zip(places, wanted, strict=False):
            _panel(axis, result, *panel)
        for axis in places[len(wanted) :]:
            axis.set_axis_off()
        places[len(wanted)].legend(*places[0].get_legend_handles_labels(), loc="center left", frameon=False)
        inches = figure.get_figheight()
        heading = "What merging keeps: error of the unmerged tokens against the share of tokens"
        figure.suptitle(heading, x=0.02, y=1 - 0.12 / inches, ha="left", fontsize=13, fontweight="bold")
        note = "relative error ‖unmerged − features‖ over ‖features‖; a gap is a count that the method cannot reach"
        figure.text(0.02, 1 - 0.55 / inches, note, fontsize=9, color="#5b616a")
        figure.subplots_adjust(0.055, 0.5 / inches, 0.985, 1 - 0.95 / inches, 0.16, 0.36)
        drawn = io.BytesIO()
        figure.savefig(drawn)
        plt.close(figure)
    # Lines need few colours: a palette halves the file.
    Image.open(drawn).convert("RGB").quantize(128).save(path, "PNG", optimize=True)


def _panel(axis: Any, result: dict[str, Any], heading: str, clips: list[str], source: str) -> None:
    for method, (colour, marker, dashes, width) in LOOKS.items():
        points = np.array(line(result, source, clips, method)).reshape(-1, 2)
        strong = method.startswith("sttm")
        axis.plot(
            100 * points[:, 0], points[:, 1], dashes, color=colour, marker=marker, label=TITLES[method],
            linewidth=width, markersize=4.5, zorder=4 if strong else 3,
        )  # fmt: skip
    # Of a mean there is no such point: every clip has its own count.
    spots = np.array(published(result, source, clips[0]) if len(clips) == 1 else []).reshape(-1, 2)
    axis.plot(
        100 * spots[:, 0], spots[:, 1], "*", color="#0b6e99", markeredgecolor="white", markersize=11,
        label=TITLES["sttm-published"], zorder=5,
    )  # fmt: skip
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 1)
    axis.set_xlabel("share of tokens, %")
    axis.set_title(heading, loc="left", fontsize=8.5)
    axis.grid(color=FAINT, linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(color=FAINT)


def main(arguments: list[str] | None = None) -> int:
    """Draw; 2 where there is nothing to draw."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fidelity_plot", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    return draw_result(options.result, "bench.fidelity", lambda result: draw(result, options.picture))


if __name__ == "__main__":
    sys.exit(main())

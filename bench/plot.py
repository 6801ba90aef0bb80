"""Draw a result file: time and memory against the number of frames.

Run from the repository: `python -m bench.plot bench/results/cpu.json bench/results/cpu.png`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.results_file import draw_result
from sttm_export.errors import UserError

# Two hues that stay apart for colour-blind readers, and a grey for what is only a step on the way.
LOOKS = {
    "onnxruntime": ("ONNX Runtime, exported graph", "#0b6e99", "o", "-"),
    "static_eager": ("the same module in PyTorch", "#8a8f98", "s", "-"),
    "reference": ("reference in PyTorch", "#d1603d", "^", "-"),
}
INK, FAINT = "#22262b", "#d9dce1"
PANELS = (("median_ms", "Time a clip", "ms"), ("peak_mib", "Peak memory", "MiB"))


def draw(result: dict[str, Any], policy: str, path: Path) -> None:
    """Write a PNG with two log-log panels for the rows of one policy.

    Raises:
        UserError: the file has no row of that policy.
    """
    rows = sorted((row for row in result["rows"] if row["policy"] == policy), key=lambda row: row["frames"])
    if not rows:
        raise UserError(f"The result file has no rows of policy '{policy}'; measure it, or choose another --policy.")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 10.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT}):
        figure, axes = plt.subplots(1, 2, figsize=(10.4, 4.7), dpi=160)
        for axis, (quantity, heading, unit) in zip(axes, PANELS, strict=True):
            _panel(axis, rows, quantity, heading, unit)
        figure.suptitle(title(rows[0]), x=0.02, y=0.985, ha="left", fontsize=13, fontweight="bold")
        figure.text(0.02, 0.905, _subtitle(result, rows[0]), ha="left", fontsize=9, color="#5b616a")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="lower left", ncol=4, frameon=False, bbox_to_anchor=(0.01, 0.0)
        )
        figure.subplots_adjust(left=0.075, right=0.975, top=0.8, bottom=0.22, wspace=0.2)
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)


def _panel(axis: Any, rows: list[dict[str, Any]], quantity: str, heading: str, unit: str) -> None:
    frames = [row["frames"] for row in rows]
    for name, (label, colour, marker, line) in LOOKS.items():
        values = [row[name][quantity] for row in rows]
        axis.plot(frames, values, line, color=colour, marker=marker, label=label, linewidth=2, markersize=6, zorder=3)
    start = rows[0]["onnxruntime"][quantity]
    linear = [start * count / frames[0] for count in frames]
    axis.plot(frames, linear, ":", color="#5b616a", linewidth=1.3, label="linear in frames", zorder=2)
    axis.margins(x=0.07, y=0.12)
    _annotate(axis, rows, quantity)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(frames, [str(count) for count in frames])
    axis.minorticks_off()
    low, high = axis.get_ylim()
    ticks = [m * 10**e for e in range(6) for m in (1, 2, 5) if low <= m * 10**e <= high]
    axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xlabel("frames T")
    axis.set_title(f"{heading}, {unit}", loc="left", fontsize=11)
    axis.grid(color=FAINT, linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(color=FAINT)


def _annotate(axis: Any, rows: list[dict[str, Any]], quantity: str) -> None:
    """Figures at the line that matters, above its points."""
    for row in rows:
        value = row["onnxruntime"][quantity]
        place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        colour = LOOKS["onnxruntime"][1]
        axis.annotate(f"{value:,.0f}", (row["frames"], value), **place, fontsize=8.5, color=colour, zorder=4)


def title(row: dict[str, Any]) -> str:
    """What was measured, in one line."""
    if row["policy"] == "threshold":
        return "Token merger at published thresholds"
    return f"Token merger, thresholds solved for {100 * row['budget']:.0f} % of the tokens"


def _subtitle(result: dict[str, Any], row: dict[str, Any]) -> str:
    where = result["device"]["gpu"] or result["device"]["cpu"]
    packages = result["versions"]
    runtime = packages.get("onnxruntime", packages.get("onnxruntime-gpu"))
    return (
        f"grid 14×14, C = {row['channels']}, float32, real video; {where}, {row['threads']} threads; "
        f"onnxruntime {runtime}, torch {packages['torch']}; {result['date']}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Draw; 2 where there is nothing to draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--policy", default="budget", choices=("budget", "threshold"))
    options = parser.parse_args(arguments)
    return draw_result(options.result, "bench.merger", lambda result: draw(result, options.policy, options.picture))


if __name__ == "__main__":
    sys.exit(main())

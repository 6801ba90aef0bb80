"""Charts as inline SVG: no script, no library, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 920, 220, 44, 12, 14, 30


def tokens_chart(counts: Sequence[int], cells: int, timestamps: Sequence[float] | None = None) -> str:
    """Bars of new tokens for each frame, under a line at the cells of one frame; returns an `<svg>` element.

    Args:
        counts: [T'] tokens that begin in each frame.
        cells: N, what a frame costs without merging.
        timestamps: [T'] seconds, for the axis and the tooltips.
    """
    if not counts:
        return ""
    span_x, span_y = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    top = max(cells, *counts)
    step = span_x / len(counts)
    labels = [f"{t:.2f} s" for t in timestamps] if timestamps is not None else [str(t) for t in range(len(counts))]
    parts = [_line(_TOP + span_y * (1 - value / top), str(value)) for value in (0, cells // 2, cells)]
    for t, count in enumerate(counts):
        height = span_y * count / top
        x, y = _LEFT + t * step + step * 0.12, _TOP + span_y - height
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{step * 0.76:.1f}" height="{height:.1f}" rx="1.5">'
            f"<title>frame {t} ({escape(labels[t])}): {count} new tokens of {cells} cells</title></rect>"
        )
    # A label needs about 62 pixels; more frames than fit are labelled at an even stride.
    stride = max(1, -(-len(counts) * 62 // span_x))
    for t in range(0, len(counts), stride):
        x = _LEFT + (t + 0.5) * step
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(labels[t])}</text>')
    name = "New tokens of each frame"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _line(y: float, label: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
    )

"""Charts as inline SVG: no script, no library, nothing loaded. A player marks its frame by `data-frame`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1180, 220, 48, 12, 14, 30
_NARROW, _LABELS = 580, 62  # width of one of two charts side by side; room for the labels of lines
_LETTER = 6.4  # pixels that a letter of a label takes


def tokens_chart(counts: Sequence[int], cells: int, timestamps: Sequence[float] | None = None) -> str:
    """Bars of new tokens for each frame, under a line at the cells of one frame; returns an `<svg>` element.

    Args:
        counts: [T'] tokens that begin in each frame.
        cells: N, what a frame costs without merging.
        timestamps: [T'] seconds, for the axis and the tooltips.
    """
    if not counts:
        return ""
    top = max(cells, *counts)
    labels = _frame_labels(len(counts), timestamps)
    parts = [_line(_y(value / top), str(value)) for value in (0, cells // 2, cells)]
    step = _span_x(_WIDTH) / len(counts)
    for t, count in enumerate(counts):
        x, y = _LEFT + t * step + step * 0.12, _y(count / top)
        parts.append(
            f'<rect class="bar" data-frame="{t}" x="{x:.1f}" y="{y:.1f}" width="{step * 0.76:.1f}" '
            f'height="{_y(0) - y:.1f}" rx="1.5">'
            f"<title>frame {t} ({escape(labels[t])}): {count} new tokens of {cells} cells</title></rect>"
        )
    return svg("New tokens of each frame", [*parts, *_frame_axis(labels)], _WIDTH)


def errors_chart(errors: Sequence[float], timestamps: Sequence[float] | None = None) -> str:
    """A line of the relative error of each frame, a point a frame; returns an `<svg>` element.

    Args:
        errors: [T'] relative errors; those that are not finite are left out.
        timestamps: [T'] seconds.
    """
    known = {t: float(error) for t, error in enumerate(errors) if math.isfinite(float(error))}
    if not known:
        return ""
    labels, top = _frame_labels(len(errors), timestamps), round_up(max(known.values()))
    step = _span_x(_WIDTH) / len(errors)
    points = {t: (_LEFT + (t + 0.5) * step, _y(error / top)) for t, error in known.items()}
    parts = [_line(_y(share), f"{100 * top * share:.3g} %") for share in (0, 0.5, 1)]
    parts.append(f'<polyline class="trace" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points.values())}"/>')
    parts += [
        f'<circle class="dot" data-frame="{t}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>frame {t} '
        f"({escape(labels[t])}): relative error {100 * known[t]:.3g} %</title></circle>"
        for t, (x, y) in points.items()
    ]
    return svg("Relative error of each frame", [*parts, *_frame_axis(labels)], _WIDTH)


def similarities_chart(histogram: Mapping[str, Any], applied: float, published: Mapping[str, float], name: str) -> str:
    """Bars of counted similarities, those that held in another colour, and thresholds as lines.

    Args:
        histogram: `Histogram.to_json()`.
        applied: the threshold of this clip, a solid line.
        published: thresholds by their labels, dashed lines.
        name: what was counted.

    Returns:
        An `<svg>` element; nothing where nothing was counted.
    """
    counts, held = histogram["counts"], histogram["held"]
    low, step = float(histogram["low"]), float(histogram["step"])
    if not sum(counts):
        return ""
    top, right = max(counts), low + step * len(counts)
    wide = _span_x(_NARROW) / len(counts)

    def x_of(value: float) -> float:
        return _LEFT + _span_x(_NARROW) * (min(max(value, low), right) - low) / (right - low)

    parts = [_line(_y(value / top, _LABELS), f"{value:,}", _NARROW) for value in sorted({0, top // 2, top})]
    for place, (count, above) in enumerate(zip(counts, held, strict=True)):
        start = low + place * step
        words = f"{start:.4g} to {start + step:.4g}" if place else f"below {start + step:.4g}"
        title = f"<title>{words}: {count:,}, of which {above:,} at or above the threshold</title>"
        for kind, share, lower in (("bar", above, 0), ("bar below", count - above, above)):
            if share:
                y, height = _y((share + lower) / top, _LABELS), _y(0, _LABELS) - _y(share / top, _LABELS)
                x = _LEFT + place * wide
                rect = f'x="{x + 0.5:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{height:.1f}"'
                parts.append(f'<rect class="{kind}" {rect}>{title}</rect>')
    ticks = _ticks(low, right)
    parts += [_text(x_of(value), _HEIGHT - 8, f"{value:.3g}") for value in ticks]
    lines = [("applied", f"{applied:.4f} applied", applied)]
    lines += [("published", f"{value:g} {label}", value) for label, value in published.items()]
    return svg(name, [*parts, *_labelled(lines, x_of)], _NARROW)


def _labelled(lines: Sequence[tuple[str, str, float]], x_of: Callable[[float], float]) -> list[str]:
    """Vertical lines; each label takes the first row in which it meets no other."""
    drawn, labels, rows = list[str](), list[str](), list[float]()
    for kind, label, value in sorted(lines, key=lambda line: x_of(line[2])):
        x, half = x_of(value), _LETTER * len(label) / 2
        middle = min(max(x, _LEFT + half), _NARROW - _RIGHT - half)
        row = next((number for number, end in enumerate(rows) if middle - half > end), len(rows))
        rows[row : row + 1] = [middle + half + 8]
        y = 14 + 15 * row
        drawn.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{_y(0, _LABELS):.1f}"/>')
        labels.append(f'<text class="{kind}" x="{middle:.1f}" y="{y}" text-anchor="middle">{escape(label)}</text>')
    return [*drawn, *labels]


def _ticks(low: float, right: float) -> list[float]:
    """Round numbers along an axis, about six of them."""
    step = round_up((right - low) / 6)
    return [
        round(place * step, 9) for place in range(math.ceil(low / step - 1e-9), math.floor(right / step + 1e-9) + 1)
    ]


def round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten; 1 for zero."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((times * power for times in (1, 2, 5) if value <= times * power * 1.000001), 10 * power)


def _frame_labels(count: int, timestamps: Sequence[float] | None) -> list[str]:
    """The times of so many frames, or their numbers; there may be more times, of a last step that was not full."""
    return [f"{t:.2f} s" for t in timestamps[:count]] if timestamps is not None else [str(t) for t in range(count)]


def _frame_axis(labels: Sequence[str]) -> list[str]:
    # A label needs about 62 pixels; more frames than fit are labelled at an even stride.
    step, stride = _span_x(_WIDTH) / len(labels), max(1, -(-len(labels) * 62 // _span_x(_WIDTH)))
    return [_text(_LEFT + (t + 0.5) * step, _HEIGHT - 8, labels[t]) for t in range(0, len(labels), stride)]


def _span_x(width: int) -> int:
    return width - _LEFT - _RIGHT


def _y(share: float, top: int = _TOP) -> float:
    """Where a share of the height lies."""
    return top + (_HEIGHT - top - _BOTTOM) * (1 - share)


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{escape(words)}</text>'


def _line(y: float, label: str, width: int = _WIDTH) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
    )


def svg_file(name: str, parts: Sequence[str], width: int, height: int, style: str) -> str:
    """A file of its own; `style` is CSS."""
    inside = svg(name, [f"<style>{style}</style>", *parts], width, height)
    return inside.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def svg(name: str, parts: Sequence[str], width: int, height: int = _HEIGHT) -> str:
    """An `<svg>` element of drawn parts."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'

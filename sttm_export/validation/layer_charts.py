"""Charts of layers as inline SVG: what few bits cost each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from sttm_export.validation.charts import round_up, svg

_WIDTH, _ROW, _NAME, _FIGURE, _TOP = 580, 19, 210, 76, 6
_LETTERS = 28  # of a name, in that much room
_MOST = 16
_WIDE, _HEIGHT, _LEFT, _RIGHT, _UPPER, _LOWER = 580, 220, 52, 96, 14, 30


def sqnr_chart(points: Sequence[Mapping[str, object]]) -> str:
    """Bars of the layers whose products lose most, the worst first; those that stay float16 in another colour.

    Args:
        points: each with `name`, `sqnr_db` and `int8`, as `contracts.quantization.QuantizedPoint` has them.

    Returns:
        An `<svg>` element; nothing where no figure is finite.
    """
    found = [(float(str(row["sqnr_db"])), str(row["name"]), bool(row["int8"])) for row in points]
    known = sorted(row for row in found if math.isfinite(row[0]))
    if not known:
        return ""
    shown, top = known[:_MOST], max(round_up(known[-1][0]), 1.0)
    span, parts = _WIDTH - _NAME - _FIGURE, list[str]()
    for place, (decibels, name, int8) in enumerate(shown):
        y, length = _TOP + place * _ROW, span * min(max(decibels / top, 0.0), 1.0)
        kind, words = ("bar", "int8") if int8 else ("bar below", "stays float16")
        parts.append(
            f'<text x="{_NAME - 8}" y="{y + 12}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect class="{kind}" x="{_NAME}" y="{y}" width="{length:.1f}" height="{_ROW - 5}" rx="1.5">'
            f"<title>{escape(name)}: {decibels:.1f} dB, {words}</title></rect>"
            f'<text x="{_NAME + length + 6:.1f}" y="{y + 12}">{decibels:.1f} dB</text>'
        )
    return svg("Signal to noise of the layers' products in int8", parts, _WIDTH, 2 * _TOP + len(shown) * _ROW)


def losses_chart(layers: Sequence[Mapping[str, object]]) -> str:
    """Lines over the layers: the error of the stream that quantized weights make, and what each layer adds to it.

    Args:
        layers: each with `layer`, `stream` and `added`, as `contracts.losses.LayerLoss` has them.

    Returns:
        An `<svg>` element; nothing where no figure is finite.
    """
    lines = {kind: [float(str(row[kind])) for row in layers] for kind in ("stream", "added")}
    finite = [value for values in lines.values() for value in values if math.isfinite(value)]
    if not finite:
        return ""
    top = round_up(max(finite))
    step = (_WIDE - _LEFT - _RIGHT) / len(layers)
    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{_y(share):.1f}" y2="{_y(share):.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{_y(share) + 4:.1f}" text-anchor="end">{100 * top * share:.3g} %</text>'
        for share in (0, 0.5, 1)
    ]
    for kind, label in (("stream", "whole stream"), ("added", "one layer")):
        points = [
            (_LEFT + (place + 0.5) * step, _y(value / top))
            for place, value in enumerate(lines[kind])
            if math.isfinite(value)
        ]
        if points:
            drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            x, y = points[-1]
            parts.append(f'<polyline class="trace {kind}" points="{drawn}"/>')
            parts += [f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
            parts.append(f'<text class="{kind}" x="{x + 8:.1f}" y="{y + 4:.1f}">{label}</text>')
    stride = max(1, -(-len(layers) * 26 // (_WIDE - _LEFT - _RIGHT)))
    parts += [
        f'<text x="{_LEFT + (place + 0.5) * step:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{row["layer"]}</text>'
        for place, row in enumerate(layers)
        if place % stride == 0
    ]
    return svg("Relative error behind each layer", parts, _WIDE, _HEIGHT)


def _y(share: float) -> float:
    return _UPPER + (_HEIGHT - _UPPER - _LOWER) * (1 - share)


def _short(name: str) -> str:
    """The end of a long name, which tells layers apart."""
    return name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"

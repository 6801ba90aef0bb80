"""A picture of a result: bars of medians with the middle half of the runs as a whisker, in panels of one scale each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from sttm_export.timing.decoder import ALL, DECODE, FIRST, FURTHER
from sttm_export.timing.live import LIVE, PIPELINE
from sttm_export.timing.result import Figure, Result
from sttm_export.timing.vision import ENCODER, MERGER
from sttm_export.timing.words import middle_text, time_text
from sttm_export.validation.charts import round_up, svg_file

_WIDTH, _NAME, _FIGURE, _ROW, _BAR, _TITLE, _GAP = 900, 210, 226, 27, 18, 30, 16
_LETTER = 6.3  # pixels that a letter inside of a bar takes
_PANELS = {
    (ENCODER, MERGER): "Encoder and merger",
    (FIRST,): "First token, from features on",
    (FURTHER, DECODE): "Behind the first token",
    (PIPELINE,): "Pipeline, from frames in memory on",
    (LIVE,): "Live, a step with a full window",
}
_SHADES = 5
_STYLE = """
text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1b1f27; }
text.quiet { fill: #626b79; font-size: 12px; } text.title { font-weight: 650; font-size: 14px; }
text.inside { fill: #1b1f27; font-size: 11px; }
.paper { fill: #ffffff; } .bar { fill: #e0a021; } .bar.all { fill: #a9a498; }
.part1 { fill-opacity: .75; } .part2 { fill-opacity: .55; } .part3 { fill-opacity: .85; } .part4 { fill-opacity: .65; }
.whisker { stroke: #1b1f27; stroke-width: 1.6; } .axis { stroke: #e4e1d8; }
@media (prefers-color-scheme: dark) {
text { fill: #eef0f3; } text.quiet { fill: #99a2b0; } .paper { fill: #181c24; } .bar { fill: #ffc44d; }
.bar.all { fill: #a3acba; } .whisker { stroke: #ffffff; } .axis { stroke: #2b313c; } }
"""


def plot_result(result: Result) -> str:
    """Return the text of an SVG file; it reads well on light and on dark ground, and loads nothing."""
    about, machine = result.about, result.machine
    parts, y = list[str](), 26
    runner = f"{result.runner.backend}{f', {result.runner.target}' if result.runner.target else ''}"
    tokens = f"{about.tokens} of {about.steps * about.cells} tokens kept"
    for line, kind in (
        (f"{about.model}, {about.precision}: {tokens}", "title"),
        (f"{runner} on {machine.gpu or machine.processor}; {result.date}", "quiet"),
    ):
        parts.append(f'<text class="{kind}" x="16" y="{y}">{escape(line)}</text>')
        y += 20
    for title, figures in panels(result.figures):
        y += _GAP
        parts += _panel(title, figures, y)
        y += _TITLE + _ROW * len(figures)
    height = y + 14
    ground = f'<rect class="paper" width="{_WIDTH}" height="{height}" rx="10"/>'
    return svg_file(f"Times of {about.model}", [ground, *parts], _WIDTH, height, _STYLE)


def panels(figures: Sequence[Figure]) -> Iterator[tuple[str, list[Figure]]]:
    """Figures that share a scale, with a title: those of one name, and those that belong together."""
    titles = {name: title for names, title in _PANELS.items() for name in names}
    grouped: dict[str, list[Figure]] = {}
    for figure in figures:
        grouped.setdefault(titles.get(figure.name, figure.name), []).append(figure)
    yield from grouped.items()


def _panel(title: str, figures: Sequence[Figure], y: float) -> Iterator[str]:
    top = round_up(max(figure.times.upper for figure in figures))
    yield f'<text class="title" x="16" y="{y + 16}">{escape(title)}</text>'
    end, bottom = _WIDTH - _FIGURE, y + _TITLE + _ROW * len(figures) - 4
    yield f'<text class="quiet" x="{end}" y="{y + 16}" text-anchor="end">{time_text(top)}</text>'
    for share in (0, 0.5, 1):
        x = _NAME + share * (end - _NAME)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 22}" y2="{bottom}"/>'
    for place, figure in enumerate(figures):
        several = len({other.name for other in figures}) > 1
        label = figure.key if several or not figure.way else figure.way
        yield from _bar(label, figure, y + _TITLE + place * _ROW, (end - _NAME) / top)


def _bar(label: str, figure: Figure, y: float, scale: float) -> Iterator[str]:
    times, kind = figure.times, "bar all" if figure.way == ALL else "bar"
    yield f'<text x="{_NAME - 10}" y="{y + 12}" text-anchor="end">{escape(label)}</text>'
    x = float(_NAME)
    for number, (name, median) in enumerate(_pieces(figure)):
        yield from _piece(
            f"{kind} part{number % _SHADES}", name, median, (x, y, median * scale), named=bool(figure.parts)
        )
        x += median * scale
    # Below the middle, where no label of a part stands.
    low, ends = y + _BAR - 3, [_NAME + edge * scale for edge in (times.lower, times.upper)]
    yield f'<line class="whisker" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{low}" y2="{low}"/>'
    right = _WIDTH - _FIGURE + 14
    yield f'<text x="{right}" y="{y + 13}">{escape(time_text(times.median))}</text>'
    yield f'<text class="quiet" x="{right + 78}" y="{y + 13}">{escape(middle_text(times))}</text>'


def _piece(kind: str, name: str, median: float, place: tuple[float, float, float], *, named: bool) -> Iterator[str]:
    """One part of a bar, with its name inside where there is room; `place` is where it begins, and how wide it is."""
    x, y, wide = place
    title = f"<title>{escape(name)}: {time_text(median)}</title>"
    rect = f'x="{x:.1f}" y="{y}" width="{max(wide, 0.5):.1f}" height="{_BAR}"'
    yield f'<rect class="{kind}" {rect}>{title}</rect>'
    if named and wide > _LETTER * len(name) + 8:
        yield f'<text class="inside" x="{x + 4:.1f}" y="{y + 12}">{escape(name)}</text>'


def _pieces(figure: Figure) -> list[tuple[str, float]]:
    """Parts of a bar, and what is left; scaled to its median, as medians of parts do not add up to it."""
    whole = figure.times.median
    parts = [(name, times.median) for name, times in figure.parts.items() if times.median > 0]
    known = sum(median for _, median in parts)
    if not parts:
        return [(figure.work, whole)]
    if known < whole:
        return [*parts, ("everything else", whole - known)]
    return [(name, median * whole / known) for name, median in parts]

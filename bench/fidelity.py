"""Fidelity at a budget: unmerged tokens against the features they stand for, STTM beside other methods.

Run from the repository: `python -m bench.fidelity --output bench/results/fidelity.json`, or on what a bundle's merger
reads: `python -m bench.fidelity --bundle DIR --video FILE …`. See docs/fidelity.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bench.methods import PEERS, TITLES, published_pairs, sttm
from bench.peers.reduced import OutOfReach, Reduced, unit
from bench.results_file import Row, short, write_rows
from bench.sources import bundle, files, random_tower, vgg, videos
from bench.sources.clip import Clip, Source
from sttm_export.contracts.model import MAX_FPS
from sttm_export.errors import UserError
from sttm_export.runtime.fidelity import fidelity
from sttm_export.runtime.sample_clips import CLIPS, find_sample_clip
from sttm_export.terminal import Steps

BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ENCODERS = {
    source.name: (source, encoder)
    for source, encoder in (
        (vgg.SOURCE, vgg.encoder),
        (vgg.RESIZED, vgg.resized_encoder),
        (random_tower.SOURCE, random_tower.encoder),
    )
}
SOURCES = ("golden", *ENCODERS)
SPATIAL = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 2.0)
"""Given spatial thresholds among which the other clips choose; at 2 no cells of a frame merge."""

Advance = Callable[[str, float | None], None]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m bench.fidelity", description=(__doc__ or "").split("\n", 1)[0])
    made.add_argument("--sources", nargs="+", choices=SOURCES, default=["golden"], help="of features of the real clips")
    made.add_argument(
        "--features", nargs="+", type=Path, metavar="FILE", help=".npz files with `features` [T, C, H, W]"
    )
    made.add_argument("--bundle", type=Path, metavar="DIR", help="take what the merger of this bundle reads")
    made.add_argument("--video", nargs="+", type=Path, metavar="FILE", help="videos for --bundle")
    made.add_argument("--frames", type=int, default=32, help="of each clip, for the sources that read the videos")
    made.add_argument("--fps", type=float, help="sample so many frames a second of them, --frames at most")
    made.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS), metavar="SHARE")
    made.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep encoded features here, and take those that are there"
    )
    made.add_argument("--output", type=Path, help="the result file; rows of other sources that it holds are kept")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Compare, print and write; 2 on bad input."""
    options = parser().parse_args(arguments)
    try:
        _check(options)
        _main(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _check(options: argparse.Namespace) -> None:
    if (options.bundle is None) != (options.video is None):
        raise UserError("--bundle and --video belong together; give a bundle and the videos that it is to look at.")
    if options.bundle is not None and options.features is not None:
        raise UserError("--bundle and --features are both sources of features; give one of the two.")
    if options.frames < 1:
        raise UserError(f"--frames {options.frames} is not possible; give a number from 1.")
    if options.fps is not None and not 0 < options.fps <= MAX_FPS:
        raise UserError(f"--fps {options.fps:g} is not possible; give a rate above 0 and at most {MAX_FPS:g}.")
    for budget in options.budgets:
        if not 0 < budget <= 1:
            raise UserError(f"--budgets {budget:g} is no share of tokens; give numbers above 0 and at most 1.")


def _main(options: argparse.Namespace) -> None:
    for source, group in groupby(clips(options), lambda clip: clip.source):
        tables = {clip.name: _one(clip, options) for clip in group}
        rows = [row for table in tables.values() for row in table["rows"]]
        lines = [row for table in tables.values() for row in table["lines"]]
        rows += (chosen := calibrated(lines))
        for row in chosen:
            print(
                f"{row['clip']} at {row['budget']:.0%}: spatial threshold {row['thresholds'][0]:g} of the other clips, "
                f"relative error {row['relative_error']:.3f}",
                file=sys.stderr,
            )
        if options.output:
            clips_of = {key: {name: table[key] for name, table in tables.items()} for key in ("clips", "alike")}
            about = _about(source) | clips_of
            store(options.output, source, about, rows, lines)


def _one(clip: Clip, options: argparse.Namespace) -> dict[str, Any]:
    """All rows of a clip, those of the line of thresholds, and what it is."""
    shape = list(clip.features.shape)
    steps = Steps(1)
    with steps.step(f"{clip.source.title}, {clip.name}, {shape}") as advance:
        rows = compare(clip, options.budgets, advance)
        lines = line(clip, options.budgets, advance)
    for budget in options.budgets:
        steps.say(_line(budget, [row for row in rows if row["budget"] == budget]))
    return {"rows": rows, "lines": lines, "clips": shape, "alike": alike(clip.features)}


def clips(options: argparse.Namespace) -> Iterator[Clip]:
    """What was asked for."""
    if options.bundle is not None:
        yield from bundle.clips(options.bundle, options.video)
        return
    if options.features is not None:
        yield from files.given(options.features)
        return
    for name in options.sources:
        if name in ENCODERS:
            paths = {clip: find_sample_clip(clip) for clip in sorted(CLIPS)}
            source, encoder = ENCODERS[name]
            yield from videos.clips(source, paths, options.frames, options.fps, encoder, options.cache)
        else:
            yield from files.golden()


def alike(features: Any) -> list[float]:
    """Median cosine of a cell with its place in the next frame, and with its right neighbour; [T, H, W, C]."""
    cells = unit(features)
    across = (cells[1:] * cells[:-1]).sum(-1) if len(cells) > 1 else np.ones(1)
    beside = (cells[:, :, 1:] * cells[:, :, :-1]).sum(-1)
    return [round(float(np.median(values)), 3) for values in (across, beside)]


def compare(clip: Clip, budgets: Sequence[float], advance: Advance) -> list[Row]:
    """All rows of a clip: at each budget, and at the counts that published thresholds happen to give."""
    rows: list[Row] = []
    total = int(np.prod(clip.features.shape[:3]))
    for budget in budgets:
        advance(f"at {budget:.0%}", None)
        wanted = int(np.floor(budget * total + 1e-6))
        rows += _sttm(clip, "sttm-budget", budget, wanted, "budget", None)
        rows += _sttm(clip, "sttm-threshold", budget, wanted, "threshold", None)
        rows += _peers(clip, budget, wanted)
    for pair in published_pairs():
        advance(f"thresholds {pair}", None)
        rows += (found := _sttm(clip, "sttm-published", None, total, "threshold", pair))
        rows += [row | {"thresholds": list(pair)} for row in _peers(clip, None, found[0]["kept"])]
    return rows


def line(clip: Clip, budgets: Sequence[float], advance: Advance) -> list[Row]:
    """Policy `budget` along the given spatial thresholds `SPATIAL`."""
    rows: list[Row] = []
    total = int(np.prod(clip.features.shape[:3]))
    for budget in budgets:
        for spatial in SPATIAL:
            advance(f"at {budget:.0%} with spatial threshold {spatial:g}", None)
            found = _sttm(clip, "sttm-calibrated", budget, int(budget * total + 1e-6), "budget", (spatial, 0.0))
            rows += [row | {"given": spatial} for row in found]
    return rows


def calibrated(lines: Iterable[Row]) -> list[Row]:
    """For each clip and budget, the row of the spatial threshold with the least mean error over the other clips."""
    table = {(row["clip"], row["budget"], row["given"]): row for row in lines}
    names = sorted({name for name, _, _ in table})
    rows = []
    for name, budget in sorted({(name, budget) for name, budget, _ in table}):
        others = [other for other in names if other != name and (other, budget, SPATIAL[0]) in table]
        if others:
            mean = [np.mean([table[other, budget, one]["relative_error"] for other in others]) for one in SPATIAL]
            # Of equal ones the greatest, which merges least within frames.
            rows.append(table[name, budget, SPATIAL[len(mean) - 1 - int(np.argmin(mean[::-1]))]])
    return rows


def _sttm(clip: Clip, name: str, budget: float | None, wanted: int, policy: Any, given: Any) -> list[Row]:
    try:
        made = sttm(clip.features, budget or 1.0, policy, given)
    except OutOfReach:
        return []
    applied = [round(value, 7) for value in made.thresholds]
    return [_row(clip, name, budget, wanted, made.reduced) | {"thresholds": applied}]


def _peers(clip: Clip, budget: float | None, wanted: int) -> list[Row]:
    rows = []
    for name, (_, reduce) in PEERS.items():
        try:
            rows.append(_row(clip, name, budget, wanted, reduce(clip.features, wanted)))
        except OutOfReach:  # a gap
            continue
    return rows


def _row(clip: Clip, method: str, budget: float | None, wanted: int, reduced: Reduced) -> Row:
    frames = len(clip.features)
    found = fidelity(clip.features.reshape(frames, -1, clip.features.shape[-1]), reduced.tokens, reduced.assignment)
    return {
        "source": clip.source.name,
        "clip": clip.name,
        "method": method,
        "budget": budget,
        "wanted": wanted,
        "kept": len(reduced.tokens),
        "relative_error": short(found.relative_error),
        "cosine": short(found.cosine),
        "error_of_frames": _spread(found.error_of_frame),
        "cosine_of_frames": _spread(found.cosine_of_frame),
    }


def _spread(values: Any) -> list[float]:
    """Least, median and greatest: a compact form of a figure for each frame."""
    return [short(value) for value in np.quantile(values, (0.0, 0.5, 1.0))]


def _line(budget: float, rows: list[Row]) -> str:
    figures = ", ".join(f"{TITLES[row['method']]} {row['relative_error']:.3f}" for row in rows)
    return f"{budget:4.0%}  {figures}"


def store(path: Path, source: Source, about: dict[str, Any], rows: list[Row], lines: list[Row]) -> None:
    """Add rows to a result file, in place of those of the same source."""
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept = {key: [row for row in before.get(key, []) if row["source"] != source.name] for key in ("rows", "lines")}
    few = lines_in_short(lines)
    about = {"spatial_thresholds": list(SPATIAL), "sources": before.get("sources", {}) | {source.name: about}}
    write_rows(path, about, rows=[*kept["rows"], *rows], lines=[*kept["lines"], *few])


def lines_in_short(lines: Iterable[Row]) -> list[Row]:
    """One row for each clip and budget, with the relative error at each of `SPATIAL`."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in lines:
        key = {name: row[name] for name in ("source", "clip", "budget")}
        found.setdefault(tuple(key.values()), key | {"errors": []})["errors"].append(row["relative_error"])
    return list(found.values())


def _about(source: Source) -> dict[str, Any]:
    return {key: value for key, value in asdict(source).items() if key != "name"}


if __name__ == "__main__":
    sys.exit(main())

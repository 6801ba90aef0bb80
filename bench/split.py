"""How a budget is split between the spatial and the temporal step: distortion along the line of pairs that fill it.

For one budget every spatial threshold has a temporal one that fills it, which policy `budget` solves. Here the spatial
one runs over `SPATIAL`. What the best of every single clip (the oracle) gains over the one that was best on the other
videos (calibrated) bounds what any rule that looks at the clip could gain.

Run from the repository: `python -m bench.split --output bench/results/split.json`. See docs/fidelity.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.methods import published, sttm
from bench.peers.reduced import OutOfReach
from bench.results_file import Row, short, write_rows
from bench.sources import files, vgg
from bench.sources.clip import Clip, read_features
from bench.sources.videos import Encode
from sttm_export.errors import UserError
from sttm_export.runtime.fidelity import fidelity
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import read_video
from sttm_export.terminal import Steps

SPATIAL = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.995, 2.0)
"""Given spatial thresholds; at 2 no cells of a frame merge, and the budget is filled across frames alone."""

BUDGETS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
STRIDES = {"bikes": (5, 5), "bunny": (4, 6), "carphone": (3, 8)}
"""Every so manieth frame of a video is encoded; of these, every so manieth makes about one frame a second."""

OFFSETS = {"bikes": (0, 16, 32), "bunny": (0, 16), "carphone": (0, 12, 24)}
"""Where cuts begin, in encoded frames."""

CUT, PAN = 16, 12
"""Frames of a cut, and of a pan: a window of 60 % of one frame that moves over it from corner to corner."""


def cuts(video: str, encode: Encode) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Clips of one video: cuts of 16 frames, two at about 1 fps, and a pan over one frame."""
    stride, sparse = STRIDES[video]
    frames = read_video(find_sample_clip(video), lambda info: list(range(0, info.frames, stride))).frames
    features = encode(frames).astype(np.float16)
    for offset in OFFSETS[video]:
        yield f"{video}-cut{offset}", features[offset : offset + CUT]
    for offset in (0, sparse // 2):
        yield f"{video}-1fps{offset}", features[offset::sparse]
    yield f"{video}-pan", encode(pan(np.asarray(frames[len(frames) // 2]))).astype(np.float16)


def pan(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[PAN, h, w, 3]: a camera that moves over a frame [H, W, 3]."""
    height, width = (int(0.6 * side) for side in frame.shape[:2])
    places = [
        ((frame.shape[0] - height) * k // (PAN - 1), (frame.shape[1] - width) * k // (PAN - 1)) for k in range(PAN)
    ]
    return np.stack([frame[y : y + height, x : x + width] for y, x in places])


def line(clip: Clip, budget: float) -> list[float]:
    """Relative error at each of `SPATIAL`; empty where the budget does not hold one frame's tokens."""
    cells = clip.features.reshape(len(clip.features), -1, clip.features.shape[-1])
    try:
        made = [sttm(clip.features, budget, "budget", (given, 0.0)).reduced for given in SPATIAL]
    except OutOfReach:
        return []
    return [fidelity(cells, *reduced).relative_error for reduced in made]


def best(errors: Iterable[float]) -> int:
    """Place of the least error; of equal ones the greatest threshold, which merges least within frames."""
    backwards = list(errors)[::-1]
    return len(backwards) - 1 - backwards.index(min(backwards))


def judge(source: str, budget: float, lines: Mapping[str, list[float]]) -> list[Row]:
    """For each clip: published, calibrated, the best fixed one in hindsight, and the oracle.

    Args:
        source: of the features.
        budget: share of tokens.
        lines: of each clip, named after its video up to the first hyphen; clips of one video do not choose for it.
    """
    fixed, rows = best(np.mean(list(lines.values()), axis=0)), []
    for name, errors in lines.items():
        others = [line for other, line in lines.items() if video_of(other) != video_of(name)]
        if not others:
            continue
        places = {
            "published": SPATIAL.index(published(budget)[0]),
            "calibrated": best(np.mean(others, axis=0)),
            "fixed": fixed,
            "oracle": best(errors),
        }
        found = {key: {"spatial": SPATIAL[place], "error": short(errors[place])} for key, place in places.items()}
        rows.append({"source": source, "clip": name, "budget": budget, **found})
    return rows


def video_of(clip: str) -> str:
    """The video that a clip was cut of."""
    return clip.split("-", 1)[0]


def gain(rows: Iterable[Row], over: str) -> float:
    """Mean over clips of the share of the error that the oracle saves."""
    return float(np.mean([1 - row["oracle"]["error"] / row[over]["error"] for row in rows]))


def clips(cache: Path | None) -> Iterator[Clip]:
    """The golden clips, and cuts of the videos with trained features."""
    yield from files.golden()
    encode: Encode | None = None
    for video in STRIDES:
        kept = sorted(cache.glob(f"split-{video}-*.npz")) if cache else []
        if not kept:
            encode = encode or vgg.encoder()
            for name, features in cuts(video, encode):
                if cache:
                    cache.mkdir(parents=True, exist_ok=True)
                    np.savez(cache / f"split-{name}.npz", features=features.transpose(0, 3, 1, 2))
                else:
                    yield Clip(vgg.SOURCE, name, features.astype(np.float32))
            kept = sorted(cache.glob(f"split-{video}-*.npz")) if cache else []
        for path in kept:
            yield Clip(vgg.SOURCE, path.stem.removeprefix("split-"), read_features(path))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the gains and write; 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m bench.split", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep features here, and take those that are there")
    parser.add_argument("--output", type=Path, help="the result file")
    options = parser.parse_args(arguments)
    try:
        rows = _measure(options.cache)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.output:
        write_rows(options.output, {"spatial_thresholds": list(SPATIAL)}, rows=rows)
    return 0


def _measure(cache: Path | None) -> list[Row]:
    lines: dict[tuple[str, float], dict[str, list[float]]] = {}
    for clip in clips(cache):
        with Steps(1).step(f"{clip.source.title}, {clip.name}, {list(clip.features.shape)}") as advance:
            for number, budget in enumerate(BUDGETS):
                advance(f"at {budget:.0%}", number / len(BUDGETS))
                if found := line(clip, budget):
                    lines.setdefault((clip.source.name, budget), {})[clip.name] = found
    rows = []
    for (source, budget), found in lines.items():
        rows += (judged := judge(source, budget, found))
        print(
            f"{source} at {budget:.0%}, {len(judged)} clips: the oracle saves {gain(judged, 'calibrated'):.1%} of the "
            f"error of the calibrated choice, {gain(judged, 'fixed'):.1%} of the best fixed one in hindsight"
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())

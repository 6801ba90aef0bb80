"""From clips to a calibration file: one pass over the encoder a clip, then the choices."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from sttm_export import __version__
from sttm_export.calibration.clips import Clip, identify, list_clips
from sttm_export.calibration.kept import KeptClips, Lines, check_ours, keeping, partial_directory
from sttm_export.calibration.lines import choose, grid, measure_line
from sttm_export.calibration.request import Request, check_apart, check_output, check_request
from sttm_export.calibration.seeing import Eyes, seen_parts
from sttm_export.contracts.calibration import CalibratedClip, Calibration
from sttm_export.contracts.model import counted
from sttm_export.corpora.failed import BadVideoError
from sttm_export.corpora.seeing import decoded
from sttm_export.errors import UserError
from sttm_export.files.locks import locked_beside
from sttm_export.files.whole import write_text_whole
from sttm_export.merging.static import TokenMerger
from sttm_export.quantization.ranges import choose_ranges
from sttm_export.quantization.statistics import ActivationStatistics, combine_ordered
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.video import Video, published_sampler, read_video
from sttm_export.system import read_memory, size_text
from sttm_export.terminal import Steps
from sttm_export.workflows.estimate import part_memory

STEPS = 4
# Share of a clip's time that the encoder takes, as measured; the rest is merging at every threshold.
_SEEING = 0.95


@dataclass(frozen=True)
class Outcome:
    """What became of a calibration."""

    calibration: Calibration
    failed: tuple[str, ...]  # why clips that were given are not in it


def run_calibration(request: Request, steps: Steps) -> Outcome:
    """Calibrate, and write the file whole.

    Raises:
        UserError: something in the request, the clips or the weights; finished clips are kept for the next call.
    """
    check_request(request)
    output, partial = request.output, partial_directory(request.output)
    paths = list_clips(request.clips)
    check_apart(output, paths, request.clips)
    check_ours(partial)
    check_memory(request)
    refusal = f"Another calibration is making {output} at this moment; wait for its end, or choose another --output."
    with locked_beside(output, refusal):
        # Once more: another one may have ended since.
        check_output(output, request.force)
        said: list[str] = []
        with steps.step("Find the clips") as advance:
            clips, failed = identify(paths, advance, said.append)
        for line in [*said, *(f"FAILED: {why}" for why in failed)]:
            steps.say(line)
        if not clips:
            _refuse(failed)
        with steps.step("Read the weights") as advance:
            eyes = Eyes(request.recipe, request.weights, request.random_seed, request.tower_weights, advance)
        steps.say(eyes.source.describe())
        with keeping(partial, _settings(request, eyes), request.force) as kept:
            rows = _measure(request, clips, eyes, kept, steps, failed)
            calibration = _choose(request, rows, eyes, kept, steps)
            write_text_whole(output, calibration.to_text())
            kept.remove()
    return Outcome(calibration, tuple(failed))


def check_memory(request: Request) -> None:
    """Refuse what this machine has no memory for.

    Raises:
        UserError: says what is needed and what is there.
    """
    # All parts are loaded at once.
    need = sum(map(part_memory, seen_parts(request.recipe)))
    free = read_memory().with_swap
    if free is not None and free < need:
        raise UserError(
            f"calibrate needs at least {size_text(need)} of memory and {size_text(free)} are free; close other "
            "programs, give a --merge-layer nearer to 0, or calibrate on a machine with more memory."
        )


def _settings(request: Request, eyes: Eyes) -> dict[str, Any]:
    """What results of a clip depend on, by the words that a user knows them by."""
    model = hashlib.sha256(json.dumps(asdict(request.model), sort_keys=True).encode()).hexdigest()
    published = request.model.published_thresholds
    return {
        "version of sttm-export": __version__,
        "--model": [request.model.name, model],
        "weights": eyes.digests,
        "--frames": request.steps * request.model.frames_per_step,
        "--budget": [[merge.budget, grid(published(merge.budget))] for merge in request.merges],
        "--fps": request.fps,
        "--merge-layer": request.recipe.merge_layer,
    }


Row = tuple[CalibratedClip, Lines]


def _measure(
    request: Request, clips: Sequence[Clip], eyes: Eyes, kept: KeptClips, steps: Steps, failed: list[str]
) -> list[Row]:
    """Lines of every clip, by sha256; their statistics are kept. Why others have none is added to `failed`."""
    before = {clip.sha256: row for clip in clips if (row := kept.read(clip.sha256))}
    if before:
        steps.say(f"{len(before)} of {counted(len(clips), 'clip')} were finished earlier, in {kept.directory}")
    rows = [_row(clip, *before[clip.sha256]) for clip in clips if clip.sha256 in before]
    todo = [clip for clip in clips if clip.sha256 not in before]
    measuring = _Measuring(request, eyes, kept)
    with steps.step("Measure the clips", steady=True) as advance:
        for place, clip in enumerate(todo):
            left, start = counted(len(todo) - place - 1, "clip") + " left", time.perf_counter()
            try:
                video = measuring.decode(clip)
            except BadVideoError as error:
                failed.append(str(error))
                steps.say(f"FAILED: {error}")
                continue

            def told(what: str, share: float, place: int = place, left: str = left) -> None:
                advance(f"{what}; {left}", (place + share) / len(todo))

            rows.append(_row(clip, len(video.frames), measuring.measure(clip, video, told)))
            note = f"; {video.note}" if video.note else ""
            steps.say(
                f"{clip.path}: {counted(len(video.frames), 'frame')}, {time.perf_counter() - start:.1f} s; {left}{note}"
            )
    if not rows:
        _refuse(failed)
    return sorted(rows, key=lambda row: row[0].sha256)


def _refuse(failed: Sequence[str]) -> NoReturn:
    raise UserError(f"No clip can be read, of {len(failed)}; give clips that play; the first: {failed[0]}")


def _row(clip: Clip, frames: int, lines: Lines) -> Row:
    return CalibratedClip(clip.name, clip.sha256, frames), lines


class _Measuring:
    """Measures clips one after the other."""

    def __init__(self, request: Request, eyes: Eyes, kept: KeptClips) -> None:
        self._model, self._eyes, self._kept = request.model, eyes, kept
        sampling = request.model.sampling
        # The graph takes at most T steps, whatever the model was evaluated with.
        most = min(sampling.max_frames, request.steps * request.model.frames_per_step)
        self._sampler = published_sampler(request.fps or sampling.fps, most)
        published = request.model.published_thresholds
        self._mergers = [(TokenMerger(merge), grid(published(merge.budget))) for merge in request.merges]

    def decode(self, clip: Clip) -> Video:
        """Return the frames that the model looks at.

        Raises:
            BadVideoError: it cannot be read.
        """
        return decoded(lambda: read_video(clip.path, self._sampler), clip.path)

    def measure(self, clip: Clip, video: Video, told: Callable[[str, float], None]) -> Lines:
        """Run a clip through the model, keep what was seen, and measure the lines of every budget."""
        pixels = pixel_values(video.frames, self._model.pixels, self._model.frames_per_step)
        features, seen = self._eyes.see(
            clip.name, clip.sha256, pixels, lambda what, share: told(f"{clip.name}, {what}", share * _SEEING)
        )
        count, done = sum(len(spatial) for _, spatial in self._mergers), 0

        def merged() -> None:
            nonlocal done
            done += 1
            told(f"{clip.name}, merging", _SEEING + (1.0 - _SEEING) * done / count)

        lines = [measure_line(merger, features, spatial, merged) for merger, spatial in self._mergers]
        self._kept.finish(clip.sha256, len(video.frames), seen, lines)
        return lines


def _choose(request: Request, rows: Sequence[Row], eyes: Eyes, kept: KeptClips, steps: Steps) -> Calibration:
    """Ranges and thresholds over all clips, which come by sha256."""
    model, layer = request.model, request.recipe.merge_layer
    with steps.step("Choose ranges and thresholds") as advance:
        seen = combine_ordered(
            (ActivationStatistics.load(kept.statistics_path(one.sha256)) for one, _ in rows), len(rows)
        )
        ranges = choose_ranges(seen, eyes.weights, eyes.points, lambda done, n: advance("ranges", done / n))
        choices = [
            choose(
                merge.budget,
                merge.frames,
                layer,
                model.published_thresholds(merge.budget),
                [lines[place] for _, lines in rows],
            )
            for place, merge in enumerate(request.merges)
        ]
    return Calibration(
        program=f"sttm-export {__version__}",
        model=model.name,
        weights_sha256=eyes.digests[0],
        clips=tuple(clip for clip, _ in rows),
        points=ranges,
        thresholds=tuple(choices),
    )

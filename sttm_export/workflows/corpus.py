"""Many videos with one load: a result for each, those that are finished skipped, those that fail listed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle, bundle_around
from sttm_export.contracts.model import counted
from sttm_export.corpora.failed import BadVideoError, FailedList
from sttm_export.corpora.find import Found, find_videos
from sttm_export.corpora.record import Results, State
from sttm_export.corpora.seeing import Viewer, check_name
from sttm_export.corpora.shard import Shard
from sttm_export.errors import UserError
from sttm_export.files.staging import sweep_shared
from sttm_export.pipeline.load import prepare
from sttm_export.terminal import Advance, Steps
from sttm_export.workflows.viewing import Viewing, backend_name, check_policy, check_viewing

STEPS = 4
WANTED = "give --videos a directory of videos, a video, or a .txt list of them"
# Seconds between two lines where there is no bar.
_TELL = 60.0


@dataclass(frozen=True, kw_only=True)
class Request(Viewing):
    """What to run on, and where to write."""

    videos: tuple[Path, ...]  # files, directories, lists
    output: Path  # the directory of the results
    shard: Shard  # which of the videos
    pictures: bool = False  # a contact sheet beside each result
    force: bool = False  # replace results of other settings
    threads: int = 0  # of ONNX Runtime within an operator; 0 leaves the choice to it


@dataclass
class Outcome:
    """What became of the videos."""

    merged: int = 0  # in this call
    finished: int = 0  # earlier
    failed: int = 0

    def __str__(self) -> str:
        """Counts, as they stand behind the bar and at the end."""
        return f"{self.merged} merged, {self.finished} finished earlier, {self.failed} failed"


def run_corpus(bundle: Bundle, request: Request, steps: Steps) -> Outcome:
    """Run every video of a part as far as its tokens merge.

    A video that cannot be read is listed in `failed.jsonl` and ends nothing. Whatever ends this, the results that
    stand are whole, and the same call goes on after them.

    Raises:
        UserError: a value that is not possible, videos that are not there, something in the way of a result, a graph
            that cannot be run, a full disk.
    """
    check_policy(bundle, request)
    viewer, outcome = _viewer(bundle, request), Outcome()
    results = Results(request.output, viewer.settings, pictures=request.pictures, force=request.force)
    with steps.step("Find the videos") as advance:
        found, said = _of_part(request, advance)
        todo, more = _unfinished(found, results, advance)
        outcome.finished = len(found) - len(todo)
        FailedList(request.output).forget({one.name for one in found})
    part = f" in part {request.shard.number} of {request.shard.of}" if request.shard.of > 1 else ""
    for line in [*said, f"{counted(len(found), 'video')}{part}, {outcome.finished} finished earlier", *more]:
        steps.say(line)
    if not todo:
        return outcome
    try:
        with steps.step("Load the graphs"):
            backend = viewer.pipeline.backend
        steps.say(f"with {backend}")
        with _going_on(outcome), steps.step("Run the videos", steady=True) as advance:
            _run(todo, viewer, results, outcome, _Telling(outcome, steps, advance, len(todo)))
    finally:
        viewer.close()
    return outcome


def check_request(request: Request) -> None:
    """Refuse, before any work, values that are not possible and an output that cannot be one.

    Raises:
        UserError: says which.
    """
    check_viewing(request)
    output, elsewhere = request.output, "choose another --output"
    if request.threads < 0:
        raise UserError(f"--threads {request.threads} is not possible; give 1 or more, or 0 for ONNX Runtime's choice.")
    if os.path.lexists(output) and not output.is_dir():
        raise UserError(f"--output {output} is no directory; with --videos, give one.")
    around = bundle_around(output / "x")
    if around is not None:
        raise UserError(f"--output {output} would lie in the bundle {around}, which holds nothing else; {elsewhere}.")
    if not output.absolute().parent.is_dir():
        raise UserError(f"There is no directory {output.parent} for --output {output.name}; make it, or {elsewhere}.")


def _viewer(bundle: Bundle, request: Request) -> Viewer:
    loader, thresholds = prepare(
        bundle,
        backend=backend_name(request),
        target=request.target,
        cuda_graph=request.cuda_graph,
        threads=request.threads,
        spatial_threshold=request.spatial,
        temporal_threshold=request.temporal,
    )
    return Viewer(loader, thresholds, request.fps)


def _of_part(request: Request, advance: Advance) -> tuple[list[Found], list[str]]:
    """Videos of the part that is asked for, each once, and what is to be said about that.

    Raises:
        UserError: two videos that would have one result.
    """
    found: dict[str, Found] = {}
    twice = 0
    for number, one in enumerate(find_videos(request.videos, "--videos", WANTED)):
        if number % 1000 == 0:
            advance(one.name, None)
        if one.name not in request.shard:
            continue
        before = found.setdefault(one.name, one)
        if before is one:
            continue
        if before.path.resolve() != one.path.resolve():
            raise UserError(
                f"{before.path} and {one.path} would both have the result {one.name}.npz; give --videos a directory "
                "above both, or run them with an --output each."
            )
        twice += 1
    said = [f"{counted(twice, 'video')} given more than once count once"] if twice else []
    return list(found.values()), said


def _unfinished(found: list[Found], results: Results, advance: Advance) -> tuple[list[Found], list[str]]:
    """Videos without a finished result, and what is to be said about that; clears what killed processes have left.

    Raises:
        UserError: something lies where a result is to be, and may not be replaced.
    """
    todo: list[Found] = []
    states, folders = dict.fromkeys(State, 0), set[Path]()

    def count(state: State) -> None:
        states[state] += 1

    for number, one in enumerate(found):
        advance(f"{one.name}: finished?", number / len(found))
        folder = results.path(one.name).parent
        if folder not in folders:
            sweep_shared(folder)
            folders.add(folder)
        if results.finished(one.name, one.path, count) is None:
            todo.append(one)
    said = {
        State.CHANGED: "made before the video changed",
        State.DAMAGED: "found damaged",
        State.DIFFERING: "of other settings",
    }
    return todo, [
        f"{counted(states[state], 'result')} {words}: made anew" for state, words in said.items() if states[state]
    ]


def _run(todo: list[Found], viewer: Viewer, results: Results, outcome: Outcome, telling: _Telling) -> None:
    failed = FailedList(results.directory)
    for one in todo:
        telling.begin(one)
        try:
            check_name(one.name)
            seen = viewer.see(one.path)
        except BadVideoError as error:
            failed.add(one.path.absolute(), one.name, str(error))
            outcome.failed += 1
            telling.say(f"FAILED: {error}")
            continue
        viewer.write(seen, results, one.name)
        outcome.merged += 1
        if seen.note:
            telling.say(seen.note)


class _Telling:
    """Says how far it is: by the bar, or once a minute in a log."""

    def __init__(self, outcome: Outcome, steps: Steps, advance: Advance, count: int) -> None:
        self._outcome, self._steps, self._advance, self._count = outcome, steps, advance, count
        self._last = time.monotonic()

    def begin(self, one: Found) -> None:
        """Tell that a video begins."""
        done = self._outcome.merged + self._outcome.failed
        self._advance(f"{done} of {self._count}: {self._outcome}; {one.name}", done / self._count)
        if not self._steps.console.is_terminal and time.monotonic() - self._last > _TELL:
            self._last = time.monotonic()
            self.say(f"{done} of {self._count}: {self._outcome}")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._steps.say(line)


@contextmanager
def _going_on(outcome: Outcome) -> Iterator[None]:
    """Say of an interruption that nothing of what is finished is lost."""
    try:
        yield
    except KeyboardInterrupt as error:
        done = outcome.merged + outcome.finished
        raise KeyboardInterrupt(
            f"the same command goes on after the results that are finished, so far {done}"
        ) from error

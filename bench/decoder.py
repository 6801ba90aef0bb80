"""Time to the first token with merging inside the decoder and without, and to that of a second question.

Run from the repository: `python -m bench.decoder --layers 12 --output bench/results/decoder.json`.

One layer of a model's real shape, with random weights, is exported for each size of its buffers and run once for every
layer, with keys and values from the start: time does not depend on what weights hold, and those of one layer fill no
cache. Budgets take turns layer by layer, so that a slow spell of the machine meets all of them alike. See
bench/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import machine
from bench.clip import CLIPS, real_features
from bench.decoder_graphs import FULL, SYSTEM_TOKENS, Settings, export_all, run_alone
from sttm_export.contracts.decoding import head_graph
from sttm_export.contracts.graph import PRECISIONS, GraphSpec, token_merger_graph
from sttm_export.errors import UserError
from sttm_export.families.registry import load_model
from sttm_export.language.rows import rows_through
from sttm_export.machine.load import load, wait_for_quiet
from sttm_export.runtime.pipeline import merge_features
from sttm_export.runtime.session import StatefulSession

# Share of the full prefill's time: what the paper measured at L = 2 on an A100 with 18,522 tokens, and what this
# project aims at.
PAPER, AIM = {0.5: 0.484, 0.3: 0.331}, {0.5: 0.45, 0.3: 0.30}
STAGES = ("below", "merger", "above", "head")
NOTES = (
    "One layer's weights stand for all layers; `layers` of them were really run, each with keys and values of its own.",
    "What is `computed` is so many times the median of the measured layers below, and of those above; not measured.",
    "The merger got features with the similarities of real video, because hidden states of random weights merge "
    "unnaturally; its tokens are what the layers above read.",
    "Layers below the merge layer do the same work in every row and were run once.",
)

Floats = NDArray[np.float32]
Opener = Callable[[Path, GraphSpec], StatefulSession]


class Clock:
    """Seconds on the wall and of the processor."""

    def __init__(self, wall: float = 0.0, processor: float = 0.0) -> None:
        self.wall, self.processor = wall, processor

    def __add__(self, other: Clock) -> Clock:
        return Clock(self.wall + other.wall, self.processor + other.processor)

    @classmethod
    def of(cls, function: Callable[[], Any]) -> tuple[Any, Clock]:
        """Call a function; return what it gives, and what it took."""
        wall, processor = time.perf_counter(), time.process_time()
        made = function()
        return made, cls(time.perf_counter() - wall, time.process_time() - processor)


@dataclass(frozen=True)
class Streams:
    """What goes through the layers: [system][video], a first question, and another in its place."""

    video: Floats
    first: Floats
    again: Floats


@dataclass(frozen=True)
class Taken:
    """Time of one layer: for the first token, and for that of a second question."""

    first: Clock
    again: Clock


def measure(settings: Settings, folder: Path, opener: Opener) -> list[dict[str, Any]]:
    """Return one row for each share, from graphs that `export_all` wrote.

    Args:
        settings: what is measured.
        folder: of the graphs.
        opener: loads a graph.
    """
    head = head_clock(settings, folder, opener)
    sessions = {share: _open_layer(settings, share, folder, opener) for share in settings.shares}
    streams, below = _below(settings, sessions[FULL])
    merged = {budget: merge_real(settings, budget, folder, opener) for budget in settings.budgets}
    reading = {FULL: streams, **{budget: _with_tokens(streams, tokens) for budget, (tokens, _) in merged.items()}}
    mergers = {FULL: Clock(), **{budget: clock for budget, (_, clock) in merged.items()}}
    above = _above(settings, sessions, reading)
    rows = []
    for share in settings.shares:
        tokens = len(reading[share].video) - SYSTEM_TOKENS
        rows.append(
            {"share": share, "video_tokens": tokens} | _times(settings, below, mergers[share], above[share], head)
        )
        rows[-1]["slots"] = settings.slots(share)
    return with_ratios(rows)


def _below(settings: Settings, session: StatefulSession) -> tuple[Streams, list[Taken]]:
    streams, times = made_up(settings), []
    for _ in range(settings.merge_layer):
        streams, taken = through_layer(settings, session, streams)
        times.append(taken)
    return streams, times


def _above(
    settings: Settings, sessions: Mapping[float, StatefulSession], reading: Mapping[float, Streams]
) -> dict[float, list[Taken]]:
    times: dict[float, list[Taken]] = {share: [] for share in sessions}
    streams = dict(reading)
    for _ in range(settings.merge_layer, settings.layers):
        for share, session in sessions.items():
            streams[share], taken = through_layer(settings, session, streams[share])
            times[share].append(taken)
    return times


def _with_tokens(streams: Streams, tokens: Floats) -> Streams:
    return replace(streams, video=np.concatenate([streams.video[:SYSTEM_TOKENS], tokens]))


def made_up(settings: Settings) -> Streams:
    """Embeddings of a prompt: features of real video between random text."""
    rng, width = np.random.default_rng(0), settings.spec.hidden_size
    video = real_features(settings.frames, width, settings.clip).reshape(-1, width)
    system, first, again = (
        rng.standard_normal((count, width), np.float32) for count in (SYSTEM_TOKENS, *(settings.question,) * 2)
    )
    return Streams(np.concatenate([system, video]), first, again)


def through_layer(settings: Settings, session: StatefulSession, streams: Streams) -> tuple[Streams, Taken]:
    """Read a video in one layer, ask, and ask again in the place of the first question."""
    session.reset()
    run = partial(_run, settings, session)
    start = len(streams.video)
    (video, first), until_first = Clock.of(lambda: (run(streams.video, 0), run(streams.first, start)))
    again, until_again = Clock.of(lambda: run(streams.again, start))
    return Streams(video, first, again), Taken(until_first, until_again)


def _run(settings: Settings, session: StatefulSession, hidden: Floats, slot: int) -> Floats:
    positions = np.arange(slot, slot + len(hidden))
    axes = 3 if settings.spec.mrope_section else 1
    return rows_through(session, settings.spec, hidden, np.tile(positions, (axes, 1)), slot)


def _open_layer(settings: Settings, share: float, folder: Path, opener: Opener) -> StatefulSession:
    """Load the layer for a share, and call it once: a first call allocates, or compiles."""
    session = _open(folder / settings.layer_folder(share), settings.layer_graph(share), opener)
    _run(settings, session, np.zeros((settings.chunk, settings.spec.hidden_size), np.float32), 0)
    return session


def merge_real(settings: Settings, budget: float, folder: Path, opener: Opener) -> tuple[Floats, Clock]:
    """Merge features with the similarities of real video; return the tokens, and what merging took."""
    merge = settings.merge(budget)
    session = _open(folder / settings.merger_folder(budget), token_merger_graph(merge, "fp32"), opener)
    features = real_features(settings.frames, settings.spec.hidden_size, settings.clip)
    # Policy budget solves its own thresholds.
    call = partial(merge_features, session, merge, features, settings.frames, 1.0, 1.0)
    call()
    merged, taken = Clock.of(call)
    return np.asarray(merged.tokens, np.float32), taken


def head_clock(settings: Settings, folder: Path, opener: Opener) -> Clock:
    """Time of one row to logits."""
    session = _open(folder / settings.head_folder(), head_graph(settings.spec), opener)
    inputs = {"hidden": np.ones((1, settings.spec.hidden_size), np.float32)}
    session.run(inputs)
    _, taken = Clock.of(lambda: session.run(inputs))
    return taken


def _open(folder: Path, graph: GraphSpec, opener: Opener) -> StatefulSession:
    return opener(folder / graph.onnx_file, graph)


def _times(
    settings: Settings, below: Sequence[Taken], merger: Clock, above: Sequence[Taken], head: Clock
) -> dict[str, Any]:
    """Seconds of one share; those of all layers of the model are computed from the medians of those that were run."""
    stages = dict(zip(STAGES, (_sum(below), merger, _sum(above), head), strict=True))
    first = sum(stages.values(), Clock())
    again = sum((taken.again.wall for taken in (*below, *above)), head.wall)
    counts = ((below, settings.merge_layer), (above, settings.spec.layers - settings.merge_layer))
    all_first = sum(count * _median(taken.first for taken in layers) for layers, count in counts)
    all_again = sum(count * _median(taken.again for taken in layers) for layers, count in counts)
    return {
        "stages_s": {name: round(clock.wall, 3) for name, clock in stages.items()},
        "stage_shares": {name: round(clock.wall / first.wall, 4) for name, clock in stages.items()},
        "layer_below_s": _median(taken.first for taken in below),
        "layer_above_s": _median(taken.first for taken in above),
        "first_token_s": first.wall,
        "first_token_processor_s": first.processor,
        "second_question_s": again,
        "first_token_all_layers_computed_s": all_first + merger.wall + head.wall,
        "second_question_all_layers_computed_s": all_again + head.wall,
    }


def _sum(layers: Sequence[Taken]) -> Clock:
    return sum((taken.first for taken in layers), Clock())


def _median(clocks: Iterable[Clock]) -> float:
    return statistics.median([clock.wall for clock in clocks] or [0.0])


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add each row's share of the time without merging, measured and computed for all layers, and round."""
    full = rows[0]
    ratios = {
        "ratio": "first_token_s",
        "ratio_processor": "first_token_processor_s",
        "ratio_all_layers_computed": "first_token_all_layers_computed_s",
    }
    made = []
    for row in rows:
        marks = {"paper": PAPER.get(row["share"]), "aim": AIM.get(row["share"])}
        found = {name: round(row[key] / full[key], 4) for name, key in ratios.items()}
        rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        made.append({**rounded, **found, **marks})
    return made


def table_line(row: Mapping[str, Any]) -> str:
    """One row for people."""
    stages = ", ".join(f"{name} {row['stages_s'][name]:.2f}" for name in STAGES)
    line = (
        f"{row['share']:4.0%} {row['video_tokens']:5d} tokens  first token {row['first_token_s']:7.2f} s ({stages}), "
        f"second question {row['second_question_s']:6.2f} s"
    )
    if row["share"] == FULL:
        return line
    marks = [f"{name} {row[name]:.1%}" for name in ("paper", "aim") if row[name] is not None]
    return (
        f"{line}; {row['ratio']:.1%} of the full prefill (processor {row['ratio_processor']:.1%}), all layers, "
        f"computed: {row['ratio_all_layers_computed']:.1%}; {', '.join(marks) or 'no marks'}"
    )


def result(settings: Settings, rows: Sequence[Mapping[str, Any]], **how: Any) -> dict[str, Any]:
    """What goes into a result file, beside what it was measured on."""
    chosen = {key: value for key, value in vars(settings).items() if key != "spec"}
    sizes = {"system_tokens": SYSTEM_TOKENS, "layers_of_the_model": settings.spec.layers}
    return {**how, **chosen, **sizes, "notes": NOTES, "rows": list(rows)}


def cpu_opener(threads: int) -> Opener:
    """ONNX Runtime on the processor."""
    from sttm_export.runtime.ort_session import OrtSession

    return lambda path, graph: OrtSession(path, graph, threads=threads)


def parser(program: str = "bench.decoder") -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=(__doc__ or "").split("\n", 1)[0])
    made.add_argument("--model", default="llava-video-7b", help="whose decoder's shape is taken")
    made.add_argument("--frames", type=int, default=32, metavar="T")
    made.add_argument("--layers", type=int, help="layers that are run; all of the model if absent")
    made.add_argument("--merge-layer", type=int, default=2, metavar="L")
    made.add_argument("--question-tokens", type=int, default=24)
    made.add_argument("--text-slots", type=int, default=1024, help="slots of the buffers for all that is not video")
    made.add_argument("--chunk", type=int, default=256, help="rows of a prompt a call")
    made.add_argument("--precision", choices=PRECISIONS, default="fp16")
    made.add_argument("--clip", choices=CLIPS, default=CLIPS[0])
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--graphs", type=Path, help="keep graphs here, and take those that are there")
    made.add_argument("--wait", type=float, default=300.0, metavar="SECONDS", help="wait so long for a quiet machine")
    made.add_argument("--output", type=Path, help="the result file")
    return made


def settings_of(options: argparse.Namespace) -> Settings:
    """Return what a command line asks for.

    Raises:
        UserError: a model without a decoder, or settings that are impossible.
    """
    spec = load_model(options.model).decoder
    if spec is None:
        raise UserError(f"{options.model} has no decoder; give a model that has one.")
    return Settings(
        spec=spec,
        frames=options.frames,
        layers=spec.layers if options.layers is None else options.layers,
        merge_layer=options.merge_layer,
        question=options.question_tokens,
        text=options.text_slots,
        chunk=options.chunk,
        precision=options.precision,
        clip=options.clip,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; 2 where the settings are impossible."""
    options = parser().parse_args(arguments)
    try:
        settings = settings_of(options)
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.graphs or Path(scratch)
            run_alone(export_all, settings, folder)
            wait_for_quiet(options.wait)
            before = load()
            rows = measure(settings, folder, cpu_opener(options.threads))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{settings.layers} of {settings.spec.layers} layers run, merging at layer {settings.merge_layer}")
    for row in rows:
        print(table_line(row), flush=True)
    if options.output:
        how = {"model": options.model, "threads": options.threads, "provider": "cpu", "load_before": before}
        machine.write_result(options.output, result(settings, rows, **how))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Everything of a bundle that a user would time, one group after the other, and the result of it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sttm_export import __version__
from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.files.whole import written_whole
from sttm_export.pipeline.backend import Backend, choose_backend
from sttm_export.pipeline.layers_below import whole_vision
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.session import Arrays
from sttm_export.terminal import Steps
from sttm_export.timing.clock import Limits
from sttm_export.timing.decoder import LOWER_BOUND, Asked, Decoder, compute_decoder, measure_decoder
from sttm_export.timing.engines import GRAPH, LAUNCHED, engine_calls, measure_engine
from sttm_export.timing.held import Held
from sttm_export.timing.inputs import Inputs, take_inputs
from sttm_export.timing.live import (
    BELOW_TOO,
    compute_live,
    measure_live,
    measure_pipeline,
    measure_seeing,
)
from sttm_export.timing.plot import plot_result
from sttm_export.timing.request import Request
from sttm_export.timing.result import About, Computed, Figure, Result, Runner, Settings
from sttm_export.timing.state import Watch, warnings
from sttm_export.timing.vision import ENCODER, MERGER, compute_vision, graph_inputs, measure_vision, merge_once, works
from sttm_export.workflows.ask_memory import check_memory
from sttm_export.workflows.viewing import backend_name, check_policy, thresholds

UNSETTLED = "Times of {} had not settled when the warm-up was over; give more --seconds."


@dataclass
class _Found:
    """What was found so far."""

    figures: list[Figure] = field(default_factory=list)
    computed: list[Computed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Bench:
    """One bundle, on one clip, by one runner."""

    def __init__(self, bundle: Bundle, request: Request, backend: Backend, inputs: Inputs, steps: Steps) -> None:
        self.bundle, self.request, self.backend, self.inputs, self.steps = bundle, request, backend, inputs, steps
        self.found, self.given = _Found(), thresholds(bundle, request)
        self.loader = Held(bundle, backend, cuda_graph=request.cuda_graph, threads=request.threads)
        self.feeds: dict[str, Arrays] = graph_inputs(bundle, request, inputs)
        self.merged, self.runs_by = self._merge()
        self.limits = Limits(request.runs, request.seconds, self.loader.on_gpu)
        if inputs.note:
            self.found.notes.append(inputs.note)

    def _merge(self) -> tuple[MergedTokens, str]:
        loader = Loader(self.bundle, self.backend, threads=self.request.threads)
        return merge_once(self.bundle, loader, self.feeds, self.inputs.steps)

    def vision(self) -> None:
        """Encoder and merger by themselves."""
        bundle, request, found = self.bundle, self.request, self.found
        if self.backend.engines is not None:
            self._engines()
        else:
            with self.steps.step("Time encoder and merger") as advance, self.loader.holding():
                found.figures += measure_vision(bundle, self.loader, self.feeds, self.inputs, self.limits, advance)
        wanted = "" if self.backend.engines is None else GRAPH if request.cuda_graph else LAUNCHED
        by_key = {(figure.name, figure.way): figure for figure in found.figures}
        encoder, merger = by_key[ENCODER, wanted], by_key[MERGER, wanted]
        found.computed += compute_vision(bundle, self.inputs, self.merged, encoder, merger)

    def _engines(self) -> None:
        assert self.backend.engines is not None, "who asks has looked"
        recipe, engines = self.bundle.manifest.recipe, self.backend.engines.engines
        calls = list(engine_calls(recipe, self.feeds, works(self.bundle, self.inputs)))
        with self.steps.step("Time the engines") as advance:
            for place, call in enumerate(calls):

                def told(what: str, share: float, place: int = place) -> None:
                    advance(what, (place + share) / len(calls))

                figures, reason = measure_engine(call, engines[call.graph.name], self.limits, told)
                self.found.figures += figures
                self.found.notes += [reason] if reason else []

    def language(self) -> None:
        """The language model by itself, and from frames to the first token."""
        bundle, found = self.bundle, self.found
        with self.loader.holding():
            with self.steps.step("Load the language model"):
                decoder, merger = Decoder(bundle, self.loader), self.loader.hold(TOKEN_MERGER)
                asked = Asked(decoder, merger, self.feeds[TOKEN_MERGER], self.inputs)
            with self.steps.step("Time the language model") as advance:
                figures = measure_decoder(asked, self.limits, advance)
                found.figures += figures
                found.computed += compute_decoder(bundle, figures)
                found.notes.append(LOWER_BOUND)
            with self.steps.step("Time frames to the first token") as advance, whole_vision(self.loader) as vision:
                found.figures += measure_seeing(bundle, vision, asked, self.inputs, self.given, self.limits, advance)

    def frames(self) -> None:
        """From frames on, for a clip and live."""
        bundle, limits = self.bundle, self.limits
        with self.loader.holding(), whole_vision(self.loader) as vision:
            if bundle.manifest.decoding is None:
                with self.steps.step("Time frames to tokens") as advance:
                    self.found.figures += measure_pipeline(bundle, vision, self.inputs, self.given, limits, advance)
            with self.steps.step("Time a live window") as advance:
                figures = measure_live(bundle, vision, self.inputs, self.given, limits, advance)
        every = min(bundle.graph(VISION_ENCODER).inputs[0].shape[0], bundle.merge.frames * bundle.model.frames_per_step)
        self.found.figures += figures
        self.found.notes += [BELOW_TOO] if bundle.manifest.recipe.merge_layer else []
        self.found.computed += compute_live(figures, every)


def bench_bundle(bundle: Bundle, request: Request, steps: Steps) -> Result:
    """Time a bundle, and write the result and a picture of it, both or neither.

    Raises:
        UserError: nothing to time it on, no engine that runs here, no memory, or a graph that cannot be run.
    """
    check_policy(bundle, request)
    backend = choose_backend(bundle, backend_name(request), request.target)
    if bundle.manifest.decoding is not None and backend.on_cpu:
        check_memory(bundle, video=True, together=True)
    bench = _Bench(bundle, request, backend, take_inputs(bundle, request, steps), steps)
    with steps.step("Look at the machine"):
        watch = Watch()
    bench.vision()
    if bundle.manifest.decoding is not None:
        bench.language()
    bench.frames()
    result = _result(bench, watch)
    with written_whole(request.output, request.plot) as (file, picture):
        file.write(result.to_json().encode("utf-8"))
        picture.write(plot_result(result).encode("utf-8"))
    return result


def count_steps(bundle: Bundle, request: Request) -> int:
    """How many steps `bench_bundle` shows."""
    decoder, video = bundle.manifest.decoding, request.video is not None
    looking = (2 + (1 if bundle.manifest.recipe.merge_layer else 0)) if video else 0
    return 1 + looking + 1 + 1 + (3 if decoder else 1) + 1


def _result(bench: _Bench, watch: Watch) -> Result:
    state, found = watch.state(), bench.found
    return Result(
        program=f"sttm-export {__version__}",
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        about=_about(bench),
        runner=_runner(bench),
        settings=Settings(bench.request.runs, bench.request.seconds),
        machine=state,
        figures=tuple(found.figures),
        computed=tuple(found.computed),
        notes=tuple(dict.fromkeys(found.notes)),
        warnings=(*warnings(state, watch.advice), *_unsettled(found.figures)),
    )


def _unsettled(figures: Sequence[Figure]) -> Iterator[str]:
    names = [figure.key for figure in figures if not figure.settled]
    if names:
        yield UNSETTLED.format(", ".join(names))


def _about(bench: _Bench) -> About:
    manifest, merge, inputs = bench.bundle.manifest, bench.bundle.merge, bench.inputs
    decoding, decoder = manifest.decoding, manifest.model.decoder
    return About(
        model=manifest.model.name,
        precision=manifest.precision,
        weights=decoding.weights if decoding else "",
        frames=merge.frames,
        cells=merge.cells,
        channels=merge.channels,
        batch=manifest.batch,
        budget=merge.budget,
        policy=merge.policy,
        merge_layer=manifest.recipe.merge_layer,
        layers=decoder.layers if decoding and decoder else 0,
        chunk=decoding.chunk if decoding else 0,
        steps=inputs.steps,
        tokens=bench.merged.num_tokens,
        source=inputs.source,
    )


def _runner(bench: _Bench) -> Runner:
    engines = bench.backend.engines
    by = bench.runs_by.split()[0] if engines else bench.runs_by.split()[-1]
    target = engines.target if engines else ""
    return Runner(by, bench.runs_by, bench.request.threads, target, bench.request.cuda_graph)

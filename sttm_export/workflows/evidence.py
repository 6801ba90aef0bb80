"""The evidence in a bundle: every stage of a part on real frames and on edge cases, and fixtures for other machines."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import CLIP, GraphSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.recipe import Rules
from sttm_export.families.part import Array, Arrays, Case, Part
from sttm_export.runtime.finiteness import nonfinite, undefined_frames
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.session import Session, StatefulSession
from sttm_export.terminal import Advance
from sttm_export.validation.results import StageResult, ValidationReport
from sttm_export.validation.stages import EAGER, REFERENCE, Stage, judge_stages, run_stage, unjudged

PackFixture = Callable[[Case, Arrays], None]


def examine(
    part: Part,
    state: dict[str, Any],
    open_session: Callable[[], Session],
    rules: Rules,
    clip: Arrays,
    advance: Advance,
    *,
    name: str = "",
    pack: PackFixture | None = None,
) -> tuple[ValidationReport, Arrays]:
    """Reference → static eager → the session, on every case of a part; then the session over the whole clip.

    Args:
        part: whose stages are run.
        state: its parameters; emptied once no stage needs them, as a large part is in memory once only.
        open_session: loads the exported graph, which happens after that.
        rules: what outputs are judged by.
        clip: what the clip has become before this part.
        advance: told how far it is.
        name: of the clip, for the report.
        pack: is given each case that has a key, and the reference's outputs on it.

    Returns:
        All verdicts, and what the session made of the clip.
    """
    fed = {tensor: nonfinite(array) for tensor, array in clip.items()}
    bad = [f"the {tensor.replace('_', ' ')} it would be judged on: {fault}" for tensor, fault in fed.items() if fault]
    if bad:
        return _without_reference(part, open_session(), rules, clip, bad[0], name)
    report, session, progress = ValidationReport(), _Remembering(open_session), _Progress(part, clip, advance)
    for case, stages in _stages(part, state, session, rules, clip, progress):
        exact = (session.backend,) if case.exact else ()
        found = judge_stages(stages, case.inputs, rules, exact)
        report += found.on(case.name if case.edge or not name else f"{case.name} of {name}")
        if case.key and pack:
            pack(case, stages[0].outputs)
    made = part.forward(session, clip, progress.clip(session.backend))
    return report + _judge_all(part, session, made, name), made


class _Remembering:
    """A session that is loaded when it is first needed, and not run again on the clip's case.

    That case comes again where the whole clip is run. A graph with state is run again all the same: what counts there
    is also what the call leaves.
    """

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open = open_session
        self._known: tuple[Arrays, dict[str, Array]] | None = None

    @cached_property
    def _session(self) -> StatefulSession:
        return cast("StatefulSession", self._open())

    @property
    def graph(self) -> GraphSpec:
        """As the session says."""
        return self._session.graph

    @property
    def backend(self) -> str:
        """As the session says."""
        return self._session.backend

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Outputs that are known, or as the session does."""
        if self._known and all(np.array_equal(self._known[0][name], array) for name, array in inputs.items()):
            return self._known[1]
        return self._session.run(inputs)

    def reset(self) -> None:
        """As the session does."""
        self._session.reset()

    def run_case(self, case: Case, rules: Rules) -> Stage:
        """Run a case as a stage, and remember the clip's."""
        stage = run_stage(self._session, case.inputs, rules)
        if case.key == CLIP and not self.graph.state:
            self._known = case.inputs, dict(stage.outputs)
        return stage


class _Progress:
    """Tells what runs, and how far the whole is.

    Every call of a part with weights takes about as long, so calls that are done give a share of the time. A part
    without weights is short, and how many cases it has is not known beforehand: it gives none.
    """

    def __init__(self, part: Part, clip: Arrays, advance: Advance) -> None:
        self._advance, self._done = advance, 0
        self._unit = "rows" if part.graph.row_counts else "frames"
        # Calls for the clip, but for the first where that is remembered; stages of cases are added when they are known.
        self._remembered = not part.graph.state
        self._total = part.calls(len(clip.get("pixel_values", ()))) - self._remembered
        self._measured = bool(part.shapes)

    def expect(self, cases: int) -> None:
        """So many cases go through three stages each."""
        self._total += 3 * cases

    def run(self, stage: str, case: Case) -> None:
        """A stage begins to run on a case."""
        self._tell(f"{stage}, {case.name}", self._done)
        self._done += 1

    def clip(self, backend: str) -> Callable[[int, int], None]:
        """What is to be told of frames, or rows, of the clip that are done, once a call."""
        calls = itertools.count(1 - self._remembered)
        return lambda done, count: self._tell(
            f"{done} of {count} {self._unit}, {backend}", self._done + max(0, next(calls))
        )

    def _tell(self, what: str, done: int) -> None:
        self._advance(what, min(1.0, done / self._total) if self._measured else None)


def _stages(
    part: Part, state: dict[str, Any], session: _Remembering, rules: Rules, clip: Arrays, progress: _Progress
) -> Iterator[tuple[Case, list[Stage]]]:
    """Cases that every stage has run on, each with the stages.

    Weights are the reason to go stage by stage: two modules of a large part in memory at once would be one too many.
    Where there are none, cases go one by one, so that only one clip is in memory.
    """
    cases = part.cases(clip)
    groups: Iterator[list[Case]] = iter([list(cases)]) if part.shapes else ([case] for case in cases)
    for group in groups:
        progress.expect(len(group))
        made: list[dict[str, Arrays]] = [{} for _ in group]
        for stage, build in ((EAGER, part.eager), (REFERENCE, part.reference)):
            run = build(state)
            if stage == REFERENCE and part.shapes:
                state.clear()
            for case, outputs in zip(group, made, strict=True):
                progress.run(stage, case)
                outputs[stage] = run(case.inputs, outputs.get(EAGER, {}))
            del run
            gc.collect()
        for case, outputs in zip(group, made, strict=True):
            progress.run(session.backend, case)
            ran = [Stage(stage, outputs[stage], rules.dtype) for stage in (REFERENCE, EAGER)]
            yield case, [*ran, session.run_case(case, rules)]


def _without_reference(
    part: Part, session: Session, rules: Rules, clip: Arrays, why: str, name: str
) -> tuple[ValidationReport, Arrays]:
    """On inputs that are not finite there is nothing to compare with; a budget must hold all the same."""
    case = next(iter(part.cases(clip)))
    stage = run_stage(session, case.inputs, rules)
    findings = [line for tensor, array in clip.items() for line in undefined_frames(tensor.replace("_", " "), array)]
    rows = ValidationReport(unjudged([stage], case.inputs, rules, why), findings).on(f"{case.name} of {name}")
    return rows, part.forward(session, clip, lambda _done, _count: None)


def _judge_all(part: Part, session: Session, made: Arrays, name: str) -> ValidationReport:
    """What was compared may be finite where the rest of the clip is not."""
    faults = {tensor: nonfinite(array) for tensor, array in made.items()}
    misses = [
        StageResult(session.backend, "", part.name, tensor, False, fault) for tensor, fault in faults.items() if fault
    ]
    return ValidationReport(misses).on(f"all frames of {name}" if name else "all frames")


def merged_of(made: Mapping[str, NDArray[np.generic]], merge: MergeSpec) -> MergedTokens:
    """The merged tokens of a clip, from all that its parts made."""
    return MergedTokens.from_outputs(made, len(made["features"]), merge)


def one_frame_note(clip: Arrays, step: str) -> Sequence[str]:
    """A finding where the clip shows nothing of merging across frames."""
    if len(clip["features"]) > 1:
        return ()
    return (f"the clip has one {step}, so merging across frames was not seen at work",)

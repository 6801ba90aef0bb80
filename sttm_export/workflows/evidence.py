"""The evidence in a bundle: every stage of a part on real frames and on edge cases, and fixtures for other machines."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.recipe import Rules
from sttm_export.families.part import Arrays, Case, Part, State
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.session import Session
from sttm_export.terminal import Advance
from sttm_export.validation.finiteness import nonfinite, undefined_frames
from sttm_export.validation.results import StageResult, ValidationReport
from sttm_export.validation.stages import EAGER, REFERENCE, Stage, judge_stages, run_stage, unjudged
from sttm_export.workflows.scene import Scene

if TYPE_CHECKING:
    pass

PackFixture = Callable[[Case, Arrays], None]


@dataclass
class _Tried:
    """One case and what stages made of it so far."""

    case: Case
    stages: list[Stage] = field(default_factory=list)


def examine(
    part: Part,
    state: State,
    session: Session,
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
        state: its parameters.
        session: the exported graph.
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
        return _without_reference(part, session, rules, clip, bad[0], name)
    report = ValidationReport()
    for tried in _stages(part, state, session, rules, clip, advance):
        case = tried.case
        exact = (session.backend,) if case.exact else ()
        found = judge_stages(tried.stages, case.inputs, rules, exact)
        report += found.on(case.name if case.edge or not name else f"{case.name} of {name}")
        if case.key and pack:
            pack(case, tried.stages[0].outputs)
    made = part.forward(session, clip, _progress(session, advance))
    return report + _judge_all(part, session, made, name), made


def _stages(
    part: Part, state: State, session: Session, rules: Rules, clip: Arrays, advance: Advance
) -> Iterator[_Tried]:
    """Cases that every stage has run on.

    Weights are the reason to go stage by stage: two modules of a large part in memory at once would be one too many.
    Where there are none, cases go one by one, so that only one clip is in memory.
    """
    cases = part.cases(clip)
    groups: Iterator[list[Case]] = iter([list(cases)]) if part.shapes else ([case] for case in cases)
    for number, group in enumerate(groups):
        about = f"{group[0].name}: " if not part.shapes else ""
        made: list[dict[str, Arrays]] = [{} for _ in group]
        for place, (stage, build) in enumerate(((EAGER, part.eager), (REFERENCE, part.reference))):
            advance(f"{about}{stage}, PyTorch", _fraction(part, number, place))
            run = build(state)
            for case, outputs in zip(group, made, strict=True):
                outputs[stage] = run(case.inputs, outputs.get(EAGER, {}))
            del run
            gc.collect()
        advance(f"{about}{session.backend}", _fraction(part, number, 2))
        for case, outputs in zip(group, made, strict=True):
            ran = [Stage(stage, outputs[stage], rules.dtype) for stage in (REFERENCE, EAGER)]
            yield _Tried(case, [*ran, run_stage(session, case.inputs, rules)])


def _fraction(part: Part, group: int, stage: int) -> float:
    """Of the way: stages of a large part take a fifth each, groups of a small one a sixth."""
    return 0.2 * stage if part.shapes else min(0.95, (group + stage / 3) / 6)


def _progress(session: Session, advance: Advance) -> Callable[[int, int], None]:
    return lambda done, count: advance(f"{session.backend}, frame {done} of {count}", 0.5 + 0.5 * done / count)


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


def example_json(scene: Scene, merged: MergedTokens) -> dict[str, Any]:
    """What the report shows of the validation clip."""
    return {
        "clip": scene.name,
        "note": scene.note,
        "num_tokens": merged.num_tokens,
        "max_tokens": merged.max_tokens,
        "tokens_per_frame": merged.new_tokens_per_frame().tolist(),
        "timestamps": [round(float(time), 3) for time in scene.timestamps],
        "thresholds": [float(value) for value in merged.thresholds],
        "margins": [float(value) for value in merged.margins],
        "converged": merged.converged,
    }


def merged_of(made: Mapping[str, NDArray[np.generic]], rules: Rules) -> MergedTokens:
    """The merged tokens of a clip, from all that its parts made."""
    return MergedTokens.from_outputs(made, len(made["features"]), rules.merge)


def one_frame_note(clip: Arrays) -> Sequence[str]:
    """A finding where the clip shows nothing of merging across frames."""
    if len(clip["features"]) > 1:
        return ()
    return ("the clip has one frame, so merging across frames was not seen at work",)

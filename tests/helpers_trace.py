"""What a static language model did for one answer, and the first part in which it departs from the reference.

Sessions are wrapped, so that whatever runs the graphs is seen from outside. Every part is judged on the inputs that it
got: an error shows in the part that makes it and in none behind it. What lies between parts is judged as well: rows are
handed on as they are, to the slots and with the positions that docs/semantics.md demands.
"""

from dataclasses import dataclass

import numpy as np
import torch

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.language.positions import Prompt
from sttm_export.language.reference import Merging, ReferenceGroup, reference_head
from sttm_export.language.rotary import rotary_tables
from sttm_export.merging.outputs import reference_outputs
from sttm_export.validation.decisions import compare_decisions
from sttm_export.validation.gates import derive_tolerance


def told_positions(prompt, policy):
    """Positions of every token of a prompt, one after another, as tuples of 1 or 3 numbers; slow and plain on purpose.

    An independent statement of rules 5.2, 5.3 and 5.5.
    """
    if policy == "reassigned":
        return [(row,) for row in range(prompt.length)]
    told = [(number,) * 3 for number in range(prompt.system)]
    for t in range(prompt.frames):
        for y in range(prompt.height):
            for x in range(prompt.width):
                told.append((prompt.system + t, prompt.system + y, prompt.system + x))
    for _ in range(prompt.question):
        told.append((1 + max(map(max, told), default=-1),) * 3)
    return told


def told_merged_positions(prompt, policy, cells):
    """Positions of the tokens that are left when these cells, by number, stand for the video."""
    standing = set(cells)
    left = []
    for row, position in enumerate(told_positions(prompt, policy)):
        cell = row - prompt.system
        if not 0 <= cell < prompt.video or cell in standing:
            left.append((len(left),) if policy == "reassigned" else position)
    return left


class Recorder:
    """A session that remembers what its calls were given and what they gave.

    Args:
        session: that is wrapped.
        given: an error to be found: changes the inputs of a call before the session gets them.
        left: another: is called with the session after every call and may change its state.
    """

    def __init__(self, session, given=None, left=None):
        self._session, self._given, self._left = session, given, left
        self.graph, self.backend, self.calls = session.graph, session.backend, []

    def run(self, inputs):
        outputs = self._session.run(self._given(inputs) if self._given else inputs)
        self.calls.append((inputs, outputs))
        if self._left:
            self._left(self._session)
        return outputs

    def reset(self):
        self._session.reset()

    def state(self):
        return self._session.state()

    def restore(self, state):
        self._session.restore(state)

    def rows(self, name):
        """[S, ...] of an input or output of all calls, padding left out: its cosines and sines are 0."""
        found = []
        for inputs, outputs in self.calls:
            real = (inputs["cos"] != 0).any(1) | (inputs["sin"] != 0).any(1)
            found.append((inputs | outputs)[name][real])
        return np.concatenate(found)


class ModuleSession:
    """A part in PyTorch behind the interface of a session: what a test puts an error into."""

    backend = "torch"

    def __init__(self, module, graph):
        self.module, self.graph = module, graph
        self.reset()

    def reset(self):
        self._state = {tensor.name: torch.zeros(tensor.shape) for tensor in self.graph.kept}

    def state(self):
        return {name: tensor.numpy().copy() for name, tensor in self._state.items()}

    def restore(self, state):
        self._state = {name: torch.from_numpy(array.copy()) for name, array in state.items()}

    def run(self, inputs):
        fed = [torch.from_numpy(inputs[tensor.name]) for tensor in self.graph.fed]
        with torch.no_grad():
            made = self.module(*fed, *self._state.values())
        first, *buffers = made if self._state else [made]
        self._state = dict(zip(self._state, buffers, strict=True))
        return {self.graph.fetched[0].name: first.numpy()}


@dataclass(frozen=True)
class Told:
    """What was asked, and of which model."""

    spec: DecoderSpec
    state: dict  # parameters by canonical name
    merging: Merging
    system: np.ndarray
    video: np.ndarray  # [T', N, C]
    question: np.ndarray

    @property
    def prompt(self):
        """Its lengths."""
        merge = self.merging.merge
        return Prompt(len(self.system), len(self.video), merge.height, merge.width, len(self.question))


@dataclass(frozen=True)
class Trace:
    """A model's sessions, wrapped before it read one video and answered one question, and the answer's ids."""

    groups: list[Recorder]  # in the order of the layers
    merger: Recorder
    head: Recorder
    answer: list[int]


@dataclass(frozen=True)
class Departure:
    """The first thing that is not as it should be."""

    part: str  # name of its graph
    tensor: str
    rows: tuple[int, int]  # first and last that depart, as they stand in the part's sequence
    reason: str

    def __str__(self):
        return f"{self.part}: {self.tensor} departs in rows {self.rows[0]} to {self.rows[1]}: {self.reason}"


def compare_answers(trace, told):
    """Return the first `Departure` of what a static model did from the reference, or None."""
    return next(_departures(trace, told), None)


def _departures(trace, told):
    embeddings, prompt = told.state["language.embed.weight"].numpy(), told.prompt
    channels, before, behind = told.spec.hidden_size, prompt.system, prompt.system + prompt.video
    # All that the layers see, as one causal sequence; the last token of the answer is never fed back.
    tail = embeddings[[*told.question, *trace.answer[:-1]]]
    hidden = np.concatenate([embeddings[told.system], told.video.reshape(-1, channels), tail])
    positions = _with_decoded(told_positions(prompt, told.merging.policy), prompt, told, trace)
    for group in trace.groups:
        first, last = layers_of(group.graph)
        if first == told.merging.layer:
            yield from _of_merger(trace.merger, told, hidden[before:behind])
            merged = trace.merger.calls[-1][1]
            count = int(merged["num_tokens"])
            t, y, x = merged["token_box"][:count, :3].astype(np.int64).T
            cells = ((t * prompt.height + y) * prompt.width + x).tolist()
            left = told_merged_positions(prompt, told.merging.policy, cells)
            positions = _with_decoded(left, prompt, told, trace)
            hidden = np.concatenate([hidden[:before], merged["tokens"][:count], hidden[behind:]])
        yield from _of_group(group, told, hidden, positions, (first, last))
        hidden = group.rows("hidden_out")
    yield from _of_head(trace.head, told, hidden[len(hidden) - len(trace.answer) :])


def _with_decoded(positions, prompt, told, trace):
    """[P, S] of a prompt's positions and those of the decoded tokens, which nothing that merges moves."""
    largest = max(number for position in told_positions(prompt, told.merging.policy) for number in position)
    decoded = [(largest + 1 + step,) * len(positions[0]) for step in range(len(trace.answer) - 1)]
    return np.array([*positions, *decoded]).T


def layers_of(graph):
    """First layer of a group and one past its last; nothing for another part."""
    layers = [int(tensor.name.split("_")[1]) for tensor in graph.kept]
    return (min(layers), max(layers) + 1) if layers else ()


def _of_merger(merger, told, features):
    """The features as they came out of the layers; decisions as such; tokens within rounding."""
    name, spec = merger.graph.name, told.merging.merge
    inputs, made = merger.calls[-1]
    frames = len(told.video)
    yield from _equal(name, "features", inputs["features"][:frames].reshape(features.shape), features)
    applied = tuple(made["thresholds_applied"].tolist()) if spec.policy == "budget" else told.merging.thresholds
    step = True if spec.policy == "budget" else None
    expected = reference_outputs(spec, inputs, applied, step)
    report = compare_decisions(inputs["features"], spec, expected, made, frames)
    if not report.passed:
        yield Departure(name, "assignment", (0, report.cells - 1), report.reason)
    if not report.ties:
        tolerance = derive_tolerance(store="float32", length=spec.frames * spec.cells, layers=1)
        yield from _near(name, "tokens", made["tokens"], expected["tokens"], tolerance)


def _of_group(group, told, hidden, positions, layers):
    """What the group was given, exactly; what it made of that, within rounding of its own layers."""
    name, spec = group.graph.name, told.spec
    given = {key: group.rows(key) for key in ("hidden", "cos", "sin", "slots")}
    yield from _equal(name, "hidden", given["hidden"], hidden)
    tolerance = derive_tolerance(
        store="float32", length=max(spec.intermediate_size, len(hidden)), layers=layers[1] - layers[0]
    )
    tables = dict(zip(("cos", "sin"), rotary_tables(spec, positions), strict=True))
    for key, table in tables.items():
        yield from _near(name, key, given[key], table, tolerance, scale=spec.head_dim**0.5)
    yield from _equal(name, "slots", given["slots"][:, None], np.arange(len(hidden))[:, None], "not one after another")
    empty = [torch.zeros(spec.kv_heads, len(hidden), spec.head_dim) for _ in group.graph.kept]
    reference = ReferenceGroup(spec, told.state, *layers)
    expected = reference(*map(torch.from_numpy, (hidden, *tables.values(), given["slots"])), *empty)
    # Keys and values before the stream: they are made first.
    state = group.state()
    for tensor, buffer in zip(group.graph.kept, expected[1:], strict=True):
        written = state[tensor.name][:, : len(hidden)]
        yield from _near(name, tensor.name, _by_slot(written), _by_slot(buffer.numpy()), tolerance)
    yield from _near(name, "hidden_out", group.rows("hidden_out"), expected[0].numpy(), tolerance)


def _of_head(head, told, hidden):
    name, spec = head.graph.name, told.spec
    given, made = (
        np.concatenate([call[side][key] for call in head.calls]) for side, key in ((0, "hidden"), (1, "logits"))
    )
    yield from _equal(name, "hidden", given, hidden)
    expected = reference_head(spec, told.state)(torch.from_numpy(given)).numpy()
    tolerance = derive_tolerance(store="float32", length=spec.hidden_size, layers=1)
    yield from _near(name, "logits", made, expected, tolerance)


def _by_slot(buffer):
    """[G, S, D] → [S, G·D]."""
    return buffer.transpose(1, 0, 2).reshape(buffer.shape[1], -1)


def _equal(part, tensor, actual, expected, fault="not what the part before it made"):
    if len(actual) != len(expected):
        rows = sorted((len(actual), len(expected)))
        yield Departure(part, tensor, (rows[0], rows[1] - 1), f"{len(actual)} rows instead of {len(expected)}")
    elif (wrong := np.flatnonzero((actual != expected).any(1))).size:
        yield Departure(part, tensor, (int(wrong[0]), int(wrong[-1])), fault)


def _near(part, tensor, actual, expected, tolerance, scale=None):
    """Each row within the tolerance, relative to its own size or to `scale`."""
    size = np.linalg.norm(expected, axis=1) if scale is None else scale
    error = np.linalg.norm(actual.astype(np.float64) - expected, axis=1)
    wrong = np.flatnonzero(~(error <= tolerance.relative * size))
    if wrong.size:
        needed = float((error[wrong] / np.broadcast_to(size, error.shape)[wrong]).max())
        reason = f"off by {needed:.2g}, allowed {tolerance.derivation}"
        yield Departure(part, tensor, (int(wrong[0]), int(wrong[-1])), reason)

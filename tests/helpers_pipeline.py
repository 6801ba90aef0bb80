"""Small random decoders whose static graphs are asked beside the reference, and errors to put into them."""

import numpy as np
import torch
from helpers_decoders import answer, moving_clip
from helpers_language import tiny_decoder
from helpers_trace import ModuleSession, Recorder, Told, Trace, layers_of

from sttm_export.contracts.merge import MergeSpec
from sttm_export.language.checkpoint import group_shapes, module_state
from sttm_export.language.decoder import DecoderGroup
from sttm_export.language.model import Graphs, LanguageModel
from sttm_export.language.reference import Merging, ReferenceDecoder, ReferenceGroup, reference_head
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.pipeline import merge_features

T, CHUNK, SLOTS, STEPS = 4, 64, 200, 32
SPECS = {
    "plain": tiny_decoder(layers=4, heads=3, kv_heads=1, head_dim=16, rope_theta=1e4),
    "mrope": tiny_decoder(layers=5, heads=4, kv_heads=4, head_dim=12, mrope_section=(1, 2, 3), rms_norm_eps=1e-5),
}
# Groups of layers, cut before every layer at which something merges here.
SPANS = {"plain": ((0, 1), (1, 2), (2, 4)), "mrope": ((0, 2), (2, 3), (3, 5))}
LAYERS = [(family, first) for family, spans in SPANS.items() for first, _ in spans]
POLICY = {"plain": "reassigned", "mrope": "representative"}
# An odd grid of more columns, and one of more rows.
MERGES = {
    "budget": MergeSpec(T, 5, 7, 48, 0.4, "budget"),
    "threshold": MergeSpec(T, 6, 5, 48, 1.0, "threshold", root_level=0, head_dim=12),
}
# Merger and given thresholds; above every cosine nothing merges.
KINDS = {"budget": ("budget", (0.6, 0.5)), "threshold": ("threshold", (0.85, 0.8)), "whole": ("threshold", (2.0, 2.0))}


class Pipeline:
    """A static model of recorded sessions, and the reference that it is held against.

    Args:
        exported: its graphs.
        merger: a session.
        policy: of positions.
        layer: at whose input it merges.
        kind: one of `KINDS`.
        chunk: rows a call, where not those of the export.
        plants: by first layer of a group, makes what stands in its place: an error to be found.
        split: at which layer the model cuts, where it is wrong about that.
    """

    def __init__(self, exported, merger, policy, layer, kind, chunk=None, plants=None, split=None):
        name, self.thresholds = KINDS[kind]
        self.exported, self.merge, self.policy, self.layer = exported, MERGES[name], policy, layer
        plants = plants or {}
        sessions = {layers_of(session.graph)[0]: session for session in exported.sessions(chunk)}
        self.groups = {first: plants.get(first, Recorder)(session) for first, session in sessions.items()}
        self.merger = plants.get("merger", Recorder)(merger)
        self.head = plants.get("head", Recorder)(OrtSession(*exported.head, threads=1))
        split = layer if split is None else split
        below, above = (
            [group for first, group in self.groups.items() if (first < split) == is_below] for is_below in (True, False)
        )
        embeddings = exported.state["language.embed.weight"].numpy()
        graphs = Graphs(below, above, self.head, embeddings, self._merge)
        self.model = LanguageModel(exported.spec, graphs, (self.merge.height, self.merge.width), policy)

    def _merge(self, features):
        return merge_features(self.merger, self.merge, features, len(features), *self.thresholds)

    def asked(self, frames, seed, question=9, system=7):
        """A prompt of this seed."""
        rng, vocabulary = np.random.default_rng(seed), self.exported.spec.vocabulary
        ids = [rng.integers(0, vocabulary, count) for count in (system, question)]
        video = moving_clip(frames, self.merge.height, self.merge.width, self.merge.channels, seed)
        return Told(self.exported.spec, self.exported.state, self.merging, ids[0], video, ids[1])

    @property
    def merging(self):
        """Where and how the reference merges: at the thresholds that the graph reports where it solves them itself."""
        solved = self.merge.policy == "budget" and self.merger.calls
        applied = self.merger.calls[-1][1]["thresholds_applied"].tolist() if solved else self.thresholds
        return Merging(self.layer, self.merge, tuple(applied), self.policy)

    def run(self, told, most=STEPS + 1, behind=0):
        """Read the video and so much of the question, then answer: tokens, logits [most, V]."""
        self.model.watch(told.system, told.video, told.question[:behind])
        return answer(self.model, told.question[behind:], most)

    def trace(self, tokens):
        """What the sessions did."""
        return Trace(list(self.groups.values()), self.merger, self.head, tokens)

    def reference(self, told):
        """The reference, asked the same: the decoder, and what the prompt left."""
        decoder = ReferenceDecoder(told.spec, told.state)
        video = torch.from_numpy(told.video.reshape(-1, told.spec.hidden_size))
        return decoder, decoder.prefill(told.system, video, told.question, told.prompt, self.merging)


# Errors that are planted stand in place of a part's recorder.


def given(change):
    """The part is given other inputs."""
    return lambda session: Recorder(session, given=lambda inputs: {**inputs, **change(inputs)})


def handed(change):
    """What hands rows to the part hands over others; the part itself is right."""

    class Between(Recorder):
        def run(self, inputs):
            return super().run({**inputs, **change(inputs)})

    return Between


def left(change):
    """The part's keys and values are changed after every call, by name."""
    return lambda session: Recorder(session, left=lambda of: of.restore(change(of.state())))


def in_place(make):
    """Another module is the part; it is made of a group's first layer and one past its last, or of nothing."""
    return lambda session: Recorder(ModuleSession(make(*layers_of(session.graph)).eval(), session.graph))


def static_group(spec, state):
    """The static module, of sizes and parameters that may be wrong."""

    def make(first, last):
        module = DecoderGroup(spec, first, last)
        module.load_state_dict(module_state({name: state[name] for name in group_shapes(spec, first, last)}))
        return module

    return in_place(make)


def seeing(spec, state, shift):
    """The reference's layers under a mask that shows each row one slot too many (1) or one too few (-1)."""

    def shifted(_, args):
        wrong = torch.full_like(args[1], -torch.inf)
        wrong[..., 0] = 0.0  # a row that saw nothing would be NaN, which anything finds
        if shift > 0:
            wrong[..., 1:] = args[1][..., :-1]
        else:
            wrong[..., 1:-1] = args[1][..., 2:]
        return args[0], wrong, *args[2:]

    def make(first, last):
        group = ReferenceGroup(spec, state, first, last)
        for layer in group.layers:
            layer.register_forward_pre_hook(shifted)
        return group

    return in_place(make)


def head_of(spec, state):
    """The reference's head, of parameters that may be wrong."""
    return in_place(lambda: reference_head(spec, state))


def without(state, name):
    """Parameters, those of a norm left out."""
    return {**state, name: torch.ones_like(state[name])}


def layers_swapped(buffers):
    """Keys and values of a group's two layers, each under the other's name."""
    first, second = sorted({name.split("_")[1] for name in buffers})
    other = {first: second, second: first}
    names = {name: "_".join((kind, other[layer])) for name in buffers for kind, layer in [name.split("_")]}
    return {name: buffers[theirs] for name, theirs in names.items()}

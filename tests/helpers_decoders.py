"""Random decoders, the graphs of decoders on disk, clips that merge, and asking a model."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.decoding import decoder_graph, head_graph
from sttm_export.contracts.graph import token_merger_graph
from sttm_export.graphs.export import export_graph
from sttm_export.language.checkpoint import distribution, group_shapes, head_shapes, module_state, parameter_shapes
from sttm_export.language.choose import greedy
from sttm_export.language.decoder import DecoderGroup, Head
from sttm_export.merging.geometry import parent_of
from sttm_export.merging.static import TokenMerger
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.weights.random import RandomWeights


def random_state(spec, seed):
    """All parameters of a random decoder, float32."""
    weights = RandomWeights(partial(distribution, spec), seed)
    return {name: tensor.float() for name, tensor in weights.read(parameter_shapes(spec)).items()}


def exported_group(spec, state, layers, folder, slots, chunk):
    """Export layers; returns path and declaration."""
    graph = decoder_graph(spec, *layers, slots, chunk, "fp32")
    module = DecoderGroup(spec, *layers)
    module.load_state_dict(module_state({name: state[name] for name in group_shapes(spec, *layers)}))
    return export_graph(module.eval(), graph, folder), graph


def exported_head(spec, state, folder):
    """Export the head; returns path and declaration."""
    module = Head(spec)
    module.load_state_dict(module_state({name: state[name] for name in head_shapes(spec)}))
    return export_graph(module.eval(), head_graph(spec), folder), head_graph(spec)


@dataclass(frozen=True)
class Exported:
    """Graphs of a decoder on disk, and what they were made of; sessions are opened on them as often as one likes."""

    spec: DecoderSpec
    state: dict  # parameters by canonical name
    groups: list  # path and declaration, in the order of the layers
    head: tuple

    @classmethod
    def of(cls, spec, seed, spans, folder, slots, chunk):
        """A random decoder whose layers are cut into these groups."""
        state = random_state(spec, seed)
        groups = [exported_group(spec, state, span, folder, slots, chunk) for span in spans]
        return cls(spec, state, groups, exported_head(spec, state, folder))

    def sessions(self, chunk=None):
        """New sessions of the groups; in other chunks than those that they were exported with, as the file allows."""
        counts = {} if chunk is None else {"row_counts": (chunk, 1)}
        return [OrtSession(path, replace(graph, **counts), threads=1) for path, graph in self.groups]


def exported_merger(merge, folder):
    """Export a token merger; returns path and declaration."""
    graph = token_merger_graph(merge, "fp32")
    return export_graph(TokenMerger(merge), graph, folder), graph


def answer(model, question, most):
    """Greedy tokens of an answer and the logits that they were chosen by, [n, V]."""
    seen = []

    def choose(logits):
        seen.append(logits)
        return greedy(logits)

    return list(model.ask(question, most, choose)), np.stack(seen)


def moving_clip(frames, height, width, channels, seed):
    """[T, N, C] float32: a scene of patches, some of them calm and some noisy, which an object crosses."""
    rng = np.random.default_rng(seed)
    # Patches are those that a quadtree merges.
    rows, columns = parent_of(height), parent_of(width)
    scene = rng.standard_normal((rows[-1] + 1, columns[-1] + 1, channels))[rows][:, columns]
    unrest = rng.uniform(0.1, 0.7, (rows[-1] + 1, columns[-1] + 1, 1))[rows][:, columns]
    video = scene + unrest * rng.standard_normal((frames, height, width, channels))
    row, thing = int(rng.integers(height - 1)), rng.standard_normal(channels)
    for t in range(frames):
        column = t % (width - 1)
        video[t, row : row + 2, column : column + 2] = thing + 0.2 * rng.standard_normal((2, 2, channels))
    return video.reshape(frames, -1, channels).astype(np.float32)

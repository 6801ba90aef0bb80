"""A NumPy stand-in for the token merger: outputs from replayed choices, so that single decisions can be turned over."""

from pathlib import Path

import numpy as np

from sttm_export.contracts.graph import token_merger_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.validation.quadtree import build_quadtree
from sttm_export.validation.replay import choose, replay
from sttm_export.validation.similarities import compute_similarities, node_features
from sttm_export.validation.ties import Thresholds, decisions_near, turn_over

GOLDEN = Path(__file__).parent / "golden"


class Clip:
    """A golden case, the spec that belongs to it, and a merger for it."""

    def __init__(self, name, policy="threshold", features=None, spatial=None, temporal=None):
        with np.load(GOLDEN / f"{name}.npz") as data:
            self.golden = {key: data[key] for key in data.files}
        x = self.golden["features"].astype(np.float32)
        frames, channels, height, width = x.shape
        self.features = np.ascontiguousarray(x.reshape(frames, channels, -1).transpose(0, 2, 1))
        if features is not None:
            self.features = features
        options = (int(self.golden["root_level"]), bool(self.golden["weighted_avg"]), int(self.golden["head_dim"]))
        self.merge = MergeSpec(frames, height, width, channels, 1.0, policy, *options)
        self.spatial = float(np.float32(self.golden["spatial_threshold"] if spatial is None else spatial))
        self.temporal = float(np.float32(self.golden["temporal_threshold"] if temporal is None else temporal))
        self.tree = build_quadtree(height, width, options[0])
        self.similarities = compute_similarities(self.features, self.tree, weighted_avg=options[1], head_dim=options[2])

    @property
    def inputs(self):
        return {"features": self.features, "num_frames": np.array(len(self.features), np.int32)}

    def decisions(self, band=np.inf):
        return decisions_near(self.similarities, self.tree, self.limits, band)

    @property
    def limits(self):
        return Thresholds(self.spatial, self.temporal if self.temporal > 0 else None)

    def run(self, flips=()):
        """Outputs of the token-merger graph, with these decisions turned over."""
        choices = turn_over(choose(self.similarities, self.limits.spatial, self.limits.temporal), flips, self.tree)
        return self.pack(replay(self.tree, choices, len(self.features)))

    def pack(self, result):
        frames, cells = result.owner.shape
        names, assignment = np.unique(result.representative, return_inverse=True)
        count, slot = len(names), assignment.reshape(frames, cells)
        outputs = {t.name: np.zeros(t.shape, t.dtype) for t in token_merger_graph(self.merge, "fp32").outputs}
        first, last = names, (result.keys.ravel() % cells)[names]
        y0, x0 = np.divmod(first % cells, self.tree.width)
        y1, x1 = np.divmod(last, self.tree.width)
        outputs["token_box"][:] = -1
        outputs["token_box"][:count] = np.stack([first // cells, y0, x0, y1 + 1, x1 + 1], 1)
        outputs["token_patches"][:count] = np.bincount(slot.ravel(), minlength=count)
        outputs["assignment"][:] = slot
        outputs["num_tokens"] = np.array(count, np.int32)
        outputs["thresholds_applied"][:] = self.spatial, self.temporal
        outputs["converged"] = np.array(True)
        outputs["tokens"][:count] = self._means(result, slot, count)
        return outputs

    def _means(self, result, slot, count):
        frames, cells = result.owner.shape
        total, weight = np.zeros((count, self.features.shape[2])), np.zeros(count)
        for t in range(frames):
            pyramid = node_features(self.features[t], self.tree, self.merge.weighted_avg)
            for cell in np.flatnonzero(result.owner[t] == t * cells + np.arange(cells)):
                level = result.level[t, cell]
                total[slot[t, cell]] += pyramid[level][self.tree.cover[level, cell]]
                area = (self.tree.cover[level] == self.tree.cover[level, cell]).sum()
                weight[slot[t, cell]] += area if self.merge.weighted_avg else 1
        return total / weight[:, None]


def copy(outputs):
    return {name: np.array(array) for name, array in outputs.items()}


def flip_that_matters(clip, decisions):
    """The first of these decisions whose reversal changes the assignment."""
    base = clip.run()["assignment"]
    return next(d for d in decisions if not np.array_equal(clip.run([d])["assignment"], base))

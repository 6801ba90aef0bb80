"""A bundle's two graphs as a `Vision`, moving frames, and what the graphs make of them one by one."""

import contextlib

import numpy as np

from sttm_export.bundle.opened import open_bundle
from sttm_export.contracts.merge import Thresholds
from sttm_export.pipeline.backend import choose_backend
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.pipeline import encode_frames, merge_features
from sttm_export.runtime.preprocess import pixel_values

FIELDS = ("tokens", "token_box", "token_patches", "assignment", "thresholds", "margins", "converged", "max_tokens")


@contextlib.contextmanager
def seeing(path, backend="cpu", **options):
    """(bundle, its Vision)."""
    bundle = open_bundle(path, verify=False)
    with Loader(bundle, choose_backend(bundle, backend), **options).vision() as vision:
        yield bundle, vision


def pictures(count, seed=0, kinds=None):
    """So many frames of noise; with `kinds`, each is one of so many, so that some equal the one before."""
    rng = np.random.default_rng(seed)
    made = [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(kinds or count)]
    return [made[index] for index in rng.integers(0, len(made), count)] if kinds else made


class Apart:
    """The graphs of a bundle in sessions of their own, over arrays of the host."""

    def __init__(self, bundle):
        self.bundle = bundle
        names = ("vision_encoder", "token_merger")
        self.encoder, self.merger = (OrtSession(bundle.onnx_path(name), bundle.graph(name)) for name in names)

    def features(self, frames):
        model = self.bundle.model
        values = pixel_values(frames, model.pixels, model.frames_per_step)
        return encode_frames(self.encoder, self.bundle.graph("vision_encoder"), values)

    def tokens(self, frames, thresholds=None):
        given, features = thresholds or self.bundle.manifest.thresholds, self.features(frames)
        return merge_features(self.merger, self.bundle.merge, features, len(features), given.spatial, given.temporal)


def same_tokens(one, other):
    """Whether two merges are the same, bit for bit."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def loose():
    """Thresholds at which noise merges."""
    return Thresholds(0.5, 0.5, "a test")

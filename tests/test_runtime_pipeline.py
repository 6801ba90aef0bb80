import io

import helpers_runtime as helpers
import numpy as np
import pytest
from PIL import Image

from sttm_export.contracts.graph import GraphSpec, TensorSpec, token_merger_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.model import GridSpec
from sttm_export.errors import UserError
from sttm_export.runtime.draw import draw_tokens
from sttm_export.runtime.merged import MergedTokens, write_npz
from sttm_export.runtime.pipeline import encode_frames, merge_features

ENCODER = GraphSpec(
    "vision_encoder",
    (TensorSpec("pixel_values", (4, 3, 2, 2), "float16", ""),),
    (TensorSpec("features", (4, 4, 3), "float16", ""),),
)
MERGE = MergeSpec(frames=3, height=2, width=2, channels=3, budget=1.0)
MERGER = token_merger_graph(MERGE, "fp32")


def encoder():
    def function(inputs):
        assert inputs["pixel_values"].shape == (4, 3, 2, 2)
        assert inputs["pixel_values"].dtype == np.float16
        return {"features": inputs["pixel_values"].reshape(4, 3, 4).transpose(0, 2, 1)}

    return helpers.FakeSession(ENCODER, function)


def merger():
    """Every cell of every counted frame joins the same cell of frame 0."""

    def function(inputs):
        n = int(inputs["num_frames"])
        outputs = {t.name: np.zeros(t.shape, t.dtype) for t in MERGER.outputs}
        outputs["tokens"][:4] = inputs["features"][0]
        outputs["num_tokens"] = np.array(4, np.int32)
        outputs["token_box"][:] = -1
        outputs["token_box"][:4] = [(0, y, x, y + 1, x + 1) for y in range(2) for x in range(2)]
        outputs["token_patches"][:4] = n
        outputs["assignment"][:] = -1
        outputs["assignment"][:n] = np.arange(4)
        outputs["thresholds_applied"][:] = inputs["spatial_threshold"], inputs["temporal_threshold"]
        outputs["converged"] = np.array(True)
        return outputs

    return helpers.FakeSession(MERGER, function)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_encode_in_batches(n):
    pixels = np.arange(n * 12, dtype=np.float32).reshape(n, 3, 2, 2)
    session, seen = encoder(), []
    features = encode_frames(session, ENCODER, pixels, lambda done, total: seen.append((done, total)))
    assert np.array_equal(features, pixels.reshape(n, 3, 4).transpose(0, 2, 1).astype(np.float16))
    assert features.dtype == np.float16
    assert len(session.calls) == -(-n // 4)
    assert seen[-1] == (n, n)


def test_the_last_batch_repeats_its_frame():
    session = encoder()
    encode_frames(session, ENCODER, np.arange(5 * 12, dtype=np.float32).reshape(5, 3, 2, 2))
    last = session.calls[-1]["pixel_values"]
    assert np.array_equal(last, np.repeat(last[:1], 4, 0))


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 3, 3, 2), (3, 2, 2)])
def test_encode_refuses(shape):
    with pytest.raises(UserError, match="takes frames of"):
        encode_frames(encoder(), ENCODER, np.zeros(shape, np.float32))


def merged_clip(n=2):
    features = np.random.default_rng(0).standard_normal((n, 4, 3))
    return features, merge_features(merger(), MERGE, features, n, 0.85, 0.65)


def test_merge_pads_and_trims():
    session = merger()
    features = np.ones((2, 4, 3))
    merged = merge_features(session, MERGE, features, 2, 0.85, 0.65)
    given = session.calls[0]
    assert given["features"].shape == (3, 4, 3)
    assert given["features"].dtype == np.float32
    assert not given["features"][2].any()
    assert given["num_frames"].dtype == np.int32
    assert merged.num_tokens == 4
    assert merged.num_frames == 2
    assert merged.cells == 4
    assert merged.max_tokens == 8
    assert merged.share == 0.5
    assert merged.new_tokens_per_frame().tolist() == [4, 0]
    assert merged.thresholds.tolist() == pytest.approx([0.85, 0.65])


@pytest.mark.parametrize(
    ("shape", "count", "message"),
    [
        ((4, 4, 3), 4, "4 frames are more than the 3.*--frames 4"),
        ((2, 4, 3), 3, "Cannot merge 3 of 2"),
        ((2, 4, 3), 0, "from 1 to 2"),
        ((2, 5, 3), 2, r"takes features \[n, 4, 3\]"),
    ],
)
def test_merge_refuses(shape, count, message):
    with pytest.raises(UserError, match=message):
        merge_features(merger(), MERGE, np.zeros(shape), count, 0.8, 0.6)


def test_tokens_are_written_with_their_metadata():
    features, merged = merged_clip()
    file = io.BytesIO()
    write_npz(file, merged, timestamps=np.array([0.0, 1.0]))
    file.seek(0)
    with np.load(file, allow_pickle=False) as data:
        assert data["tokens"].shape == (4, 3)
        assert data["timestamps"].tolist() == [0.0, 1.0]
        assert np.array_equal(data["tokens"][data["assignment"]], np.repeat(features[:1], 2, 0).astype(np.float32))
        assert bool(data["converged"])
    with pytest.raises(UserError, match="may not be called tokens"):
        write_npz(file, merged, tokens=np.zeros(1))


def draw_one(tmp_path, merged, n, **options):
    frames = np.full((n, 60, 80, 3), 200, np.uint8)
    path = draw_tokens(frames, merged, GridSpec(2, 2), tmp_path / "sheet.png", **options)
    return np.asarray(Image.open(path).convert("RGB"))


def test_draw_dims_what_was_seen_before(tmp_path):
    _, merged = merged_clip()
    sheet = draw_one(tmp_path, merged, 2, timestamps=[0.0, 1.5], title="clip")
    # Two tiles of 360 pixels: middle of a cell of the first frame, and of the same cell of the second.
    first, second = sheet[104 + 60, 28 + 80], sheet[104 + 60, 28 + 360 + 16 + 80]
    assert first.min() == 200
    assert second.max() < 120
    assert tuple(sheet[104, 28]) != (200, 200, 200)  # an outline


def test_draw_thins_long_clips(tmp_path):
    n = 80
    assignment = np.tile(np.arange(4, dtype=np.int32), (n, 1))
    _, short = merged_clip()
    merged = MergedTokens(
        short.tokens, short.token_box, short.token_patches, assignment, short.thresholds, True, short.margins, 12
    )
    sheet = draw_one(tmp_path, merged, n)
    tiles = (sheet.shape[1] - 56 + 16) // (220 + 16)
    assert tiles * round((sheet.shape[0] - 104 - 28 + 16) / (165 + 44 + 16)) >= 64
    assert sheet.shape[0] < 3000


def test_draw_refuses(tmp_path):
    _, merged = merged_clip()
    frames = np.zeros((2, 6, 8, 3), np.uint8)
    with pytest.raises(UserError, match="draw the frames that were merged"):
        draw_tokens(frames[:1], merged, GridSpec(2, 2), tmp_path / "a.png")
    with pytest.raises(UserError, match="grid of 3x3"):
        draw_tokens(frames, merged, GridSpec(3, 3), tmp_path / "a.png")
    with pytest.raises(UserError, match="Cannot write"):
        draw_tokens(frames, merged, GridSpec(2, 2), tmp_path / "no" / "a.png")

"""Windows over a stream are what the graphs make of the same frames one clip at a time, bit by bit."""

import numpy as np
import pytest
from helpers_qwen2_vl import model_of, tiny_qwen
from helpers_window import Apart, pictures, same_tokens, seeing

from sttm_export.errors import UserError
from sttm_export.streams.window import Counts, Window

# Every comparison here is bit by bit.
pytestmark = pytest.mark.usefixtures("exact_places")


@pytest.fixture(scope="module")
def apart(tiny_bundle):
    with seeing(tiny_bundle) as (bundle, _):
        return Apart(bundle)


def thresholds(bundle):
    return bundle.manifest.thresholds


@pytest.mark.parametrize("size", [4, 3, 1, None])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("tolerance", [0, None])
def test_every_window_is_that_of_its_frames_alone(tiny_bundle, apart, size, every, tolerance):
    """Past the end of the tape, with batches that begin anywhere, and with frames that stand still."""
    frames = pictures(60, seed=size or 9, kinds=5)
    with seeing(tiny_bundle) as (bundle, vision):
        assert vision.batch == 2
        assert len(frames) > 3 * vision.slots
        window = Window(vision, bundle.model.pixels, size=size, still_tolerance=tolerance)
        for index, frame in enumerate(frames):
            window.push(frame, index / 2)
            if index % every:
                continue
            emitted = window.emit(thresholds(bundle))
            first = max(0, index + 1 - window.size)
            assert emitted.numbers.tolist() == list(range(first, index + 1))
            assert emitted.timestamps.tolist() == [number / 2 for number in range(first, index + 1)]
            seen = frames[first : index + 1]
            assert np.array_equal(window.features(), apart.features(seen))
            assert same_tokens(emitted.merged, apart.tokens(seen))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_windows_of_engines(orin, orin_bundle, cuda_graph):
    """The same on a GPU, where a CUDA graph holds its addresses; nothing of the features crosses to the host."""
    frames = pictures(21, kinds=4)
    with seeing(orin_bundle, "engine", cuda_graph=cuda_graph) as (bundle, vision):
        alone = Apart(bundle)
        window = Window(vision, bundle.model.pixels)
        emitted = []
        for index, frame in enumerate(frames):
            window.push(frame, float(index))
            if index % 3 == 2:
                emitted.append((index, window.emit(thresholds(bundle))))
    for index, result in emitted:
        assert same_tokens(result.merged, alone.tokens(frames[max(0, index - 3) : index + 1])), index
    assert ("cuGraphLaunch" in orin.log.names()) == cuda_graph
    assert orin.driver.live() == {}


def test_each_frame_is_encoded_once(tiny_bundle):
    with seeing(tiny_bundle) as (bundle, vision):
        window, runs = Window(vision, bundle.model.pixels), []
        real = vision._encoder.run_placed
        vision._encoder.run_placed = lambda *given: runs.append(1) or real(*given)
        for index, frame in enumerate(pictures(40)):
            window.push(frame, float(index))
            if index % 4 == 3:
                window.emit(thresholds(bundle))
        assert window.counts == Counts(40, 40, 0)
        assert len(runs) == 20, "two a batch"


def test_a_quiet_camera_costs_nothing(tiny_bundle):
    with seeing(tiny_bundle) as (bundle, vision):
        window, frame = Window(vision, bundle.model.pixels), pictures(1)[0]
        for index in range(100):
            window.push(frame, float(index))
        merged = window.emit(thresholds(bundle)).merged
        assert window.counts == Counts(100, 1, 99)
        assert same_tokens(merged, Apart(bundle).tokens([frame] * 4))


def test_stillness_is_measured_from_what_is_reused(tiny_bundle):
    """A drift of one level a frame is not still for ever, though each frame differs little from the one before it."""
    with seeing(tiny_bundle) as (bundle, vision):
        window = Window(vision, bundle.model.pixels, still_tolerance=2)
        for level in range(100, 112):
            window.push(np.full((60, 80, 3), level, np.uint8), float(level))
        assert window.counts == Counts(12, 4, 8)
        # One pixel of the whole frame, at the model's resolution, is enough.
        side = bundle.model.pixels.width
        frame = np.full((side, side, 3), 100, np.uint8)
        window.clear()
        window.push(frame, 0.0)
        frame = frame.copy()
        frame[5, 5, 1] = 103
        window.push(frame, 1.0)
        assert window.counts == Counts(14, 6, 8)
        frame = frame.copy()
        frame[5, 5, 1] = 101
        window.push(frame, 1.0)
        assert window.counts == Counts(15, 6, 9)


def test_steps_of_two_frames(tmp_path_factory):
    """A step that is not whole counts with its frame repeated, and is encoded anew when the other frame comes."""
    from helpers_networks import write_tiny_model_toml

    from sttm_export.cli import main

    folder = tmp_path_factory.mktemp("pairs")
    write_tiny_model_toml(folder / "qwen.toml", model_of(tiny_qwen(rows=6)))
    command = ["--model", str(folder / "qwen.toml"), "--budget", "0.5", "--frames", "8", "--batch", "4"]
    assert main([*command, "--random-weights", "7", "--no-engines", "--output", str(folder / "bundle")]) == 0
    frames = pictures(33, kinds=3)
    with seeing(folder / "bundle") as (bundle, vision):
        assert (vision.frames_per_step, vision.batch) == (2, 2)
        alone, window = Apart(bundle), Window(vision, bundle.model.pixels)
        assert window.size == 8
        for index, frame in enumerate(frames):
            window.push(frame, float(index))
            emitted = window.emit(thresholds(bundle))
            # Steps begin at even frames; the window holds the last four of them.
            first = max(0, 2 * (index // 2 - 3))
            assert emitted.numbers.tolist() == list(range(first, index + 1))
            assert same_tokens(emitted.merged, alone.tokens(frames[first : index + 1]))
            assert len(window) == index + 1 - first
        for size, message in ((3, "3 frames is not possible; give 2 to 8, a multiple of 2"), (10, "give 2 to 8")):
            with pytest.raises(UserError, match=message):
                Window(vision, bundle.model.pixels, size=size)


def test_refusals(tiny_bundle):
    with seeing(tiny_bundle) as (bundle, vision):
        pixels = bundle.model.pixels
        for options in ({"size": 0}, {"size": 5}):
            with pytest.raises(UserError, match="frames is not possible; give 1 to 4"):
                Window(vision, pixels, **options)
        for tolerance in (-1, 256):
            with pytest.raises(UserError, match="give levels of grey, 0 to 255"):
                Window(vision, pixels, still_tolerance=tolerance)
        window = Window(vision, pixels)
        with pytest.raises(UserError, match="There is no frame in the window"):
            window.emit(thresholds(bundle))
        with pytest.raises(UserError, match="must be uint8 RGB"):
            window.push(np.zeros((4, 4), np.uint8), 0.0)
        assert len(window) == 0
        assert window.counts.frames == 0

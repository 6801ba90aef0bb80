"""Graphs over one tape of features: what crosses to the host, what is allocated, and what becomes of memory."""

import numpy as np
import pytest
from helpers_window import pictures, seeing

from sttm_export.engines.driver import CudaError
from sttm_export.errors import UserError
from sttm_export.runtime.memory import ALIGNED, GpuMemory, HostMemory
from sttm_export.streams.window import Window


def test_nothing_of_the_features_crosses_to_the_host(orin, orin_bundle):
    with seeing(orin_bundle, "engine") as (bundle, vision):
        window = Window(vision, bundle.model.pixels)
        window.push(pictures(1)[0], 0.0)
        window.emit(bundle.manifest.thresholds)
        before = len(orin.log.calls)
        for index, frame in enumerate(pictures(8)):
            window.push(frame, float(index))
        window.emit(bundle.manifest.thresholds)
        calls = orin.log.calls[before:]
    pixels = bundle.graph("vision_encoder").inputs[0].nbytes
    outputs = {tensor.nbytes for tensor in bundle.graph("token_merger").outputs}
    into, out = (
        [row["arguments"][2] for row in calls if row["call"] == name]
        for name in ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2")
    )
    assert sorted(into) == [4] * 3 + [pixels] * 4, "pixels of four batches and three scalars go in"
    assert set(out) <= outputs, "what the merger makes comes out"
    names = [row["call"] for row in calls]
    assert not {"cuMemAlloc_v2", "cuMemHostAlloc"} & set(names), "everything was allocated before"
    # Before the memory of the next batch's pixels is filled, and for the tokens; not once for each call of a graph.
    assert names.count("cuStreamSynchronize") <= 5


def test_the_two_share_one_stream(orin, orin_bundle):
    with seeing(orin_bundle, "engine") as (bundle, vision):
        window = Window(vision, bundle.model.pixels)
        for index, frame in enumerate(pictures(4)):
            window.push(frame, float(index))
        window.emit(bundle.manifest.thresholds)
        # Sessions make none of their own.
        assert len(orin.driver.streams) == 1
    streams = {row["arguments"][0] for row in orin.log.calls if row["call"] == "Context.execute_async_v3"}
    assert len(streams) == 1
    assert orin.driver.live() == {}


@pytest.mark.usefixtures("exact_places")
def test_what_lies_behind_the_frames_does_not_count(tiny_bundle):
    """The tape behind a short window holds whatever was there; the merger sees zeros, as in a clip of its own."""
    with seeing(tiny_bundle) as (bundle, vision):
        frames, thresholds = pictures(3), bundle.manifest.thresholds
        window = Window(vision, bundle.model.pixels, size=2)
        window.push(frames[0], 0.0)
        window.push(frames[1], 1.0)
        expected = window.emit(thresholds).merged
        for index in range(vision.slots):
            vision._memory.zero(vision._at(index), vision._step)
            vision._memory.copy(vision._at(index), vision._batch_place, vision._step)
        for number in range(2 * vision.slots):
            window.push(frames[2], float(number))
        window.push(frames[0], 0.0)
        window.push(frames[1], 1.0)
        assert np.array_equal(window.emit(thresholds).merged.tokens, expected.tokens)


def test_too_little_memory_is_said_and_nothing_stays(orin, orin_bundle):
    orin.knob(memory=2**14)
    with pytest.raises(CudaError, match="of GPU memory for"), seeing(orin_bundle, "engine"):
        pass
    assert orin.driver.live() == {}


@pytest.mark.parametrize("make", [HostMemory, GpuMemory])
def test_memory(orin, make):
    memory = make()
    try:
        address = memory.allocate(1024, "a test")
        assert address % ALIGNED == 0 or make is GpuMemory
        memory.zero(address, 1024)
        assert not memory.read(address, (1024,), np.uint8).any()
        other = memory.allocate(1024, "a test")
        memory.zero(other, 1024)
        memory.copy(other + 16, address, 16)
        assert memory.read(other, (4, 8), np.float32).dtype == np.float32
        assert (memory.stream is None) == (make is HostMemory)
    finally:
        memory.close()
        memory.close()
    assert orin.driver.live() == {}


def test_a_count_that_is_not_possible(tiny_bundle):
    with seeing(tiny_bundle) as (bundle, vision):
        for first, count in ((0, 0), (0, 5), (vision.slots - 1, 1)):
            with pytest.raises(UserError, match="Cannot merge"):
                vision.merge(first, count, bundle.manifest.thresholds)


@pytest.mark.usefixtures("exact_places")
def test_whether_the_place_in_a_batch_matters_is_found_out(tiny_bundle):
    with seeing(tiny_bundle) as (bundle, vision):
        window = Window(vision, bundle.model.pixels)
        frames, thresholds = pictures(5), bundle.manifest.thresholds
        assert vision.warm_up(thresholds)
        for index, frame in enumerate(frames):
            window.push(frame, float(index))
        expected = window.emit(thresholds).merged
        real = vision._encoder.run_placed

        def otherwise(inputs, places):
            """Real kernels may add up in another order in the second place; here it sees another picture."""
            (pixels,) = inputs.values()
            changed = pixels.copy()
            changed[1] *= np.float16(1.01)
            return real({"pixel_values": changed}, places)

        vision._encoder.run_placed = otherwise
        assert not vision.warm_up(thresholds)
        vision._encoder.run_placed = real
        # What it leaves on the tape is no frame's.
        window.clear()
        for index, frame in enumerate(frames):
            window.push(frame, float(index))
        assert np.array_equal(window.emit(thresholds).merged.tokens, expected.tokens)

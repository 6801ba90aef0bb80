"""100,000 frames, 28 hours at one a second, through real graphs and the real loop, in a process that is watched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FRAMES = 100_000
# Of a hundred frames, so many differ from the one before: a camera that looks at a quiet place.
MOVING = 5
EVERY = 20

PROGRAM = """
import json, os, sys
sys.path[:0] = {paths!r}
import numpy as np
from helpers_serving import resident
from helpers_streams import THRESHOLDS, Clock
from sttm_export.bundle.opened import open_bundle
from sttm_export.pipeline.backend import choose_backend
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.frame import Frame
from sttm_export.streams.records import StreamSink
from sttm_export.streams.runner import Plan, follow
from sttm_export.streams.window import Window

FRAMES, MOVING, EVERY = {frames}, {moving}, {every}
base = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
sizes, clock = {{}}, Clock(0.0)


class Camera:
    '''Synthetic time: a frame a second. From time to time it has another size.'''

    waits, counters = True, {{"reopened": 0}}

    def frames(self):
        for number in range(FRAMES):
            clock.now = float(number)
            place = number % 100 if number % 100 < MOVING else MOVING
            picture = np.roll(base, place + number // 100, 1)
            yield Frame(number, clock.now, picture[:, :32] if number // 5000 % 2 else picture)

    def close(self):
        pass


def tell(status):
    if status.counts and status.counts.frames % 10_000 < EVERY:
        sizes.setdefault(status.counts.frames // 10_000, resident())


bundle = open_bundle({bundle!r})
with Loader(bundle, choose_backend(bundle, "cpu"), threads=1).vision() as vision, open(os.devnull, "wb", 0) as nowhere:
    window = Window(vision, bundle.model.pixels)
    status = follow(Camera(), window, StreamSink(nowhere), Plan(EVERY, THRESHOLDS), tell, clock=clock)
descriptors = len(os.listdir("/proc/self/fd"))
print(json.dumps([sizes, status.windows, status.counts.encoded, status.counts.reused, status.dropped, descriptors]))
"""


@pytest.mark.slow
def test_memory_stays_the_same_over_a_day_of_frames(tiny_bundle):
    here = Path(__file__).resolve().parent
    code = PROGRAM.format(
        paths=[str(here.parent), str(here)], frames=FRAMES, moving=MOVING, every=EVERY, bundle=str(tiny_bundle)
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    sizes, windows, encoded, reused, dropped, descriptors = json.loads(result.stdout)
    assert (windows, encoded + reused, dropped) == (FRAMES // EVERY, FRAMES, 0)
    assert 0.04 * FRAMES < encoded < 0.08 * FRAMES
    assert descriptors < 20
    # The least that could stay of a frame is a number in a list: 32 bytes. So much for each frame would be found.
    assert sizes["10"] - sizes["1"] < 32 * (FRAMES * 9 // 10), sizes

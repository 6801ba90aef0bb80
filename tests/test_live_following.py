"""What `live` says: figures, what is unusual once, and sizes of time."""

from types import SimpleNamespace

import numpy as np
from helpers_serving import lossless, moving
from helpers_streams import Clock, ListSink

from sttm_export.cli import main
from sttm_export.runtime.resident import Vision
from sttm_export.streams.following import Following, in_hours
from sttm_export.streams.status import Latency, Status
from sttm_export.streams.window import Counts


class Lines:
    """A `Display`."""

    def __init__(self):
        self.shown, self.said = [], []
        self.show, self.say = self.shown.append, self.said.append


def status(windows=2, **changes):
    values = {
        "seconds": 3723.9,
        "received": 20,
        "sampled": 20,
        "dropped": 3,
        "waiting": 0,
        "windows": windows,
        "counts": Counts(20, 5, 15),
        "latency": Latency(0.1, 0.2, 0.3, 0.4),
        "source": {"decoded": 99, "reopened": 2, "corrupt": 0},
    }
    return Status(**{**values, **changes})


def test_figures():
    lines = Lines()
    following = Following("rtsp://door", lines)
    assert following.summary == "0 windows"
    assert following.written == ""
    following.tell(status())
    figures = "2 windows, 5 frames encoded, 15 reused, 3 dropped, 2 reopened, latency 0.20 s (95 % 0.30, most 0.40)"
    assert lines.shown == [f"1:02:03  {figures}"]
    assert following.summary == f"{figures}, in 1:02:03 of rtsp://door"
    assert following.written == " 2 windows were written before, each whole."
    following.tell(status(windows=1, counts=None, latency=None, source={}))
    assert following.summary == "1 window, 3 dropped, in 1:02:03 of rtsp://door"
    assert following.written == " 1 window was written before, each whole."


def test_what_is_unusual_is_said_once():
    lines, clock, sink = Lines(), Clock(), ListSink()
    watched = Following("a", lines, clock).watching(sink)
    for converged, value in ((True, 1.0), (False, np.nan), (False, np.nan)):
        tokens = np.full((2, 3), value, np.float32)
        watched.write(
            SimpleNamespace(numbers=np.array([7]), merged=SimpleNamespace(converged=converged, tokens=tokens)), {}
        )
        clock.now += 61
    assert len(lines.said) == 2
    assert lines.said[0].startswith("the window up to frame 7: Merging across frames did not end")
    assert "its tokens: " in lines.said[1]
    assert len(sink.written) == 3


def test_hours():
    assert [in_hours(seconds) for seconds in (0, 59.9, 60, 360_000)] == ["0:00:00", "0:00:59", "0:01:00", "100:00:00"]


def test_an_encoder_whose_features_depend_on_their_place_in_a_batch(tiny_bundle, tmp_path, monkeypatch, capfd):
    """It is said, as the windows then may not be those of `run` to the last bit."""
    monkeypatch.setattr(Vision, "warm_up", lambda vision, thresholds: False)
    source = lossless(tmp_path / "a.mkv", moving(2))
    assert main(["live", str(tiny_bundle), "--source", str(source), "--output", str(tmp_path / "w")]) == 0
    assert "differ in last bits with its place in a batch" in capfd.readouterr().err

import io

import av
import numpy as np
import pytest
from helpers_clip import GRID, grey_frames, thought_up

from sttm_export.cli import main
from sttm_export.errors import UserError
from sttm_export.runtime import overlay as overlays
from sttm_export.runtime.colors import group_colors
from sttm_export.runtime.overlay import Overlay
from sttm_export.runtime.paint import paint_frame
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import published_sampler, read_video, uniform_sampler

BAND = 56


def write(path, frames=None, times=(0.0, 0.7, 4.0)):
    told = []
    shown = Overlay(grey_frames() if frames is None else frames, thought_up(), GRID, np.array(times))
    with path.open("wb") as file:
        note = shown.write(file, lambda what, share: told.append((what, share)))
    return note, told


def test_it_is_read_back_as_it_was_painted(tmp_path):
    path, merged = tmp_path / "a.mp4", thought_up()
    assert write(path) == ("", [(f"frame {n} of 3", n / 3) for n in (1, 2, 3)])
    # 0.7 s, and at most a second for the long gap and for the last one.
    video = read_video(path, uniform_sampler(27))
    assert video.info.frames == 7 + 10 + 10
    assert video.note == ""
    assert video.frames.shape[1:] == (640 + BAND, 960, 3)
    assert video.timestamps == pytest.approx(np.arange(27) / 10)
    colors = group_colors(merged.assignment, GRID.width)
    for t, number in ((0, 6), (1, 7), (1, 16), (2, 17), (2, 26)):
        expected = np.asarray(paint_frame(grey_frames()[t], merged, GRID, t, (960, 640), colors), np.int64)
        off = np.abs(video.frames[number][:640].astype(np.int64) - expected)
        assert off.mean() < 4, (t, number)
        # In the middle of cells nothing is left of outlines, so colours are nearly as painted.
        assert off[80::160, 80::160].max() <= 6, (t, number)


def test_it_plays_everywhere(tmp_path):
    """H.264, 4:2:0, even sides; the index before the pictures, so that it plays while it is loaded."""
    path = tmp_path / "a.mp4"
    write(path, grey_frames(height=101, width=177))
    with av.open(path) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 10
        assert stream.width % 2 == stream.height % 2 == 0
        frame = next(container.decode(stream))
        assert (frame.colorspace, frame.color_range) == (1, 1)
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_a_line_says_time_and_tokens(tmp_path):
    write(tmp_path / "a.mp4")
    bands = [frame[-BAND:] for frame in read_video(tmp_path / "a.mp4", uniform_sampler(27)).frames]
    # Words are light on dark, and the bar above them grows with the tokens so far: 5, 7 and 8 of 10.
    assert all((band[14:46].max(2) > 180).mean() > 0.01 for band in bands)
    lengths = [int((bands[number][1, :, 0] > 150).sum()) / 960 for number in (3, 10, 20)]
    assert lengths == pytest.approx([0.5, 0.7, 0.8], abs=0.02)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((120, 180), (960, 640)), ((1080, 1920), (1280, 720)), ((640, 360), (540, 960)), ((2000, 100), (512, 1280))],
)
def test_sizes(tmp_path, shape, size):
    shown = Overlay(grey_frames(1, *shape), thought_up(), GRID, np.zeros(1))
    assert shown._size() == size


@pytest.mark.parametrize(("times", "stays"), [([0, 0.1, 0.2], [5, 5, 5]), ([0, 0.8, 90], [8, 10, 10])])
def test_each_frame_can_be_looked_at(times, stays):
    assert Overlay(grey_frames(), thought_up(), GRID, np.array(times))._stays() == stays


@pytest.mark.parametrize("name", [name for name, _ in overlays._ENCODERS])
def test_every_encoder_works(tmp_path, monkeypatch, name):
    if not overlays.has_encoder(name):
        pytest.skip(f"this PyAV has no {name}")
    monkeypatch.setattr(overlays, "_ENCODERS", [row for row in overlays._ENCODERS if row[0] == name])
    note, _ = write(tmp_path / "a.mp4")
    assert bool(note) == (name == "mpeg4")
    assert read_video(tmp_path / "a.mp4", uniform_sampler(3)).frames[0][200, 80].tolist() == pytest.approx(
        [128] * 3, abs=6
    )


def test_no_encoder_is_one_sentence(monkeypatch):
    monkeypatch.setattr(overlays, "_ENCODERS", (("none", {}),))
    shown = Overlay(grey_frames(), thought_up(), GRID, np.zeros(3))
    with pytest.raises(UserError, match="can write no MP4 video; install PyAV from PyPI"):
        shown.write(io.BytesIO(), lambda *_: None)


def test_run_writes_it(tiny_bundle, tmp_path, capsys):
    clip, out = str(find_sample_clip("carphone")), tmp_path / "share.mp4"
    command = ["run", str(tiny_bundle), "--video", clip, "--output", str(tmp_path / "a.npz")]
    assert main([*command, "--overlay", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    result, video = np.load(tmp_path / "a.npz"), read_video(out, published_sampler(10, 999))
    assert len(result["assignment"]) == 4
    assert video.info.frames == 40
    # 960 across, as 176×144 is, and the line of text.
    assert video.frames[0].shape == (786 + BAND, 960, 3)

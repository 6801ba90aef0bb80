from fractions import Fraction

import helpers_runtime as helpers
import numpy as np
import pytest

from sttm_export.errors import UserError
from sttm_export.runtime import probe as probing
from sttm_export.runtime import sample_clips
from sttm_export.runtime.probe import VideoInfo, probe
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import published_sampler, read_video, uniform_sampler


@pytest.mark.parametrize(
    ("name", "shape", "indices"),
    [
        ("bunny", (7, 720, 1280, 3), [0, 25, 50, 75, 100, 125, 131]),
        ("carphone", (5, 144, 176, 3), [0, 30, 60, 90, 119]),
    ],
)
def test_sample_clips(name, shape, indices):
    video = read_video(find_sample_clip(name), published_sampler(1.0, 128))
    assert video.frames.shape == shape
    assert video.frames.dtype == np.uint8
    assert video.indices.tolist() == indices
    assert video.timestamps == pytest.approx([i / float(video.info.fps) for i in indices], abs=1e-3)
    assert video.note == ""


def test_the_right_frames_are_decoded(tmp_path):
    video = read_video(helpers.write_video(tmp_path / "a.mp4"), uniform_sampler(4))
    assert video.indices.tolist() == [0, 3, 7, 11]
    blue = video.frames[:, 30:, :, 2].mean((1, 2))
    assert blue == pytest.approx(18 * video.indices, abs=6)


def test_rotation_is_undone(tmp_path):
    upright = helpers.rotate_header(helpers.write_video(tmp_path / "a.mp4"), tmp_path / "r.mp4")
    frame = read_video(upright, uniform_sampler(1)).frames[0]
    assert frame.shape == (64, 48, 3)
    # Turned clockwise, the red quarter moves from top left to top right.
    assert frame[8, -8, 0] > 200
    assert frame[8, 8, 0] < 50


def test_stream_without_frame_count_or_length(tmp_path):
    path = helpers.write_video(tmp_path / "a.mkv")
    info = probe(path)
    assert info.frames == 12
    assert info.declared_frames == 0
    assert len(read_video(path, uniform_sampler(12)).frames) == 12


def test_variable_rate_gives_real_times(tmp_path):
    path = helpers.write_video(tmp_path / "v.mkv", frames=6, pts=[0, 1, 2, 10, 11, 30])
    video = read_video(path, uniform_sampler(6))
    assert video.timestamps == pytest.approx([0, 0.1, 0.2, 1.0, 1.1, 3.0], abs=2e-3)


def test_one_frame(tmp_path):
    video = read_video(helpers.write_video(tmp_path / "one.mp4", frames=1), published_sampler(1.0, 128))
    assert video.frames.shape[0] == 1
    assert video.timestamps.tolist() == [0.0]


def test_a_cut_off_file_is_decoded_as_far_as_it_goes_and_says_so(tmp_path):
    # The index stands in front of the pictures, so that losing the tail loses pictures only.
    whole = helpers.write_video(tmp_path / "whole.mkv", frames=12)
    data = whole.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) * 2 // 3])
    video = read_video(cut, uniform_sampler(3))
    assert 0 < video.info.frames < 12
    assert video.indices.tolist() == [0, (video.info.frames - 1) // 2, video.info.frames - 1]


def test_a_decoder_that_stops_early_draws_the_sample_again(tmp_path, monkeypatch):
    path = helpers.write_video(tmp_path / "a.mp4")
    honest = probe(path)
    monkeypatch.setattr("sttm_export.runtime.video.probe", lambda _: VideoInfo(**{**vars(honest), "frames": 20}))
    video = read_video(path, uniform_sampler(3))
    assert video.indices.tolist() == [0, 5, 11]
    assert "breaks off: 12 of 20 frames" in video.note


def _empty(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    return path


def _noise(tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    return path


def _text(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello\n" * 100)
    return path


def _headless(tmp_path):
    path = helpers.write_video(tmp_path / "h.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moov") - 4])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "none.mp4", "There is no video at"),
        (lambda d: d, "is a directory"),
        (_empty, r"is empty \(0 bytes\)"),
        (_noise, "cannot be read as a video"),
        (_text, "text file"),
        (_headless, "cannot be read as a video"),
        (lambda d: helpers.write_sound(d / "s.wav"), "only sound"),
    ],
)
def test_unusable_files(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        read_video(make(tmp_path), uniform_sampler(2))
    assert "\n" not in str(caught.value)


def test_a_stream_without_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "_packet_times", lambda *_: [])
    with pytest.raises(UserError, match="without a single frame"):
        probe(helpers.write_video(tmp_path / "a.mp4"))


def test_nothing_decodable(tmp_path, monkeypatch):
    path = helpers.write_video(tmp_path / "a.mp4")
    monkeypatch.setattr("sttm_export.runtime.video._decode", lambda *_: iter(()))
    with pytest.raises(UserError, match="Not one frame"):
        read_video(path, uniform_sampler(2))


@pytest.mark.parametrize(
    ("rates", "times", "expected"),
    [
        ((None, None), [0.0, 0.5, 1.0], Fraction(2)),
        ((None, None), [], Fraction(25)),
        ((None, Fraction(24)), [], Fraction(24)),
    ],
)
def test_frame_rate_falls_back(rates, times, expected):
    stream = type("Stream", (), {"average_rate": rates[0], "guessed_rate": rates[1]})
    assert probing._frame_rate(stream, times) == expected


def test_unknown_clip():
    with pytest.raises(UserError, match="Did you mean 'bunny'"):
        find_sample_clip("buny")


def test_clips_not_installed(monkeypatch):
    monkeypatch.setattr(sample_clips, "DISTRIBUTION", "no-such-distribution-here")
    with pytest.raises(UserError, match="not installed; install it with"):
        find_sample_clip("bikes")


def test_clip_missing_from_distribution(monkeypatch):
    monkeypatch.setattr(sample_clips.metadata, "files", lambda _: [])
    with pytest.raises(UserError, match="lacks the sample clip"):
        find_sample_clip("bikes")

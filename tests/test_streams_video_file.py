"""A file as a source: the frames and times of `read_video`, and as a camera that waits for nobody."""

import numpy as np
import pytest
from helpers_runtime import write_sound, write_video
from helpers_serving import collect, lossless, moving, mpegts
from helpers_streams import Clock

from sttm_export.errors import UserError
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import read_video, uniform_sampler
from sttm_export.streams.video_file import VideoFile


@pytest.mark.parametrize("name", ["carphone", "bikes"])
def test_frames_are_those_of_read_video(name):
    clip = find_sample_clip(name)
    video = read_video(clip, uniform_sampler(10**6))
    count = 0
    for frame in VideoFile(clip, pytest.fail).frames():
        assert np.array_equal(frame.rgb, video.frames[count])
        assert (frame.number, frame.time) == (video.indices[count], video.timestamps[count])
        count += 1
    assert count == len(video.frames)


def test_a_rate(tmp_path):
    source = VideoFile(lossless(tmp_path / "a.mkv", moving(30)), pytest.fail, fps=2.0)
    assert source.waits
    assert [frame.number for frame in source.frames()] == [0, 5, 10, 15, 20, 25]
    assert source.counters == {"decoded": 30, "corrupt": 0}


def test_at_its_own_pace(tmp_path):
    clock, waited = Clock(), []

    def wait(seconds):
        waited.append(round(seconds, 6))
        clock.now += seconds
        return False

    path = write_video(tmp_path / "a.mp4", frames=8, rate=10)
    source = VideoFile(path, pytest.fail, pace=True, clock=clock, wait=wait)
    assert not source.waits
    for frame in source.frames():
        assert round(clock.now - 100, 6) == round(max(frame.time, 0.45 if frame.number > 2 else 0), 6)
        if frame.number == 2:
            clock.now += 0.25  # whoever reads is slow for once: what was due meanwhile comes at once
    assert waited == [0.1, 0.1, 0.05, 0.1, 0.1]


def test_closing_ends_a_wait_at_once(tmp_path):
    source = VideoFile(write_video(tmp_path / "a.mp4", frames=3, rate=10, pts=[0, 1000, 2000]), print, pace=True)
    frames = source.frames()
    next(frames)
    source.close()
    assert list(frames) == []


def test_damage_in_the_middle_is_left_out_and_counted(tmp_path):
    data = bytearray(mpegts(moving(24)))
    for start in range(len(data) // 2, len(data) // 2 + 376):
        data[start] ^= 0x5A
    (tmp_path / "a.ts").write_bytes(data)
    said = []
    source = VideoFile(tmp_path / "a.ts", said.append)
    frames = list(source.frames())
    assert source.counters["corrupt"] >= 1
    assert 12 <= len(frames) <= 23
    assert frames[-1].time == pytest.approx(2.3)


def test_a_file_that_changes_its_size(tmp_path):
    """Where two streams were put together the counters of packets do not go on: that counts as damage before it."""
    for name, width in (("one", 64), ("two", 96)):
        write_video(tmp_path / f"{name}.ts", frames=4, width=width, container="mpegts")
    path, said = tmp_path / "a.ts", []
    path.write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    source = VideoFile(path, said.append)
    frames = {frame.number: frame for frame in source.frames()}
    assert said == [f"{path} changes its size from 64×48 to 96×48; each frame is resized from its own"]
    video = read_video(path, uniform_sampler(100))
    assert all(np.array_equal(frame.rgb, video.frames[number]) for number, frame in frames.items())
    assert {0, 1, 4, 5, 6, 7} <= frames.keys()
    assert len(frames) + source.counters["corrupt"] == 8


def test_a_file_that_is_cut_off(tmp_path):
    path = lossless(tmp_path / "a.mkv", moving(30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 5 < len(collect(VideoFile(path, print))) < 30


def test_what_is_no_video(tmp_path):
    write_sound(tmp_path / "a.wav")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, message in (("none.mp4", "There is no video"), ("empty.mp4", "is empty"), ("a.wav", "only sound")):
        with pytest.raises(UserError, match=message):
            list(VideoFile(tmp_path / name, print).frames())

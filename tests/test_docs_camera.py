"""docs/camera.md against the program: its options, its recipes, its reader of a stream."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_streams_records import FACTS, emitted, stream

from sttm_export.kit.run_main import build_parser
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.streams.raw import PIXEL_FORMATS, RawSource, parse_size
from sttm_export.streams.records import window_record

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "camera.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands():
    """(what stands before the pipe, options of run.sh), both as words."""
    for block in blocks("bash"):
        before, after = (shlex.split(half) for half in block.replace("\\\n", " ").split(" |\n"))
        assert after[:2] == ["bash", "device/run.sh"]
        yield before, after[2:]


RECIPES = list(commands())
GSTREAMER = [(before, options) for before, options in RECIPES if before[0] == "gst-launch-1.0"]


def test_the_page_has_them_all():
    assert len(RECIPES) == 7
    sources = [before[2] for before, _ in GSTREAMER]
    assert sources == ["nvarguscamerasrc", "v4l2src", "v4l2src", "rtspsrc", "filesrc"]


@pytest.mark.parametrize(("before", "options"), RECIPES, ids=lambda words: words[2])
def test_options_are_those_of_the_program_and_of_the_pipeline(before, options):
    given = build_parser().parse_args(options)
    width, height = parse_size(given.size)
    text = " ".join(before)
    assert given.pixel_format in PIXEL_FORMATS
    if before[0] == "ffmpeg":
        assert f"fps={given.rate}" in text and f"-pix_fmt {given.pixel_format}" in text and "-nostdin" in before
        return
    assert before[1] == "-q" and before[-2:] == ["fdsink", "fd=1"]
    caps = [word for word in before if re.match(r"(video|image)/", word)]
    sizes = {found for word in caps for found in re.findall(r"width=(\d+),height=(\d+)", word)}
    assert sizes <= {(str(width), str(height))}
    assert [found for word in caps for found in re.findall(r"framerate=(\d+)/1", word)][-1] == given.rate
    assert [found for word in caps for found in re.findall(r"format=(\w+)", word)][-1] == given.pixel_format
    assert given.live == (before[2] != "filesrc")


def stood_in(words, frames=45):
    """The pipeline on a machine without cameras and NVIDIA's elements."""
    text = " ".join(word.replace("(memory:NVMM)", "") for word in words)
    plain = f"videotestsrc num-buffers={frames}"
    jpeg = re.search(r"image/jpeg(,width=\S+)", text)
    if jpeg:
        plain += f" ! video/x-raw{jpeg[1]} ! jpegenc"
    text = text.replace("nvarguscamerasrc", plain).replace("v4l2src device=/dev/video0", plain)
    text = text.replace("nvv4l2decoder", "avdec_h264").replace("nvvidconv", "videoconvert")
    return text.replace("clip.mp4", str(find_sample_clip("bikes"))).split()


@pytest.mark.parametrize(
    ("before", "options"),
    [recipe for recipe in GSTREAMER if recipe[0][2] != "rtspsrc"],
    ids=lambda words: f"{words[2]} {words[5]}",
)
def test_pipelines_give_whole_frames_at_the_rate(tmp_path, before, options):
    """Where there is a GStreamer; the rest of the tests does without."""
    command = stood_in(before)
    missing = [word for word in ("videotestsrc", "jpegdec", "qtdemux", "avdec_h264") if word in command]
    if not shutil.which("gst-launch-1.0") or any(
        subprocess.run(["gst-inspect-1.0", "--exists", word], check=False).returncode for word in missing
    ):
        pytest.skip("GStreamer, or an element of it, is not installed")
    with (tmp_path / "raw").open("wb") as raw:
        subprocess.run(command, stdout=raw, check=True, timeout=60)
    given = build_parser().parse_args(options)
    size = (640, 272) if before[2] == "filesrc" else parse_size(given.size)
    with (tmp_path / "raw").open("rb", buffering=0) as raw:
        found = list(RawSource(raw, *size, float(given.rate), given.pixel_format).frames())
    # The clip has 10 seconds; a picture of the test has 1.5.
    assert abs(len(found) - (20 if before[2] == "filesrc" else 3)) <= 1
    assert all(frame.rgb.shape == (size[1], size[0], 3) for frame in found)
    assert len(np.unique(found[0].rgb)) > 20


def test_the_reader_reads_the_stream():
    (reader,) = (block for block in blocks("python") if "sys.stdin.buffer" in block)
    assert sum(bool(line) for line in reader.splitlines()) == 6
    sent = [emitted(0), emitted(1, frames=1, tokens=0), emitted(2, frames=8, tokens=900)]
    done = subprocess.run([sys.executable, "-c", reader], input=stream(*sent), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [f"{number} {one.numbers.tolist()} {one.merged.tokens.shape}" for number, one in enumerate(sent, 1)]
    assert done.stdout.decode().splitlines() == expected


def tables(heading):
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_tables_name_every_option_and_every_key():
    known = [option for action in build_parser()._actions for option in action.option_strings]
    # `--queue` stands in the row of `--live`.
    assert sorted(tables("Options")) == sorted(set(known) - {"-h", "--help", "--queue"})
    assert tables("Reading windows") == [*(key for key in window_record(emitted(), FACTS, 1)), "arrays"]

"""A corpus of short clips, bad files of every kind, and results read again."""

import os

import numpy as np
from helpers_runtime import write_sound, write_video

from sttm_export.corpora.record import MEMBER


def write_corpus(directory, count=4):
    """Clips of different content and length in two directories, some of the same name."""
    for number in range(count):
        folder = directory / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{number // 2}.mp4", frames=6 + 2 * (number % 4), width=48 + 16 * (number % 3), rate=4)
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*.mp4"))


def write_bad_files(directory):
    """What is called a video and is none; returns the words of the sentence for each."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "text.mp4").write_text("this is no video\n" * 40)
    (directory / "empty.mp4").touch()
    (directory / "zeros.mp4").write_bytes(bytes(4096))
    whole = write_video(directory / "whole.mp4").read_bytes()
    (directory / "cut.mp4").write_bytes(whole[: len(whole) // 8])
    (directory / "whole.mp4").unlink()
    write_sound(directory / "sound.wav").rename(directory / "sound.mp4")
    os.mkfifo(directory / "pipe.mp4")
    (directory / "circle.mp4").symlink_to("circle.mp4")
    (directory / "broken.mp4").symlink_to("nowhere")
    write_video(directory / ("n" * 210 + ".mp4"))
    return {
        "text.mp4": "cannot be read as a video|is a text file",
        "empty.mp4": "is empty",
        "zeros.mp4": "cannot be read as a video",
        "cut.mp4": "cannot be read as a video|Not one frame|without a single frame",
        "sound.mp4": "holds only sound",
        "pipe.mp4": "is no regular file",
        "circle.mp4": "Cannot read|There is no video",
        "broken.mp4": "There is no video",
        "n" * 210 + ".mp4": "is too long",
    }


def arrays(path, without=(MEMBER,)):
    """Dtype, shape and bytes of what an .npz holds."""
    with np.load(path) as file:
        return {name: (file[name].dtype, file[name].shape, file[name].tobytes()) for name in set(file) - {*without}}

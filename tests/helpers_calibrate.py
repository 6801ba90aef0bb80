"""A model and clips that are calibrated in seconds, and features of real clips."""

from dataclasses import replace

from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import tiny_model, write_tiny_model_toml
from helpers_runtime import write_video

from sttm_export.cli import main

FRAMES = 4
WEIGHTS = ("--random-weights", "7")


def quick_toml(directory):
    """A model whose grid has cells to merge within a frame."""
    model = tiny_model(image=84, grid=(6, 6))
    model = replace(model, decoder=tiny_decoder(vocabulary=300), prompt=tiny_prompt())
    return write_tiny_model_toml(directory / "tiny.toml", model)


def write_clips(directory, count=3):
    """Short clips of different content, `a.mp4`, `b.mp4`, …; 1 frame a second gives 3, 4, 5 frames."""
    directory.mkdir(exist_ok=True)
    names = [directory / f"{chr(ord('a') + place)}.mp4" for place in range(count)]
    return [write_video(path, frames=6 + 4 * place, width=48 + 16 * place, rate=4) for place, path in enumerate(names)]


def calibrate(toml, output, *clips, more=(), weights=WEIGHTS):
    """Run the verb; returns its exit code."""
    command = ["calibrate", "--model", toml, *weights, "--frames", FRAMES, "--output", output, *more]
    return main([str(word) for word in (*command, *(["--clips", *clips] if clips else []))])

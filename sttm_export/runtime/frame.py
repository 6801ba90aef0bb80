"""One picture of a video or a camera."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Frame(NamedTuple):
    """One decoded frame."""

    number: int  # index in the video, or in what a camera gave
    time: float  # seconds after the first frame
    rgb: NDArray[np.uint8]  # [h, w, 3], upright

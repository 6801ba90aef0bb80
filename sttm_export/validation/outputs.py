"""Reading the token merger's outputs: is the bookkeeping consistent with itself, and which token is whose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.validation.quadtree import Ints

Array = NDArray[np.generic]


@dataclass(frozen=True)
class TokenTable:
    """Outputs of the token-merger graph, cut to what is in use."""

    tokens: NDArray[np.floating]  # [n, C]
    box: Ints  # [n, 5]
    patches: Ints  # [n]
    assignment: Ints  # [T', N]
    thresholds: tuple[float, float]  # (spatial, temporal) that were applied
    names: Ints  # [n], representative and extent of each token in one number; equal names mean equal tokens

    @property
    def keys(self) -> Ints:
        """[T', N]: the name of the token each cell went to."""
        return self.names[self.assignment]


def read_tokens(outputs: Mapping[str, Array], num_frames: int, width: int) -> TokenTable:
    """Cut the static outputs to size. Call `bookkeeping_faults` first: this trusts every index."""
    count = int(outputs["num_tokens"])
    box = np.asarray(outputs["token_box"], np.int64)[:count]
    assignment = np.asarray(outputs["assignment"], np.int64)[:num_frames]
    cells = assignment.shape[1]
    t, y0, x0, y1, x1 = box.T
    names = (t * cells + y0 * width + x0) * cells + (y1 - 1) * width + x1 - 1
    spatial, temporal = np.asarray(outputs["thresholds_applied"], np.float64).tolist()
    patches = np.asarray(outputs["token_patches"], np.int64)[:count]
    tokens = cast("NDArray[np.floating]", outputs["tokens"])[:count]
    return TokenTable(tokens, box, patches, assignment, (spatial, temporal), names)


def bookkeeping_faults(outputs: Mapping[str, Array], num_frames: int, height: int, width: int) -> list[str]:
    """Contradictions within one set of outputs, as phrases; none of them can be excused by rounding."""
    count, bound = int(outputs["num_tokens"]), len(outputs["token_box"])
    if not 0 <= count <= bound:
        return [f"num_tokens is {count}, outside 0..{bound}"]
    box = np.asarray(outputs["token_box"], np.int64)
    patches = np.asarray(outputs["token_patches"], np.int64)
    assignment = np.asarray(outputs["assignment"], np.int64)
    faults = _padding_faults(outputs, count, num_frames)
    applied = np.asarray(outputs["thresholds_applied"], np.float64)
    if not np.isfinite(applied).all():
        faults.append(f"thresholds_applied are {applied.tolist()}, no numbers to compare with")
    used = assignment[:num_frames]
    if used.size and not (used.min() >= 0 and used.max() < count):
        return [*faults, f"assignment holds {used.min()}..{used.max()}, outside 0..{count - 1}"]
    boxes = box[:count]
    if _outside(boxes, num_frames, height, width).any():
        return [
            *faults,
            f"token_box leaves the clip at token {int(_outside(boxes, num_frames, height, width).argmax())}",
        ]
    order = (boxes[:, 0] * height + boxes[:, 1]) * width + boxes[:, 2]
    if (np.diff(order) <= 0).any():
        faults.append(f"tokens are not in (t, y, x) order at token {int((np.diff(order) <= 0).argmax()) + 1}")
    area = np.bincount(used.ravel(), minlength=count)
    if not np.array_equal(area, patches[:count]):
        slot = int((area != patches[:count]).argmax())
        faults.append(f"token {slot} claims {patches[slot]} patches, but {area[slot]} cells are assigned to it")
    own = used[boxes[:, 0], boxes[:, 1] * width + boxes[:, 2]]
    if not np.array_equal(own, np.arange(count)):
        slot = int((own != np.arange(count)).argmax())
        faults.append(f"the representative of token {slot} is itself assigned to token {own[slot]}")
    return faults


def _outside(boxes: Ints, frames: int, height: int, width: int) -> NDArray[np.bool_]:
    t, y0, x0, y1, x1 = boxes.T
    inside: NDArray[np.bool_] = (
        (t >= 0) & (t < frames) & (y0 >= 0) & (x0 >= 0) & (y1 <= height) & (x1 <= width) & (y0 < y1) & (x0 < x1)
    )
    return np.logical_not(inside)


def _padding_faults(outputs: Mapping[str, Array], count: int, num_frames: int) -> list[str]:
    """Slots past the end and ignored frames must hold the declared filling."""
    filling = {"tokens": 0, "token_box": -1, "token_patches": 0}
    faults = [
        f"{name} past the last token is not {value} everywhere"
        for name, value in filling.items()
        if (np.asarray(outputs[name])[count:] != value).any()
    ]
    if (np.asarray(outputs["assignment"])[num_frames:] != -1).any():
        faults.append("assignment of ignored frames is not -1 everywhere")
    return faults

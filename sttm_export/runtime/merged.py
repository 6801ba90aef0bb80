"""The token merger's result, and writing it to a file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError
from sttm_export.runtime.session import Array, Arrays

NOT_CONVERGED = (
    "Merging across frames did not end within the rounds of the graph, so some tokens that the published method merges "
    "are still apart; the budget holds all the same."
)


@dataclass(frozen=True)
class MergedTokens:
    """Merged tokens, cut to what is in use; n = number of tokens, T' = frames that counted."""

    tokens: NDArray[np.floating]  # [n, C], in (t, y, x) order of the representatives
    token_box: NDArray[np.int32]  # [n, 5], (t, y0, x0, y1, x1) of each representative, end-exclusive, in cells
    token_patches: NDArray[np.int32]  # [n], input cells each token stands for
    assignment: NDArray[np.int32]  # [T', N], the token each cell went to
    thresholds: NDArray[np.float32]  # [2], spatial and temporal threshold that were applied
    converged: bool  # whether merging across frames ended within the unrolled rounds
    margins: NDArray[np.float32]  # [2], distance of each threshold to the nearest similarity compared with it
    max_tokens: int  # tokens that this clip may keep, its share of the budget

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Array], num_frames: int, merge: MergeSpec) -> MergedTokens:
        """Cut the static outputs of the token-merger graph to the tokens and frames in use."""
        n = int(outputs["num_tokens"])
        return cls(
            tokens=cast("NDArray[np.floating]", outputs["tokens"])[:n],
            token_box=np.asarray(outputs["token_box"], np.int32)[:n],
            token_patches=np.asarray(outputs["token_patches"], np.int32)[:n],
            assignment=np.asarray(outputs["assignment"], np.int32)[:num_frames],
            thresholds=np.asarray(outputs["thresholds_applied"], np.float32),
            converged=bool(outputs["converged"]),
            margins=np.asarray(outputs["threshold_margins"], np.float32),
            max_tokens=merge.clip_budget(num_frames),
        )

    @property
    def num_tokens(self) -> int:
        """Tokens in use, at most K."""
        return int(self.tokens.shape[0])

    @property
    def num_frames(self) -> int:
        """Frames that counted."""
        return int(self.assignment.shape[0])

    @property
    def cells(self) -> int:
        """N, cells a frame."""
        return int(self.assignment.shape[1])

    @property
    def share(self) -> float:
        """Tokens in use over input cells."""
        return self.num_tokens / self.assignment.size

    def new_tokens_per_frame(self) -> NDArray[np.int64]:
        """Return [T']: tokens whose representative lies in that frame; the rest of it was seen before."""
        return np.bincount(self.token_box[:, 0], minlength=self.num_frames)


def merged_arrays(merged: MergedTokens) -> Arrays:
    """The tokens and their metadata by the names under which they are written."""
    return {
        "tokens": merged.tokens,
        "token_box": merged.token_box,
        "token_patches": merged.token_patches,
        "assignment": merged.assignment,
        "thresholds_applied": merged.thresholds,
        "converged": np.array(merged.converged),
        "threshold_margins": merged.margins,
        "max_tokens": np.array(merged.max_tokens, np.int32),
    }


def write_npz(file: BinaryIO, merged: MergedTokens, **extra: Array) -> None:
    """Write the tokens and their metadata; `extra` arrays (timestamps, frame indices) go beside them.

    Raises:
        UserError: an extra array has the name of one of the result's.
        OSError: the disk is full.
    """
    arrays = merged_arrays(merged)
    clash = sorted(arrays.keys() & extra.keys())
    if clash:
        raise UserError(f"Extra arrays may not be called {', '.join(clash)}: the result has those; choose other names.")
    # As `np.savez` does, which in older versions leaves the archive open where the disk is full, to fail again later.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {**arrays, **extra}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

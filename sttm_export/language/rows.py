"""Rows through one loaded group of decoder layers, in the calls that its graph takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.language.positions import Ints
from sttm_export.language.rotary import rotary_tables
from sttm_export.runtime.session import Arrays, StatefulSession

Floats = NDArray[np.float32]
Told = Callable[[str, float], None]
"""Called with the name of the graph that runs, and the share of all of them that is done."""


def rows_through(
    session: StatefulSession,
    spec: DecoderSpec,
    hidden: Floats,
    positions: Ints,
    slot: int,
    on_progress: Callable[[int, int], None] = lambda _done, _count: None,
) -> Floats:
    """Run rows through a group of layers; their keys and values are in its state afterwards.

    Args:
        session: a loaded group.
        spec: of the whole decoder.
        hidden: [S, C] float32, the residual stream before the group; any number of rows.
        positions: [P, S].
        slot: where the first row goes in the buffers; the others follow.
        on_progress: called with (rows done, S) after each call of the graph.

    Returns:
        [S, C] float32, the residual stream behind the group.
    """
    made, done, counts = np.empty_like(hidden), 0, session.graph.row_counts
    while done < len(hidden):
        left = len(hidden) - done
        rows = min((count for count in counts if count >= left), default=counts[0])
        used = slice(done, done + min(rows, left))
        cos, sin = rotary_tables(spec, positions[:, used])
        feed = {"hidden": hidden[used], "cos": cos, "sin": sin}
        inputs: Arrays = {name: padded(rows, array) for name, array in feed.items()}
        inputs["slots"] = np.arange(slot + done, slot + done + rows, dtype=np.int32)
        made[used] = session.run(inputs)["hidden_out"][: min(rows, left)]
        done += rows
        on_progress(min(done, len(hidden)), len(hidden))
    return made


def padded(rows: int, array: Floats) -> Floats:
    """Return so many rows; those behind the end are zeros, and nobody sees what becomes of them."""
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


def shares(told: Told, name: str, place: int, count: int) -> Callable[[int, int], None]:
    """Return what turns rows that are done of the graph at this place into a share of all graphs."""
    return lambda done, rows: told(name, (place + done / rows) / count)

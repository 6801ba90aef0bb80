"""Positions of prompts against a slow statement that walks token by token."""

import numpy as np
from helpers_trace import told_merged_positions, told_positions
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm_export.language.positions import Prompt, cells_of, merged_positions, next_position, prompt_positions

POLICIES = st.sampled_from(["reassigned", "representative"])
# A grid that is longer in time, in rows or in columns: the largest of the three says where text goes on.
SIDES = st.integers(1, 9)
PROMPTS = st.builds(Prompt, st.integers(0, 20), SIDES, SIDES, SIDES, st.integers(0, 12))
THOROUGH = settings(max_examples=500, deadline=None)


@given(prompt=PROMPTS, policy=POLICIES)
@THOROUGH
def test_prompts(prompt, policy):
    told = told_positions(prompt, policy)
    made = prompt_positions(prompt, policy)
    assert list(zip(*made.tolist(), strict=True)) == told
    assert next_position(made) == max(map(max, told)) + 1


@given(prompt=PROMPTS, policy=POLICIES, data=st.data())
@THOROUGH
def test_merged_prompts(prompt, policy, data):
    cells = sorted(data.draw(st.sets(st.integers(0, prompt.video - 1), min_size=1)))
    made = merged_positions(prompt_positions(prompt, policy), prompt, np.array(cells), policy)
    assert list(zip(*made.tolist(), strict=True)) == told_merged_positions(prompt, policy, cells)


@given(prompt=PROMPTS)
@THOROUGH
def test_cells_of_boxes_are_numbered_row_by_row_and_frame_by_frame(prompt):
    corners = [
        (t, y, x, prompt.height, prompt.width)
        for t in range(prompt.frames)
        for y in range(prompt.height)
        for x in range(prompt.width)
    ]
    assert cells_of(np.array(corners, np.int32), prompt).tolist() == list(range(prompt.video))

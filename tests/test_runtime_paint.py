import numpy as np
import pytest
from helpers_clip import GRID, grey_frames, thought_up

from sttm_export.runtime.colors import group_colors, rgb
from sttm_export.runtime.paint import LEFT, SHADE, TINT, paint_frame

SIZE = (360, 240)  # a cell is 60×60


@pytest.fixture(scope="module")
def painted():
    merged = thought_up()
    colors = group_colors(merged.assignment, GRID.width)
    frames = grey_frames()
    return colors, [np.asarray(paint_frame(frames[t], merged, GRID, t, SIZE, colors)) for t in range(3)]


def test_what_begins_is_as_it_was_filmed(painted):
    _, frames = painted
    for t, y, x in ((0, 120, 60), (0, 60, 180), (1, 60, 180), (2, 60, 300)):
        assert frames[t][y, x].tolist() == [128] * 3, (t, y, x)


def test_what_joined_is_dimmed_and_tinted_with_its_tokens_colour(painted):
    colors, frames = painted
    for t, y, x, token in ((1, 120, 60, 0), (2, 120, 60, 0), (1, 60, 300, 2), (2, 180, 300, 4)):
        expected = [
            LEFT * 128 + (1 - LEFT) * ((1 - TINT) * shade + TINT * tone)
            for shade, tone in zip(SHADE, rgb(colors[token]), strict=True)
        ]
        assert frames[t][y, x] == pytest.approx(expected, abs=1), (t, token)
        assert frames[t][y, x].max() < 128


def test_outlines_lie_around_groups_in_their_colours(painted):
    colors, frames = painted
    # Left of the border at x = 120 token 0 has its outline, right of it token 1; nothing between cells of one token.
    assert frames[0][60, 119].tolist() == list(rgb(colors[0]))
    assert frames[0][60, 120].tolist() == list(rgb(colors[1]))
    assert frames[0][60, 59:61].tolist() == [[128] * 3] * 2
    assert frames[0][0, 0].tolist() == list(rgb(colors[0]))
    assert frames[0][239, 359].tolist() == list(rgb(colors[4]))
    # A dark line inside keeps it legible on a light picture; where a token has joined, the outline is thin.
    assert frames[0][60, 115].max() < 128
    inner = frames[1][100, 30]
    assert frames[1][100, 119].tolist() != inner.tolist()
    assert frames[1][100, 118].tolist() == inner.tolist()


def test_an_odd_size_and_a_cell_of_a_pixel():
    merged = thought_up()
    colors = group_colors(merged.assignment, GRID.width)
    for size in ((6, 4), (7, 5), (101, 67), (1, 1)):
        assert paint_frame(grey_frames()[0], merged, GRID, 1, size, colors).size == size

import numpy as np
import pytest

from sttm_export.runtime.colors import ALIKE, PALETTE, group_colors, rgb
from sttm_export.runtime.paint import SHADE

# Machado, Oliveira and Fernandes 2009, severity 1: what linear RGB becomes to an eye without one kind of cone.
EYES = {
    "all cones": np.eye(3),
    "no L cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no M cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no S cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Ottosson 2020: linear RGB to cones, and their cube roots to OKLab, in which equal steps look alike.
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
TOO_CLOSE = 0.09


def linear(color):
    byte = np.array(color) / 255
    return np.where(byte <= 0.04045, byte / 12.92, ((byte + 0.055) / 1.055) ** 2.4)


def seen(color, eye):
    return np.array(OKLAB) @ np.cbrt(np.array(CONES) @ np.clip(np.array(EYES[eye]) @ linear(color), 0, 1))


def nearest(one, other):
    """How far apart two colours are to the eye that tells them apart least."""
    return min(np.linalg.norm(seen(rgb(one), eye) - seen(rgb(other), eye)) for eye in EYES)


def test_colours_that_are_alike_to_some_eye_are_known():
    pairs = {(a, b): nearest(a, b) for b in range(len(PALETTE)) for a in range(b)}
    assert {pair for pair, distance in pairs.items() if distance < TOO_CLOSE} == set(ALIKE)
    # No verdict hangs on the last digits, and eyes with all cones tell every two of them apart.
    assert all(abs(distance - TOO_CLOSE) > 0.004 for distance in pairs.values())
    for a, b in pairs:
        assert np.linalg.norm(seen(rgb(a), "all cones") - seen(rgb(b), "all cones")) > 0.1


def test_every_colour_stands_out_of_a_dimmed_picture():
    def luminance(color):
        return linear(color) @ [0.2126, 0.7152, 0.0722]

    for color in range(len(PALETTE)):
        assert (luminance(rgb(color)) + 0.05) / (luminance(SHADE) + 0.05) >= 4.5


def still_grid(frames, height, width):
    return np.tile(np.arange(height * width), (frames, 1))


def borders_of(colors, assignment, width):
    """Pairs of colours on both sides of each border between two tokens, in a frame and from frame to frame."""
    grid = assignment.reshape(len(assignment), -1, width)
    for a, b in ((grid[:, :, 1:], grid[:, :, :-1]), (grid[:, 1:], grid[:, :-1]), (grid[1:], grid[:-1])):
        different = a != b
        yield from zip(colors[a[different]].tolist(), colors[b[different]].tolist(), strict=True)


@pytest.mark.parametrize("side", [2, 5, 8, 13, 14, 21, 27])
def test_neighbours_differ_whatever_the_width(side):
    assignment = still_grid(3, side, side)
    met = list(borders_of(group_colors(assignment, side), assignment, side))
    assert met
    assert all(a != b and (min(a, b), max(a, b)) not in ALIKE for a, b in met)


def test_colours_of_random_groups():
    """Each cell either stays with its token or begins one; also where a token meets more than there are colours."""
    rng = np.random.default_rng(5)
    frames, height, width = 12, 9, 11
    assignment, tokens = [np.arange(height * width)], height * width
    for _ in range(1, frames):
        cells = assignment[-1].copy()
        cells[rng.random(len(cells)) < 0.02] = 0  # one that is everywhere
        fresh = np.flatnonzero(rng.random(len(cells)) < 0.4)
        cells[fresh] = np.arange(tokens, tokens + len(fresh))
        tokens += len(fresh)
        assignment.append(cells)
    assignment = np.stack(assignment)
    colors = group_colors(assignment, width)
    met = list(borders_of(colors, assignment, width))
    same = sum(a == b for a, b in met)
    assert same / len(met) < 0.01
    assert len(colors) == tokens
    # None is left out, and none is everywhere.
    share = np.bincount(colors, minlength=len(PALETTE)) / tokens
    assert 0.05 < share.min() <= share.max() < 0.2


def test_the_same_groups_get_the_same_colours():
    assignment = np.random.default_rng(1).permutation(60).reshape(3, 20)
    first = group_colors(assignment, 5)
    assert np.array_equal(first, group_colors(assignment.astype(np.int32), 5))
    assert np.array_equal(first, group_colors(np.asfortranarray(assignment), 5))
    assert group_colors(np.zeros((1, 1), np.int32), 1).tolist() == [0]


def test_a_token_keeps_its_colour_when_the_clip_goes_on_elsewhere():
    """A colour is a token's, not a frame's: it is looked up by its number alone."""
    colors = group_colors(np.array([[0, 1, 2, 3], [0, 1, 2, 4]]), 2)
    assert colors.shape == (5,)
    assert len(set(colors[:4].tolist())) == 4
    assert colors[4] != colors[3]

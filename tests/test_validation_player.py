import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from helpers_clip import GRID, grey_frames, thought_up
from PIL import Image

from sttm_export.errors import UserError
from sttm_export.runtime.colors import PALETTE, group_colors
from sttm_export.runtime.stills import embed_frames, embed_png
from sttm_export.validation.player import ShownClip, embedded_json, player_script
from sttm_export.validation.report import render_report

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "'\"\\ \n\t",
    "]]>&amp;&lt;",
    "\u2028\u2029 Ünïcødé 日本語 🎞",
    "{{ 7 * 7 }}{% raw %}",
]


def shown(labels=("0.00 s", "0.50 s", "1.00 s"), frames=None):
    merged = thought_up()
    pictures = embed_frames(grey_frames() if frames is None else frames)
    return ShownClip(pictures, list(labels), merged, GRID, (180, 120))


def page_data(html):
    """What the script reads, as a browser finds it: up to the first end of a script element."""
    return json.loads(re.search(r'<script type="application/json" id="clip">(.*?)</script', html, re.DOTALL)[1])


def test_the_page_holds_the_clip():
    data = page_data(render_report({}, clip=shown()))
    merged = thought_up()
    assert data["assignment"] == merged.assignment.tolist()
    assert data["boxes"] == merged.token_box.tolist()
    assert data["colors"] == group_colors(merged.assignment, GRID.width).tolist()
    assert data["palette"] == list(PALETTE)
    assert data["grid"] == [4, 6]
    assert data["size"] == [180, 120]
    assert data["budget"] == 10
    assert [frame["label"] for frame in data["frames"]] == ["0.00 s", "0.50 s", "1.00 s"]
    assert all(frame["src"].startswith("data:image/jpeg;base64,") for frame in data["frames"])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text):
    html = render_report({"model": {"title": text}, "example": {"clip": text}}, clip=shown([text] * 3))
    assert [frame["label"] for frame in page_data(html)["frames"]] == [text] * 3
    assert html.count("<script") == html.count("</script") == 2
    assert "<!--" not in html


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_such_numbers(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json({"a": [number]})


def test_only_this_script_may_run():
    html = render_report({}, clip=shown())
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)[1].replace("&#39;", "'")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert not re.search(
        r"""https?:|//[a-z]+\.|@import|url\(""", script + html.split("<style>")[1].split("</style>")[0]
    )
    # Handlers in attributes would not run; there is none.
    assert not re.search(r"<[^>]+\son\w+=", html)
    assert player_script()[1] == policy


def test_without_a_script_the_sheet_is_there(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    html = render_report({}, tmp_path / "a.png", shown())
    assert re.search(r'<section class="player"[^>]* hidden>', html)
    assert re.search(r'<details class="sheet" id="sheet" open>', html)


def test_every_control_has_a_name():
    html = render_report({}, clip=shown())
    section = html.split('<section class="player"')[1].split("</section>")[0]
    for tag in re.findall(r"<(?:button|input)[^>]*>(?:[^<]|<svg.*?</svg>)*", section, re.DOTALL):
        named = "aria-label=" in tag or re.search(r">\s*\w", tag)
        by = re.search(r'id="(\w+)"', tag)[1]
        assert named or f'for="{by}"' in section or re.search(rf'<label[^>]*><input id="{by}"', section), tag


def test_frames_are_as_large_as_fits():
    noise = list(np.random.default_rng(0).integers(0, 256, (6, 600, 900, 3)).astype(np.uint8))

    def widths(most):
        for uri in embed_frames(noise, most):
            yield Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size

    assert set(widths(10**9)) == {(720, 480)}
    assert set(widths(1_000_000)) == {(560, 373)} or set(widths(1_000_000)) == {(420, 280)}
    assert set(widths(1)) == {(160, 107)}
    # None is made larger.
    small = base64.b64decode(embed_frames(grey_frames(1, 30, 40))[0].split(",")[1])
    assert Image.open(io.BytesIO(small)).size == (40, 30)


def test_a_damaged_picture_is_one_sentence(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        embed_png(tmp_path / "a.png")

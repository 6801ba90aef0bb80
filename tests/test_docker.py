"""Dockerfile and .dockerignore against the Makefile, the target table and the tree. No image is built here."""

import os
import re
import subprocess
from fnmatch import translate
from pathlib import Path

import pytest
from helpers_recipes import github_steps

from sttm_export.cli import VERBS, build_parser
from sttm_export.contracts.data import read_toml
from sttm_export.contracts.target import find_target, targets

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
STAGES = ("ci", "gpu", "jetson")


def instructions():
    """(keyword, arguments) in order, continuation lines joined, comments left out."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages():
    """The instructions of every stage by its name, FROM first."""
    found = {}
    for keyword, rest in instructions():
        if keyword == "FROM":
            found[rest.split(" AS ")[1]] = []
        if found:
            found[list(found)[-1]].append((keyword, rest))
    return found


def arguments(stage, keyword):
    return [rest for word, rest in stages()[stage] if word == keyword]


def global_args():
    """ARG defaults before the first FROM."""
    before = TEXT[: TEXT.index("\nFROM")]
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", before, re.MULTILINE))


def sources(stage):
    """What a stage copies from the tree."""
    return [word for rest in arguments(stage, "COPY") for word in rest.split()[:-1] if not word.startswith("--")]


def ignored(path):
    """Whether .dockerignore drops a path: one of its patterns matches it or a directory above it."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    parts = Path(path).parts
    heads = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(matches(pattern, head) for pattern in patterns for head in heads)


def matches(pattern, path):
    """As Docker: a star stays within one name, `**/` stands for any number of directories, none included."""
    if pattern.startswith("**/"):
        parts = path.split("/")
        return any(matches(pattern[3:], "/".join(parts[start:])) for start in range(len(parts)))
    names, wanted = path.split("/"), pattern.split("/")
    return len(names) == len(wanted) and all(
        re.fullmatch(translate(want), name) for want, name in zip(wanted, names, strict=True)
    )


def test_images_are_those_of_the_target_table():
    images = global_args()
    assert stages()["gpu"][0] == ("FROM", "${TENSORRT_IMAGE} AS gpu")
    assert stages()["jetson"][0] == ("FROM", "${JETSON_IMAGE} AS jetson")
    (target,) = re.findall(r"sttm-export build my-bundle --target (\S+)", TEXT)
    assert find_target(target).built == "gpu-host"
    assert images["TENSORRT_IMAGE"] == find_target(target).image
    assert images["JETSON_IMAGE"] == find_target("jetson-orin-jp62").image


def test_images_of_the_table_say_which_release_they_are():
    """Never `latest`: an engine belongs to one TensorRT."""
    named = [row.image for row in targets().values() if row.image]
    assert named
    assert all(re.fullmatch(r"nvcr\.io/nvidia/[a-z0-9-]+:[a-z]?\d+(\.\d+)+-\w+", image) for image in named)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_not_root(stage):
    assert arguments(stage, "USER")[-1] == "1000"


@pytest.mark.parametrize("stage", ["ci", "gpu"])
def test_what_is_copied_is_there_and_not_ignored(stage):
    copied = sources(stage)
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source == "." or not ignored(source), source


@pytest.mark.parametrize("stage", ["ci", "gpu"])
def test_the_layer_of_dependencies_has_what_the_installation_reads(stage):
    """Before `make` runs: the file of the stamp, and every file that pyproject.toml names for the build."""
    config = read_toml(ROOT / "pyproject.toml")
    hatch = config["tool"]["hatch"]
    needed = {"pyproject.toml", "Makefile", config["project"]["readme"], *config["project"]["license-files"]}
    needed |= {hatch["version"]["path"], *hatch["build"]["targets"]["wheel"]["force-include"]}
    order = stages()[stage]
    (make,) = [number for number, (word, rest) in enumerate(order) if word == "RUN" and "make .venv/.installed" in rest]
    early = [rest.split()[:-1] for word, rest in order[:make] if word == "COPY"]
    assert needed <= {word for words in early for word in words}
    assert "." not in {word for words in early for word in words}


def test_make_is_asked_for_what_it_has():
    for words in re.findall(r"^[^#\n]*\bmake (\.venv/\.installed.*)$", TEXT, re.MULTILINE):
        asked = words.split()
        extras = next((word.removeprefix("EXTRAS=") for word in asked if word.startswith("EXTRAS=")), "dev")
        assert set(extras.split(",")) <= set(EXTRAS)
        shown = make("-n", "-B", *asked).stdout
        assert f"--editable '.[{extras}]'" in shown or extras == "dev"
        assert ("--system-site-packages" in shown) == ("VENV_FLAGS=--system-site-packages" in asked)
    assert arguments("ci", "CMD") == ['["make", "test"]']
    assert re.search(r"^test:", MAKEFILE, re.MULTILINE)


def test_make_installs_without_extras_too():
    assert "--editable '.'" in make("-n", "-B", ".venv/.installed", "EXTRAS=").stdout


def make(*words):
    """As a newcomer would call it: the variables of a `make test` around this are its own."""
    own = ("MAKE", "MFLAGS", "EXTRAS", "VENV", "PYTHON=")
    env = {name: value for name, value in os.environ.items() if not f"{name}=".startswith(own)}
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True, env=env)


def test_commands_are_ones_that_exist():
    (default,) = arguments("gpu", "CMD")
    assert re.fullmatch(r'\["sttm-export", "(\w+)"\]', default)[1] in VERBS
    comments = re.sub(r"\\\n# +", "", TEXT)
    shown = re.findall(r"^# .*docker run .* sttm-export-\w+ sttm-export (.*)$", comments, re.MULTILINE)
    assert [build_parser().parse_args(words.split()).verb for words in shown] == ["models", "build"]
    assert arguments("jetson", "CMD") == ['["bash", "/bundle/device/build.sh"]']
    assert any('bash "$BUNDLE/device/build.sh"' in step["run"] for step in github_steps("jetson"))


def test_dockerignore_keeps_what_the_tests_read():
    rooms = ("sttm_export", "tests", "docs", "models", "calibration", "bench", ".ci")
    made = {"__pycache__", ".hypothesis", ".pytest_cache"}
    files = [path.relative_to(ROOT) for room in rooms for path in (ROOT / room).rglob("*") if path.is_file()]
    kept = [path for path in files if not made & set(path.parts)]
    assert len(kept) > 150
    assert [path for path in kept if ignored(path)] == []
    top = (
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "pyproject.toml",
        "Dockerfile",
        ".dockerignore",
        ".gitignore",
    )
    assert [name for name in top if ignored(name)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "demo/x/manifest.json",
        "my-bundle/vision_encoder.onnx.data",
        "my-bundle/engines/rtx/a.engine",
        "sttm_export/merging/__pycache__/a.pyc",
        "tests/.hypothesis/x",
        "sttm_export.egg-info/PKG-INFO",
        ".env",
    ],
)
def test_dockerignore_drops_what_was_made(path):
    assert ignored(path)


def test_whatever_git_ignores_stays_out_of_the_image():
    for pattern in (ROOT / ".gitignore").read_text(encoding="utf-8").split():
        assert ignored(pattern.rstrip("/").replace("*", "x")), pattern

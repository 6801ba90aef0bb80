"""A seeded sample of the fuzz: no traceback, nothing executed, nothing lost. `helpers_fuzz.py` runs longer ones."""

import collections
import random
import shutil
import subprocess
import sys

import helpers_fuzz
import helpers_runtime
import pytest

from sttm_export.cli import build_parser
from sttm_export.errors import UserError

BASE = {
    "export": ["--model", "tiny.toml", "--budget", "0.5", "--frames", "4", "--random-weights", "0"],
    "build": ["bundle", "--target", "rtx"],
    "run": ["bundle", "--video", "clip.mp4"],
    "live": ["bundle", "--source", "clip.mp4", "--output", "windows"],
    "ask": ["bundle", "What?", "--video", "clip.mp4"],
    "validate": ["bundle"],
    "inspect": ["bundle"],
    "targets": [],
    "models": [],
}
TRAP = "raise SystemExit(open('executed', 'w').write('by a bundle'))\n"


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_bundle, tiny_toml):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(tiny_toml, "tiny.toml")
    shutil.copytree(tiny_bundle, "bundle")
    helpers_runtime.write_video(tmp_path / "clip.mp4")
    return tmp_path


@pytest.mark.parametrize("seed", range(3))
def test_files_of_a_bundle(place, seed):
    codes = helpers_fuzz.fuzz_files(place / "bundle", place / "clip.mp4", place, 60, seed, heavy=False)
    assert codes[2] > codes[0] > 0, codes


def test_options(place, monkeypatch):
    """Everything up to the work itself, which is another test's."""

    def accepted(*_arguments, **_options):
        raise UserError("accepted")

    for work in (
        "workflows.export.run_export",
        "workflows.build.build_bundle",
        "workflows.run.run_bundle",
        "workflows.live._window",
        "workflows.ask.ask_bundle",
    ):
        monkeypatch.setattr(f"sttm_export.{work}", accepted)
    for work in ("validate_on_fixtures", "validate_on_clip", "validate_engines"):
        monkeypatch.setattr(f"sttm_export.workflows.validate.{work}", accepted)
    monkeypatch.setattr("sttm_export.drift.search.bisect_graph", accepted)
    before = {path.name for path in place.iterdir()}
    codes = helpers_fuzz.fuzz_options(BASE, build_parser(), 200, seed=0)
    assert codes[2] > 100, codes
    assert {path.name for path in place.iterdir()} == before


def test_a_bundle_full_of_traps_runs_none_of_them(place):
    """Modules of every name that Python looks for, in the bundle, beside it and in the kit."""
    for folder in (place, place / "bundle", place / "bundle" / "device"):
        for name in ("sitecustomize", "usercustomize", "argparse", "json", "dataclasses", "numpy", "onnxruntime"):
            (folder / f"{name}.py").write_text(TRAP)
        (folder / "sttm_export_trap").mkdir()
    for line in (["inspect", "."], ["run", ".", "--video", "../clip.mp4"], ["doctor"]):
        # Isolated, as the installed command is: what Python itself would take from here is not this program's doing.
        command = [sys.executable, "-I", "-m", "sttm_export", *line]
        done = subprocess.run(command, cwd=place / "bundle", capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
    assert not list(place.rglob("executed"))


def test_the_fuzz_can_fail(place, monkeypatch):
    from sttm_export.commands import inspect

    def broken(_options):
        raise KeyError("a missing key")

    monkeypatch.setattr(inspect, "execute", broken)
    with pytest.raises(AssertionError, match="raised KeyError"):
        helpers_fuzz.fuzz_files(place / "bundle", place / "clip.mp4", place, 1, 0)


def test_mutations_are_many_and_repeatable():
    data = {"a": [1, 2, {"b": "c"}], "d": 0.5}
    made = [helpers_fuzz.mutate_json(data, random.Random(seed)) for seed in range(200)]
    assert repr(made) == repr([helpers_fuzz.mutate_json(data, random.Random(seed)) for seed in range(200)])
    assert len(collections.Counter(map(repr, made))) > 60

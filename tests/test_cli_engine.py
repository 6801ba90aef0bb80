"""`run --engine` and `validate --engine`, from the command line down to the driver calls, on a pretended Orin."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers_runtime import write_video
from helpers_standins import ORIN, standin_environment

from sttm_export.bundle.store import ENGINES
from sttm_export.cli import main

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture
def bundle(orin_bundle):
    return orin_bundle


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4")


def run(bundle, video, output, *more):
    return main(["run", str(bundle), "--video", str(video), "--output", str(output), *more])


def sentence(capsys):
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return " ".join(text.split())


def test_engines_give_the_tokens_of_onnxruntime(orin, bundle, video, tmp_path, capsys):
    assert run(bundle, video, tmp_path / "cpu.npz") == 0
    assert run(bundle, video, tmp_path / "engine.npz", "--engine") == 0
    assert run(bundle, video, tmp_path / "graph.npz", "--engine", "--cuda-graph", "--target", ORIN) == 0
    text = capsys.readouterr()
    assert "with tensorrt 10.3.0.30\n" in text.out + text.err
    assert "with tensorrt 10.3.0.30 as a CUDA graph" in text.out + text.err
    expected = np.load(tmp_path / "cpu.npz")
    for name in ("engine.npz", "graph.npz"):
        found = np.load(tmp_path / name)
        for key in expected.files:
            np.testing.assert_array_equal(found[key], expected[key])
    assert orin.driver.live() == {}
    assert "cuGraphLaunch" in orin.log.names()


def test_in_a_process_of_its_own(bundle, video, tmp_path):
    """With the stand-in on PYTHONPATH, nothing of this process is involved."""
    command = [sys.executable, "-m", "sttm_export", "run", str(bundle), "--video", str(video), "--engine"]
    command += ["--output", str(tmp_path / "tokens.npz")]
    environment = standin_environment(machine="aarch64", log=tmp_path / "calls.jsonl")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tokens.npz").is_file()
    assert '"Context.execute_async_v3"' in (tmp_path / "calls.jsonl").read_text()
    del environment["STTM_STANDIN_MACHINE"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    here = "this is Linux aarch64" if os.uname().machine == "aarch64" else "it was built for Linux aarch64"
    assert done.returncode == 2
    assert here in done.stderr
    assert "Traceback" not in done.stderr


def test_validate_runs_the_engines_on_the_fixtures(orin, bundle, capsys):
    assert main(["validate", str(bundle), "--engine"]) == 0
    text = capsys.readouterr()
    assert f"Validate the engines of {ORIN}" in text.out + text.err
    assert "Verdict: passed" in text.out
    rows = [line for line in text.out.splitlines() if "10.3.0.30" in line]
    # Two batches of the encoder, the clip's and one of edge frames; decisions, budget and tokens of three clips.
    assert len(rows) == 2 + 3 * 3
    assert all("pass" in row for row in rows)
    assert orin.driver.live() == {}


def test_validate_names_a_wrong_engine(orin, bundle, capsys):
    orin.knob(scale=1.02)
    assert main(["validate", str(bundle), "--engine", "--target", ORIN]) == 1
    assert (
        "tensorrt 10.3.0.30: vision_encoder.features departs from packed reference, on the clip of the fixtures"
        in sentence(capsys)
    )


def test_engines_that_do_not_run_here(orin, bundle, video, tmp_path, capsys):
    orin.knob(cc="11.0")
    assert run(bundle, video, tmp_path / "t.npz", "--engine") == 2
    text = sentence(capsys)
    assert f"{ORIN}: it was built for a GPU of compute capability sm87, this one has sm110" in text
    assert "rtx: it was built for" in text
    assert "`bash device/build.sh`" in text
    assert main(["validate", str(bundle), "--engine"]) == 2
    assert "has no engines that run here" in sentence(capsys)
    assert run(bundle, video, tmp_path / "t.npz", "--engine", "--target", "jetson-orin") == 2
    assert f"Did you mean '{ORIN}'?" in sentence(capsys)
    assert not list(tmp_path.iterdir())


def test_a_bundle_without_engines(orin, bundle, video, tmp_path, capsys):
    bare = shutil.copytree(bundle, tmp_path / "bare")
    shutil.rmtree(bare / ENGINES)
    assert run(bare, video, tmp_path / "t.npz", "--engine") == 2
    assert "The bundle has no engines; build it on this machine with `sttm-export build" in sentence(capsys)


def test_out_of_memory_leaves_nothing(orin, bundle, video, tmp_path, capsys):
    orin.knob(memory=1024)
    assert run(bundle, video, tmp_path / "t.npz", "--engine") == 2
    assert "of GPU memory for 'pixel_values' of vision_encoder.engine" in sentence(capsys)
    assert orin.driver.live() == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["run", "--engine", "--provider", "cuda"],
            "--engine runs TensorRT engines and --provider cuda runs",
        ),
        (["run", "--cuda-graph"], "--target and --cuda-graph are about engines; give --engine with them"),
        (["run", "--target", ORIN], "--target and --cuda-graph are about engines; give --engine with them"),
        (["run", "--provider", "cuda"], "This ONNX Runtime is built without CUDAExecutionProvider"),
        (["validate", "--target", ORIN], "--target is about engines; give --engine with it"),
        (["validate", "--engine", "--clip", "x.mp4"], "--engine runs on the bundle's fixtures; leave --clip out"),
    ],
)
def test_contradictions(bundle, video, tmp_path, capsys, options, message):
    verb, *more = options
    files = ["--video", str(video), "--output", str(tmp_path / "t.npz")] if verb == "run" else []
    assert main([verb, str(bundle), *files, *more]) == 2
    assert message in sentence(capsys)
    assert not list(tmp_path.iterdir())


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_start_verifies_what_it_loads_and_no_more(orin, bundle, video, tmp_path, capsys):
    """Graphs and fixtures of gigabytes are not read by an engine, so they are not hashed when one starts."""
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "vision_encoder.onnx.data").write_bytes(b"other weights")
    (copy / "fixtures" / "token_merger.npz").unlink()
    assert run(copy, video, tmp_path / "a.npz") == 2
    assert run(copy, video, tmp_path / "a.npz", "--engine") == 0
    capsys.readouterr()
    engine = copy / ENGINES / ORIN / "token_merger.engine"
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run(copy, video, tmp_path / "b.npz", "--engine") == 2
    assert "token_merger.engine was changed after it was built" in sentence(capsys)
    engine.write_bytes(whole)
    edited(engine.with_name("token_merger.engine.json"), sha256="0" * 64)
    assert run(copy, video, tmp_path / "b.npz", "--engine") == 2
    assert "another sha256 in its sidecar than in the index" in sentence(capsys)
    edited(copy / "manifest.json", program="sttm-export 9")
    assert run(copy, video, tmp_path / "b.npz", "--engine") == 2
    assert "manifest.json was changed after the export" in sentence(capsys)

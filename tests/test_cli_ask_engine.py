"""`sttm-export ask --engine` on a pretended Orin: keys and values stay on the device, sessions stay open."""

import json
import shutil

import numpy as np
import pytest
from helpers_ask import answers, ask, export_asked, refusal
from helpers_runtime import write_video
from helpers_standins import ORIN, build_on_orin

from sttm_export.bundle.store import ENGINES
from sttm_export.cli import main
from sttm_export.pipeline import loader

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
SHORT = ("--max-new-tokens", "8")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle whose tokens merge at the input of layer 1, with engines that were built on the pretended Orin."""
    path = export_asked(tmp_path_factory.mktemp("engines"), layer=1)
    return build_on_orin(path)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames=8, rate=2)


def test_engines_answer_as_onnxruntime_does(orin, bundle, video, tmp_path):
    questions = ("What is this?", "And that?")
    expected = answers(bundle, "--video", video, *questions, *SHORT)
    kept = tmp_path / "a.kv"
    code, out, err = ask(bundle, "--engine", "--video", video, *questions, "--save-kv", kept, *SHORT)
    assert (code, out) == (0, expected), err
    assert "with tensorrt 10.3.0.30\n" in err
    assert orin.driver.live() == {}
    assert answers(bundle, "--engine", "--target", ORIN, "--kv", kept, *questions, *SHORT) == expected
    assert answers(bundle, "--engine", "--cuda-graph", "--kv", kept, *questions, *SHORT) == expected
    assert "cuGraphLaunch" in orin.log.names()
    # What engines have read is taken up on a processor too: keys and values are those of the same graphs.
    assert answers(bundle, "--kv", kept, *questions, *SHORT) == expected
    assert orin.driver.live() == {}


def test_what_is_open_when(orin, bundle, video, monkeypatch):
    """The encoder is closed before the language model is loaded, the merger before questions, and the rest behind."""
    events, real = [], loader.TrtSession

    class Told(real):
        def __init__(self, path, graph, **options):
            super().__init__(path, graph, **options)
            events.append(f"+{graph.name}")

        def __exit__(self, *error):
            events.append(f"-{self.graph.name}")
            super().__exit__(*error)

    monkeypatch.setattr(loader, "TrtSession", Told)
    answers(bundle, "--engine", "--video", video, "What?", "And?", *SHORT)
    model = ["decoder_00_00", "decoder_01_01", "decoder_02_02", "language_head"]
    around = ["+vision_encoder", "-vision_encoder", *(f"+{name}" for name in model), "+token_merger", "-token_merger"]
    assert events == [*around, *(f"-{name}" for name in reversed(model))]


def test_an_error_closes_every_session(orin, bundle, video, monkeypatch):
    orin.knob(memory=2**18)
    code, _, err = ask(bundle, "--engine", "--video", video, "What?")
    assert code == 2
    assert "of GPU memory for" in err.splitlines()[-1]
    assert orin.driver.live() == {}


def test_what_is_read_beside_engines_is_held_to_its_sum(orin, bundle, video, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    for name in ("embeddings.npy", "tokenizer.json"):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[:-9] + b"0" + whole[-8:])
        assert f"{name} was changed after the export" in refusal(copy, "--engine", "--video", video, "What?")
        (copy / name).unlink()
        assert f"{name} was changed after the export" in refusal(copy, "--engine", "--video", video, "What?")
        (copy / name).write_bytes(whole)
    (copy / "decoder_00_00.onnx.data").write_bytes(b"not read by an engine")
    assert answers(copy, "--engine", "--video", video, "What?", *SHORT)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"program": "sttm-export 9"}))
    assert "manifest.json was changed after the export" in refusal(copy, "--engine", "--video", video, "What?")


def test_contradictions(bundle, video):
    source = ("--video", video, "What?")
    assert "--engine runs TensorRT engines and --provider cuda runs" in refusal(
        bundle, *source, "--engine", "--provider", "cuda"
    )
    assert "give --engine with them" in refusal(bundle, *source, "--target", ORIN)


def test_a_bundle_without_engines(orin, bundle, video, tmp_path):
    bare = shutil.copytree(bundle, tmp_path / "bare")
    shutil.rmtree(bare / ENGINES)
    assert "The bundle has no engines" in refusal(bare, "--engine", "--video", video, "What?")


def test_run_on_engines_gives_what_merges_there(orin, bundle, video, tmp_path):
    found = []
    for more in ((), ("--engine",)):
        out = tmp_path / f"{len(more)}.npz"
        assert main(["run", str(bundle), "--video", str(video), "--output", str(out), *more]) == 0
        found.append(dict(np.load(out)))
    for key, array in found[0].items():
        np.testing.assert_array_equal(found[1][key], array)
    assert orin.driver.live() == {}

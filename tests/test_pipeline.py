"""The Python API: a bundle that stays loaded, shown videos and frames, and asked."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers_ask import answers, export_asked
from helpers_runtime import write_video
from helpers_window import pictures, same_tokens

import sttm_export
from sttm_export.cli import EXPORT_PACKAGES, main
from sttm_export.contracts.data import read_toml
from sttm_export.runtime.video import read_video, uniform_sampler

SHORT = 8
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames=8, rate=2)


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """Tokens merge at the input of layer 1."""
    return export_asked(tmp_path_factory.mktemp("layered"), layer=1)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Embeddings merge."""
    return export_asked(tmp_path_factory.mktemp("merged"), layer=0)


def test_public_names():
    for name in sttm_export.__all__:
        assert getattr(sttm_export, name) is not None
    assert set(sttm_export.__all__) - {"__version__"} == set(sttm_export._PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        sttm_export.lode  # noqa: B018


def test_a_file_gives_what_run_writes(tiny_bundle, video, tmp_path):
    assert main(["run", str(tiny_bundle), "--video", str(video), "--output", str(tmp_path / "a.npz")]) == 0
    written = np.load(tmp_path / "a.npz")
    with sttm_export.load(tiny_bundle) as pipe:
        told = []
        seen = pipe.run(video, on_progress=lambda done, count: told.append((done, count)))
    assert np.array_equal(seen.merged.tokens, written["tokens"])
    assert np.array_equal(seen.merged.assignment, written["assignment"])
    assert seen.numbers.tolist() == written["frame_indices"].tolist()
    assert seen.timestamps.tolist() == written["timestamps"].tolist()
    assert told == [(number, 4) for number in (1, 2, 3, 4)]


@pytest.mark.usefixtures("exact_places")
def test_frames_pushed_one_by_one_give_what_run_gives(tiny_bundle, video):
    decoded = read_video(video, uniform_sampler(4))
    with sttm_export.load(tiny_bundle, backend="cpu", threads=1) as pipe:
        expected = pipe.run(decoded)
        assert same_tokens(pipe.run(list(decoded.frames)).merged, expected.merged)
        for frame in pictures(7):
            pipe.push(frame, 0.0)
        for frame, time in zip(decoded.frames, decoded.timestamps, strict=True):
            pipe.push(frame, time)
        assert same_tokens(pipe.tokens().merged, expected.merged)
        assert pipe.tokens().timestamps.tolist() == decoded.timestamps.tolist()
        pipe.clear()
        with pytest.raises(sttm_export.UserError, match="no frame in the window"):
            pipe.tokens()


@pytest.mark.parametrize("name", ["layered", "merged"])
def test_answers_are_those_of_the_command(request, video, name):
    bundle = request.getfixturevalue(name)
    expected = answers(bundle, "--video", video, "What is this?", "And that?", "--max-new-tokens", "8")
    drawn = answers(
        *(bundle, "--video", video, "What is this?", "--max-new-tokens", "8"),
        *("--temperature", "0.8", "--top-k", "50", "--seed", "3"),
    )
    with sttm_export.load(bundle) as pipe:
        pipe.run(video)
        found = [pipe.ask(question, max_new_tokens=SHORT) for question in ("What is this?", "And that?")]
        assert "".join(f"{text}\n" for text in found) == expected
        assert pipe.ask("What is this?", max_new_tokens=8, temperature=0.8, top_k=50, seed=3) + "\n" == drawn
        assert "".join(pipe.ask_stream("What is this?", max_new_tokens=SHORT)) == found[0]


@pytest.mark.usefixtures("exact_places")
def test_a_window_is_asked_about(merged):
    """Frames that were pushed, whose window has moved on; each window is read once."""
    frames = pictures(6)
    with sttm_export.load(merged) as pipe, sttm_export.load(merged) as other:
        for index, frame in enumerate(frames):
            pipe.push(frame, 100.0 + index)
        other.run(frames[-4:], timestamps=range(4))
        found = pipe.ask("What is this?", max_new_tokens=SHORT)
        assert found == other.ask("What is this?", max_new_tokens=SHORT)
        reads = []
        real = pipe._speaker.watch
        pipe._speaker.watch = lambda *given: reads.append(1) or real(*given)
        pipe.ask("And that?", max_new_tokens=SHORT)
        assert reads == []
        pipe.push(frames[0], 200.0)
        pipe.ask("And that?", max_new_tokens=SHORT)
        assert reads == [1]


def test_an_answer_ends_where_the_window_changes(merged):
    with sttm_export.load(merged) as pipe:
        pipe.run(pictures(3))
        for change in (lambda: pipe.push(pictures(1)[0], 9.0), lambda: pipe.ask("And that?", max_new_tokens=1)):
            pieces = pipe.ask_stream("What is this?", max_new_tokens=SHORT)
            next(pieces)
            change()
            with pytest.raises(sttm_export.UserError, match="while a question was answered; ask again"):
                next(pieces)


def test_threads_wait_for_one_another(tiny_bundle):
    frames = pictures(3)
    with sttm_export.load(tiny_bundle) as pipe:
        expected = pipe.run(frames).merged
        wrong = []

        def work():
            for _ in range(5):
                if not same_tokens(pipe.run(frames).merged, expected):
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_engines(orin, orin_bundle, video):
    with sttm_export.load(orin_bundle, backend="cpu") as pipe:
        expected = pipe.run(video).merged
    for options in ({}, {"backend": "engine"}, {"backend": "engine", "cuda_graph": True}):
        with sttm_export.load(orin_bundle, **options) as pipe:
            assert pipe.backend.startswith("tensorrt 10.3.0.30")
            assert bool(pipe.reason) == ("backend" not in options)
            assert same_tokens(pipe.run(video).merged, expected)
    assert orin.driver.live() == {}


def test_auto_takes_the_processor_where_there_is_no_gpu(tiny_bundle):
    with sttm_export.load(tiny_bundle) as pipe:
        assert "CPUExecutionProvider" in pipe.backend
        assert "no GPU to run on" in pipe.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cdua"}, "has no provider 'cdua'"),
        ({"backend": "engine"}, "no engines that run here"),
        ({"target": "rtx"}, "give the backend 'engine' with it"),
        ({"cuda_graph": True}, "A CUDA graph is made of engines"),
        ({"window": 9}, "give 1 to 4"),
        ({"still_tolerance": -1}, "0 to 255"),
        ({"temporal_threshold": 0.8}, "policy budget"),
        ({"spatial_threshold": 7.0}, "7"),
        ({"threads": -1}, "-1 threads"),
    ],
)
def test_refusals_when_loading(tiny_bundle, options, message):
    backend = {} if {"backend", "target", "cuda_graph"} & options.keys() else {"backend": "cpu"}
    with pytest.raises(sttm_export.UserError, match=message):
        sttm_export.load(tiny_bundle, **backend, **options)


def test_refusals_of_a_loaded_one(tiny_bundle, video, tmp_path):
    with sttm_export.load(tiny_bundle) as pipe:
        cases = {
            "There is no video at": (tmp_path / "none.mp4",),
            "5 frames are given and the window takes 1 to 4": (pictures(5),),
            "0 frames are given": ([],),
        }
        for message, given in cases.items():
            with pytest.raises(sttm_export.UserError, match=message):
                pipe.run(*given)
        with pytest.raises(sttm_export.UserError, match="2 frames and 1 timestamps"):
            pipe.run(pictures(2), timestamps=[0.0])
        with pytest.raises(sttm_export.UserError, match="0 frames a second are not possible"):
            pipe.run(video, fps=0)
        with pytest.raises(sttm_export.UserError, match="no language model to ask"):
            pipe.run(video)
            pipe.ask("What?")
    pipe.close()
    for call in (pipe.tokens, lambda: pipe.run(video), lambda: pipe.push(pictures(1)[0], 0.0), lambda: pipe.backend):
        with pytest.raises(sttm_export.UserError, match="This pipeline is closed"):
            call()


def test_only_what_is_loaded_is_held_to_its_sum(tiny_bundle, video, tmp_path):
    import shutil

    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    (copy / "fixtures" / "vision_encoder.npz").write_bytes(b"changed")
    with sttm_export.load(copy) as pipe:
        pipe.run(video)
    weights = copy / "vision_encoder.onnx.data"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(sttm_export.UserError, match=r"vision_encoder\.onnx\.data was changed after the export"):
        sttm_export.load(copy)
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text() + " ")
    with pytest.raises(sttm_export.UserError, match=r"manifest\.json was changed after the export"):
        sttm_export.load(copy)


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
import sttm_export
with sttm_export.load(sys.argv[1]) as pipe:
    print(pipe.run(sys.argv[2]).merged.num_tokens)
    pipe.ask("What is this?", max_new_tokens=3)
from sttm_export.cli import EXPORT_PACKAGES, main
from sttm_export.contracts.data import read_toml
assert main(["run", sys.argv[1], "--video", sys.argv[2], "--output", sys.argv[3]]) == 0
assert main(["ask", sys.argv[1], "--video", sys.argv[2], "What?", "--max-new-tokens", "3"]) == 0
assert main(["inspect", sys.argv[1]]) == 0
export = ["--model", "llava-video-7b", "--budget", "0.5", "--random-weights", "0", "--output", sys.argv[3] + ".d"]
for command in (export, ["validate", sys.argv[1]]):
    assert main(command) == 2, command
"""


@pytest.mark.parametrize("name", ["layered", "merged"])
def test_without_pytorch_transformers_and_onnx(request, name, video, tmp_path):
    command = [sys.executable, "-c", BLOCKED, request.getfixturevalue(name), video, tmp_path / "a.npz"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.npz").is_file()
    # What makes bundles says what it lacks.
    assert done.stderr.count("which is not installed: run pip install 'sttm-export[export]'") == 2


def test_the_extra_has_what_is_blocked_above():
    project = read_toml(ROOT / "pyproject.toml")["project"]
    names = {re.match("[a-z_-]+", row)[0].replace("-", "_") for row in project["optional-dependencies"]["export"]}
    assert names == EXPORT_PACKAGES
    assert all(f'"{name}"' in BLOCKED for name in names)
    assert not names & {re.match("[a-z_-]+", row)[0].replace("-", "_") for row in project["dependencies"]}

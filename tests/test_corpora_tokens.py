"""`sttm_export.VideoTokens`: batches of paths in, columns out; by itself, without an engine that distributes."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers_bundles import contents
from helpers_corpora import arrays, write_corpus

import sttm_export
from sttm_export import UserError, VideoTokens
from sttm_export.cli import main
from sttm_export.pipeline import resident


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(directory)
    (directory / "bad.mp4").touch()
    return directory


def batch(directory, *names):
    return {"path": np.array([str(directory / name) for name in names], object), "id": np.arange(len(names))}


def test_files_are_those_of_run(tiny_bundle, clips, tmp_path, capsys):
    tokens = VideoTokens(tiny_bundle, tmp_path / "out", root=clips, backend="cpu")
    made = tokens(batch(clips, "a/0.mp4", "bad.mp4", "b/1.mp4"))
    assert list(made) == ["path", "id", "num_tokens", "error", "file"]
    assert made["id"].tolist() == [0, 1, 2]
    assert made["file"].tolist() == [str(tmp_path / "out/a/0.mp4.npz"), "", str(tmp_path / "out/b/1.mp4.npz")]
    assert made["error"].tolist()[::2] == ["", ""]
    assert "bad.mp4 is empty (0 bytes)" in made["error"][1]
    assert made["num_tokens"].dtype == np.int32
    assert made["num_tokens"][1] == 0
    assert made["num_tokens"][0] == arrays(made["file"][0])["tokens"][1][0] > 0
    # `run` goes on where an engine stopped, and the other way round.
    command = ["run", str(tiny_bundle), "--videos", str(clips), "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert "2 merged, 2 finished earlier, 1 failed" in capsys.readouterr().out
    before = contents(tmp_path / "out")
    again = tokens(batch(clips, "a/0.mp4", "a/1.mp4"))
    assert contents(tmp_path / "out") == before
    assert again["num_tokens"][0] == made["num_tokens"][0]
    tokens.close()
    with pytest.raises(UserError, match=r"made with other frames a second; .* with force=True"):
        VideoTokens(tiny_bundle, tmp_path / "out", root=clips, backend="cpu", fps=2)(batch(clips, "a/0.mp4"))


def test_arrays_are_those_of_the_files(tiny_bundle, clips, tmp_path):
    files = VideoTokens(tiny_bundle, tmp_path, backend="cpu")(batch(clips, "b/0.mp4", "a/1.mp4"))["file"]
    # Without a root, or elsewhere than below it, a video keeps its whole path.
    assert files[0] == str(tmp_path / str(clips).lstrip("/") / "b/0.mp4.npz")
    made = VideoTokens(tiny_bundle, backend="cpu")(batch(clips, "b/0.mp4", "bad.mp4", "a/1.mp4"))
    named = [name for name in made if name not in {"path", "id", "num_tokens", "error"}]
    assert len(named) == 7
    for row, file in zip((0, 2), files, strict=True):
        kept = arrays(file)
        for name in named:
            value = made[name][row]
            assert (value.dtype, value.shape, value.tobytes()) == kept[name], name
        assert made["num_tokens"][row] == len(made["tokens"][row])
    for name in named:
        bad, good = made[name][1], made[name][0]
        assert (bad.dtype, bad.ndim, len(bad)) == (good.dtype, good.ndim, 0)
        assert bad.shape[1:] == good.shape[1:]


def test_it_loads_once_and_late_and_travels_without_what_it_loaded(tiny_bundle, clips, monkeypatch):
    loaded = []
    enter = resident.Pipeline.__init__
    monkeypatch.setattr(
        resident.Pipeline, "__init__", lambda self, *a, **k: (loaded.append(1), enter(self, *a, **k))[1]
    )
    tokens = VideoTokens(tiny_bundle, backend="cpu")
    assert pickle.loads(pickle.dumps(tokens))
    assert loaded == []
    first = tokens(batch(clips, "a/0.mp4"))
    tokens(batch(clips, "a/1.mp4"))
    assert loaded == [1]
    other = pickle.loads(pickle.dumps(tokens))
    assert other(batch(clips, "a/0.mp4"))["tokens"][0].tobytes() == first["tokens"][0].tobytes()
    assert loaded == [1, 1]
    assert list(tokens({"path": np.array([], object)})) == list(first)[:1] + list(first)[2:]


def test_what_is_the_same_for_all_is_raised(tiny_bundle, clips, tmp_path):
    with pytest.raises(UserError, match=r"has no column 'path', only video; give column"):
        VideoTokens(tiny_bundle)({"video": np.array(["a"])})
    with pytest.raises(UserError, match=r"no bundle|manifest"):
        VideoTokens(tmp_path)(batch(clips, "a/0.mp4"))
    with pytest.raises(UserError, match="temporal-threshold does nothing"):
        VideoTokens(tiny_bundle, temporal_threshold=0.5)(batch(clips, "a/0.mp4"))
    odd = {"path": np.array([None, 3.5, b"x\0y", "", "n" * 300, "n" * 300 + "/x.mp4"], object)}
    errors = VideoTokens(tiny_bundle, tmp_path / "out", backend="cpu")(odd)["error"]
    assert errors[0] == "None is no path; give the path of a video as text."
    assert all(errors), errors
    column = VideoTokens(tiny_bundle, column="video", backend="cpu")({"video": np.array([str(clips / "a/0.mp4")])})
    assert column["error"][0] == ""


def test_neither_torch_nor_ray_is_imported(tiny_bundle, clips):
    code = f"""
import json, sys, numpy as np, sttm_export
made = sttm_export.VideoTokens({str(tiny_bundle)!r}, backend="cpu")({{"path": np.array([{str(clips / "a/0.mp4")!r}])}})
assert made["error"][0] == "", made["error"][0]
print(json.dumps(sorted(set(sys.modules) & {{"torch", "transformers", "onnx", "ray", "rich"}})))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
    assert "VideoTokens" in sttm_export.__all__

"""A manifest is read once, typed, and says everything that is wrong with it."""

import json
import shutil

import pytest

from sttm_export.bundle.manifest import read_manifest, read_times
from sttm_export.errors import UserError


@pytest.fixture
def directory(tiny_bundle, tmp_path):
    for name in ("manifest.json", "times.json"):
        shutil.copyfile(tiny_bundle / name, tmp_path / name)
    return tmp_path


def change(directory, *path, value=None, remove=False, name="manifest.json"):
    data = json.loads((directory / name).read_text())
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    if remove:
        del place[last]
    else:
        place[last] = value
    (directory / name).write_text(json.dumps(data))


def test_as_it_was_written(directory):
    manifest = read_manifest(directory)
    assert (manifest.merge.max_tokens, manifest.precision, manifest.weights.seed) == (18, "fp16", 7)
    assert manifest.data == json.loads((directory / "manifest.json").read_text())
    assert not manifest.missed
    assert read_times(directory)["created"]


def test_every_fault_is_named(directory):
    change(directory, "merge", remove=True)
    change(directory, "precision", value="fp8")
    change(directory, "files", 0, "bytes", value=-1)
    with pytest.raises(UserError) as refused:
        read_manifest(directory)
    message = str(refused.value)
    assert "missing 'merge'" in message
    assert "'precision' must be 'fp32' or 'fp16' or 'int8', got 'fp8'" in message
    assert "'files[0].bytes' must be 0 to" in message
    assert message.endswith("export it again.")


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("merge", "frames"), 9, "'graphs' has other inputs or outputs for token_merger"),
        (("merge", "budget"), 7.0, "outside \\(0, 1\\]"),
        (("merge", "channels"), 49, "'merge' has another grid or other channels than 'model'"),
        (("graphs", 0, "name"), "../x", "'graphs' must have vision_encoder, token_merger, each once, got ../x"),
        (("graphs", 1, "inputs", 0, "shape"), [4, 9, 47], "other inputs or outputs for token_merger"),
        (("precision",), "fp32", "other inputs or outputs for vision_encoder"),
        (("graphs", 0, "judge", "by"), "luck", "'graphs\\[0\\].judge.by' must be 'floats' or 'decisions', got 'luck'"),
        (("graphs", 0, "judge", "layers"), 0, "'graphs\\[0\\].judge.layers' must be 1 to"),
        (("validation", "results", 0, "comparison"), {}, "missing 'validation.results\\[0\\].comparison.cosine_min'"),
        (("example", "num_tokens"), 99, "'example' has 99 tokens of 18"),
        (("weights",), [], "'weights' must be a table, got \\[\\]"),
    ],
)
def test_values_that_no_export_writes(directory, path, value, fault):
    change(directory, *path, value=value)
    with pytest.raises(UserError, match=fault):
        read_manifest(directory)


def test_times_that_no_export_writes(directory):
    change(directory, "seconds", value=3, name="times.json")
    with pytest.raises(UserError, match="'seconds' must be a table, got 3"):
        read_times(directory)
    (directory / "times.json").write_text("[")
    with pytest.raises(UserError, match=r"times\.json cannot be read"):
        read_times(directory)
    (directory / "times.json").unlink()
    assert read_times(directory) == {}

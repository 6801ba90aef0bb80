"""Command lines that no careful user would type: each ends with one sentence and its exit code, and leaves nothing.

In this process and on a tiny model, so that a row costs milliseconds; what is refused is refused before any work.
"""

import os
import shutil

import helpers_runtime
import pytest
from helpers_networks import load_checkpoint, tiny_model, tiny_state, write_checkpoint, write_tiny_model_toml
from safetensors.torch import load_file, save_file

from sttm_export.cli import main

EXPORT = ["--model", "tiny.toml", "--budget", "0.5", "--frames", "4", "--random-weights", "0", "--no-engines"]
RUN = ["run", "tiny", "--video", "clip.mp4", "--output", "out.npz"]
MANY = ["run", "tiny", "--videos", "clip.mp4", "--output", "new"]
ASK = ["ask", "tiny", "What?"]
SEEN = [*ASK, "--video", "clip.mp4"]
LONG = "x" * 300


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_bundle, tiny_toml):
    """A directory with a model, a bundle (a link: nothing may be written into it), a clip, and traps."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(tiny_toml, "tiny.toml")
    (tmp_path / "tiny").symlink_to(tiny_bundle)
    helpers_runtime.write_video(tmp_path / "clip.mp4")
    os.mkfifo("fifo")
    os.mkfifo("fifo.toml")
    os.mkfifo("fifo.mp4")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to(tmp_path / "tiny")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "manifest.json").write_text("{}")
    return tmp_path


def line(capsys, arguments):
    """Exit code and last line of standard error; a traceback would be an exception here."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    return code, (capsys.readouterr().err.strip().splitlines() or [""])[-1]


def tree(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_symlink()}


ROWS = [
    # numbers
    ([*EXPORT, "--budget", "inf"], "is outside (0, 1]"),
    ([*EXPORT, "--budget", "1e400"], "is outside (0, 1]"),
    ([*EXPORT, "--budget", "-0"], "is outside (0, 1]"),
    ([*EXPORT, "--frames", "0"], "0 frames are outside 1..65536"),
    ([*EXPORT, "--frames", "-3"], "-3 frames are outside 1..65536"),
    ([*EXPORT, "--frames", "100000000"], "100000000 frames are outside 1..65536"),
    ([*EXPORT, "--frames", "9" * 50], "frames are outside 1..65536"),
    ([*EXPORT, "--frames", "4.5"], "invalid int value: '4.5'"),
    ([*EXPORT, "--batch", "0"], "--batch 0 is not possible; give the frames per encoder call, 1 to 65536"),
    ([*EXPORT, "--batch", "-1"], "--batch -1 is not possible"),
    ([*EXPORT, "--batch", "1000000000000"], "--batch 1000000000000 is not possible"),
    ([*EXPORT, "--head-dim", "-1"], "head_dim -1 is outside 0..48"),
    ([*EXPORT, "--head-dim", "96"], "head_dim 96 is outside 0..48"),
    ([*EXPORT, "--head-dim", "5"], "head_dim 5 does not divide 48 channels"),
    ([*EXPORT, "--root-level", "9"], "root_level 9 is outside"),
    ([*EXPORT, "--root-level", "-2"], "root_level -2 is outside"),
    ([*EXPORT, "--random-weights", "-1"], "--random-weights -1 is no seed"),
    ([*EXPORT, "--random-weights", str(2**64)], "is no seed; give a number from 0 to"),
    ([*EXPORT, "--spatial-threshold", "nan"], "--spatial-threshold nan is no cosine"),
    ([*EXPORT, "--policy", "threshold", "--temporal-threshold", "inf"], "--temporal-threshold inf is no cosine"),
    ([*EXPORT, "--temporal-threshold", "0.5"], "give --policy threshold"),
    ([*EXPORT, "--policy", ""], "unknown policy ''"),
    ([*EXPORT, "--precision", ""], "Graphs cannot be exported in ''"),
    ([*EXPORT, "--validation-frames", "0"], "--validation-frames 0 would check nothing; give 1 or more, or say --no-v"),
    ([*EXPORT, "--validation-frames", "-1"], "--validation-frames -1 is outside 1..4"),
    ([*EXPORT, "--target", "[/b]"], "Unknown target '[/b]'"),
    ([*EXPORT, "--compute-capability", ""], "Unknown compute capability ''"),
    # outputs
    ([*EXPORT, "--output", "."], "is no name for a bundle"),
    ([*EXPORT, "--output", ".."], "is no name for a bundle"),
    ([*EXPORT, "--output", "x/.."], "is no name for a bundle"),
    ([*EXPORT, "--output", "/"], "is no name for a bundle"),
    ([*EXPORT, "--output", ""], "is empty text"),
    ([*EXPORT, "--output", "dangling"], "dangling is a link"),
    ([*EXPORT, "--output", "linked", "--force"], "linked is a link"),
    ([*EXPORT, "--output", "circle", "--force"], "circle is a link"),
    ([*EXPORT, "--output", LONG], "is too long"),
    ([*EXPORT, "--output", "x" * 240], "is too long"),
    ([*EXPORT, "--output", "a\0b"], "holds a NUL character"),
    ([*EXPORT, "--output", "\udcff"], "is not UTF-8"),
    ([*EXPORT, "--output", "clip.mp4/x"], "Cannot write to clip.mp4"),
    ([*EXPORT, "--output", "fifo", "--force"], "is no bundle"),
    # inputs
    ([*EXPORT, "--model", "fifo.toml"], "it is no regular file"),
    ([*EXPORT, "--model", "."], "Unknown model '.'"),
    ([*EXPORT, "--model", "../x"], "Unknown model '../x'"),
    ([*EXPORT, "--model", f"{LONG}.toml"], "is too long"),
    ([*EXPORT, "--model", "none.toml"], "there is no such file"),
    ([*EXPORT, "--clip", "fifo.mp4"], "is no regular file"),
    ([*EXPORT, "--clip", "/dev/zero"], "is no regular file"),
    ([*EXPORT, "--clip", "."], "is a directory"),
    ([*EXPORT[:-3], "--weights", "fifo"], "neither an existing directory nor a hub id"),
    ([*EXPORT[:-3], "--weights", ""], "is empty text"),
    ([*EXPORT[:-3], "--weights", "~nobody-here/x"], "names a home directory that cannot be found"),
    ([*EXPORT[:-3], "--weights", "bare"], "holds no *.safetensors file"),
    # run
    ([*RUN, "--fps", "1e9"], "--fps 1e+09 is not possible; give frames a second, above 0 and at most 1000"),
    ([*RUN, "--fps", "inf"], "--fps inf is not possible"),
    ([*RUN, "--fps", "nan"], "--fps nan is not possible"),
    ([*RUN, "--fps", "-1"], "--fps -1 is not possible"),
    ([*RUN, "--temporal-threshold", "0.5"], "export with --policy threshold"),
    ([*RUN, "--spatial-threshold", "nan"], "is no cosine"),
    ([*RUN, "--output", "."], "is a directory"),
    ([*RUN, "--output", "none/x.npz"], "a directory that exists"),
    ([*RUN, "--output", LONG], "is too long"),
    ([*RUN, "--output", "fifo"], "no regular file"),
    ([*RUN, "--video", "fifo.mp4"], "is no regular file"),
    ([*RUN, "--video", "12:30.mp4"], "There is no video at 12:30.mp4"),
    ([*RUN, "--video", "http://127.0.0.1:9/x.mp4"], "There is no video at"),
    ([*RUN, "--video", "pipe:0"], "There is no video at pipe:0"),
    ([*RUN, "--video", ""], "is empty text"),
    ([*RUN, "--provider", ""], "has no provider ''"),
    ([*RUN, "--target", "rtx"], "give --engine with them"),
    # run, on many
    ([*MANY, "--output", "fifo"], "is no directory; with --videos, give one"),
    ([*MANY, "--output", "circle"], "is no directory"),
    ([*MANY, "--output", "dangling"], "is no directory"),
    ([*MANY, "--output", "clip.mp4/x"], "There is no directory clip.mp4"),
    ([*MANY, "--output", "tiny"], "would lie in the bundle"),
    ([*MANY, "--output", "tiny/x"], "would lie in the bundle"),
    ([*MANY, "--output", LONG], "is too long"),
    ([*MANY, "--provider", ""], "has no provider ''"),
    ([*MANY, "--shard", ""], "is not possible; give I/N"),
    ([*MANY, "--shard", "9" * 50], "is not possible; give I/N"),
    ([*MANY, "--threads", "-1"], "--threads -1 is not possible"),
    ([*MANY, "--threads", "x"], "invalid int value"),
    ([*MANY, "--fps", "nan"], "--fps nan is not possible"),
    ([*MANY, "--temporal-threshold", "0.5"], "export with --policy threshold"),
    ([*MANY, "--videos", "fifo"], "is no regular file"),
    ([*MANY, "--videos", "none.txt"], "does not exist"),
    ([*MANY, "--videos", ""], "is empty text"),
    ([*MANY, "--video", "clip.mp4"], "give --video FILE, or --videos"),
    ([*MANY, "--picture", "x.png"], "is about one video"),
    # ask
    (ASK, "There is nothing to ask about; give --video FILE, or --kv FILE"),
    (SEEN, "tiny has no language model to ask; export it again with --decoder"),
    ([*ASK, "--kv", "x.kv"], "tiny has no language model to ask"),
    ([*SEEN, ""], "The question is empty"),
    ([*SEEN, " \n "], "The question is empty"),
    ([*SEEN, "\udcff"], "The question is no valid UTF-8 text"),
    ([*SEEN, "--kv", "x.kv"], "so --video does nothing"),
    ([*ASK, "--kv", "x.kv", "--save-kv", "y.kv"], "so --save-kv does nothing"),
    ([*ASK, "--kv", "x.kv", "--fps", "1"], "so --fps does nothing"),
    ([*ASK, "--kv", "x.kv", "--spatial-threshold", "0.5"], "so --spatial-threshold does nothing"),
    ([*ASK, "--kv", ""], "is empty text"),
    ([*SEEN, "--max-new-tokens", "0"], "--max-new-tokens 0 would be no answer"),
    ([*SEEN, "--max-new-tokens", "-9"], "--max-new-tokens -9 would be no answer"),
    ([*SEEN, "--max-new-tokens", "1.5"], "invalid int value"),
    ([*SEEN, "--temperature", "-1"], "The temperature -1.0 cannot be drawn with"),
    ([*SEEN, "--temperature", "nan"], "The temperature nan cannot be drawn with"),
    ([*SEEN, "--temperature", "inf"], "The temperature inf cannot be drawn with"),
    ([*SEEN, "--top-k", "5"], "--top-k does nothing where the likeliest token is taken"),
    ([*SEEN, "--seed", "5"], "--seed does nothing where the likeliest token is taken"),
    ([*SEEN, "--temperature", "1", "--top-k", "-1"], "top-k -1 is no number of tokens"),
    ([*SEEN, "--temperature", "1", "--top-p", "0"], "top-p 0.0 is no share"),
    ([*SEEN, "--temperature", "1", "--top-p", "nan"], "top-p nan is no share"),
    ([*SEEN, "--temperature", "1", "--seed", "-1"], "The seed -1 is none"),
    ([*SEEN, "--temperature", "1", "--seed", str(2**70)], "The seed 1180591620717411303424 is none"),
    ([*SEEN, "--fps", "0"], "--fps 0 is not possible"),
    ([*SEEN, "--temporal-threshold", "7"], "is no cosine"),
    ([*SEEN, "--provider", "cpu", "--engine"], "give one of the two"),
    ([*SEEN, "--target", "rtx"], "give --engine with them"),
    ([*SEEN, "--save-kv", "clip.mp4"], "--save-kv clip.mp4 is the video"),
    ([*SEEN, "--save-kv", "tiny/x.kv"], "--save-kv tiny/x.kv would lie in the bundle"),
    ([*SEEN, "--save-kv", "fifo"], "no regular file"),
    ([*SEEN, "--save-kv", "none/x.kv"], "a directory that exists"),
    ([*SEEN, "--save-kv", LONG], "is too long"),
    ([*SEEN, "--what"], "unrecognized arguments: --what"),
    (["ask", "bare", "What?", "--video", "clip.mp4"], "is not a bundle"),
    # the other verbs
    (["inspect", "bare"], "is not a bundle"),
    (["inspect", "fifo"], "is not a bundle"),
    (["inspect", ""], "is empty text"),
    (["inspect", LONG], "is too long"),
    (["inspect", "circle"], "is not a bundle"),
    (["inspect", "[/b]"], "[/b] is not a bundle"),
    (["validate", "tiny", "--bisect", "x"], "x"),
    (["validate", "tiny", "--json", "x.json"], "give both"),
    (["validate", "tiny", "--clip", "fifo.mp4", "--random"], "unrecognized arguments"),
    (["validate", "tiny", "--clip", "fifo.mp4"], "is no regular file"),
    (["build", "tiny", "--target", "rtx", "--workspace", "-1", "--force"], "--workspace -1 is not possible"),
    (["build", "tiny", "--target", "rtx", "--workspace", str(2**40), "--force"], "MiB, 1 to 16777216"),
    (["build", "tiny", "--target", "rtx", "--optimization-level", "-1", "--force"], "Optimization level -1"),
    (["build", "tiny", "--target", ""], "Unknown target ''"),
    ([""], "Unknown verb ''"),
    (["\0"], "Unknown verb"),
]


@pytest.mark.parametrize(("arguments", "words"), ROWS, ids=[" ".join(row[0])[-60:] for row in ROWS])
def test_a_hostile_line(place, capsys, arguments, words):
    before = tree(place)
    code, said = line(capsys, arguments)
    assert (code, words in said) == (2, True), (code, said)
    assert len(said) < 600
    assert tree(place) == before, "something was left"


MODELS = [
    ("hidden_size = 32", "hidden_size = 0", "'architecture.tower.hidden_size' must be 1 to"),
    ("hidden_size = 32", "hidden_size = -32", "'architecture.tower.hidden_size' must be 1 to"),
    ("hidden_size = 32", "hidden_size = 32.0", "'architecture.tower.hidden_size' must be int, got 32.0"),
    ("hidden_size = 32", "hidden_size = 99999999999", "'architecture.tower.hidden_size' must be 1 to"),
    ("hidden_size = 32", "hidden_size = true", "'architecture.tower.hidden_size' must be int, got True"),
    ("layer_norm_eps = 1e-06", "layer_norm_eps = nan", ".layer_norm_eps' must be above 0, at most 1, got nan"),
    ("layer_norm_eps = 1e-06", "layer_norm_eps = 0.0", "'architecture.tower.layer_norm_eps' must be above 0"),
    ("fps = 1.0", "fps = inf", "'sampling.fps' must be above 0, at most 1000, got inf"),
    ("fps = 1.0", "fps = -1", "'sampling.fps' must be above 0"),
    ("max_frames = 16", "max_frames = 0", "'sampling.max_frames' must be 1 to"),
    ("spatial = 0.85", "spatial = 2.0", "'merging.thresholds[0].spatial' must be -1 to 1, got 2.0"),
    ("budget = 0.5", "budget = 0", "'merging.thresholds[0].budget' must be above 0, at most 1"),
    ("height = 3", "height = 0", "'grid.height' must be 1 to 1024"),
    ("patch_size = 14", "patch_size = 57", "pixels.height is smaller than one patch"),
    ("heads = 4", "heads = 5", "tower.hidden_size is not a multiple of tower.heads"),
    ('title = "Tiny"', "title = 3", "'title' must be str, got 3"),
    ('title = "Tiny"', 'title = "Tiny', "is not valid TOML"),
    ('title = "Tiny"', f"title = {'[' * 5000}", "TOML"),
    ('title = "Tiny"', f"title = {'9' * 5000}", "is not valid TOML"),
    ('title = "Tiny"', f'title = "{"x" * 2**20}"', "at most 1048576 were expected"),
    ('title = "Tiny"', 'title = "\udcff"', "is not UTF-8 text"),
    ("[architecture.tower]", "[[architecture.tower]]", "'architecture.tower' must be a table"),
]


@pytest.mark.parametrize(
    ("old", "new", "words"), MODELS, ids=[f"{old[:20]}-{n}" for n, (old, _, _) in enumerate(MODELS)]
)
def test_a_hostile_model_file(place, capsys, old, new, words):
    text = (place / "tiny.toml").read_text()
    assert old in text
    (place / "bad.toml").write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    code, said = line(capsys, [*EXPORT, "--model", "bad.toml"])
    assert (code, words in said) == (2, True), (code, said)


def test_memory_is_estimated_before_work(place, capsys):
    """A model that is possible, and far beyond any machine."""
    write_tiny_model_toml(place / "big.toml", tiny_model(grid=(512, 512), channels=2**20))
    code, said = line(capsys, [*EXPORT, "--model", "big.toml", "--frames", "60000"])
    assert code == 2
    assert "GiB of memory and" in said or "The bundle needs about" in said
    from sttm_export.cli import build_parser
    from sttm_export.commands.export import make_plan
    from sttm_export.workflows.estimate import estimate_memory

    def plan(*extra):
        return make_plan(build_parser().parse_args(["export", *EXPORT, "--model", "llava-video-7b", *extra]))

    assert 2 * 2**30 < estimate_memory(plan("--frames", "32")) < 6 * 2**30
    assert estimate_memory(plan("--frames", "2000")) > 20 * 2**30


def test_memory_that_ran_out_is_not_called_damage(place, capsys, monkeypatch):
    import onnxruntime

    def exhausted(*_arguments, **_options):
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", exhausted)
    code, said = line(capsys, RUN)
    assert code == 2
    assert "Memory ran out while ONNX Runtime loaded" in said
    assert "damaged" not in said


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_anywhere(capsys, monkeypatch, error):
    from sttm_export.commands import models

    def exhausted(_options):
        raise error

    monkeypatch.setattr(models, "execute", exhausted)
    assert line(capsys, ["models"]) == (
        2,
        "sttm-export: memory ran out; close other programs, or give fewer --frames or a smaller --batch.",
    )


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    from sttm_export.commands import models

    def broken(_options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(models, "execute", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["models"])


@pytest.fixture
def checkpoint(place):
    model = tiny_model()
    return write_checkpoint(place / "checkpoint", model, tiny_state(model, 3), shards=1)


def test_a_config_that_is_no_file(place, checkpoint, capsys):
    (checkpoint / "config.json").unlink()
    (checkpoint / "config.json").mkdir()
    code, said = line(capsys, [*EXPORT[:-3], "--weights", "checkpoint", "--output", "out"])
    assert (code, "checkpoint/config.json is no file" in said) == (2, True), said


def test_a_config_that_is_missing_is_said(checkpoint):

    assert load_checkpoint(tiny_model(), str(checkpoint))[1].note == ""
    (checkpoint / "config.json").unlink()
    source = load_checkpoint(tiny_model(), str(checkpoint))[1]
    assert source.describe().endswith("it has no config.json, so heads, pooling and projector were not checked")


def test_a_towers_config_that_is_missing_is_said(place):

    model = tiny_model()
    whole = write_checkpoint(place / "whole", model, tiny_state(model, 3), tower=False)
    tower = write_checkpoint(place / "tower", model, tiny_state(model, 3), config=False)
    note = load_checkpoint(model, str(whole), str(tower))[1].note
    assert note == "the tower's has no config.json, so its heads and layers were not checked"


def test_two_files_with_one_tensor(place, checkpoint, capsys):
    tensors = load_file(checkpoint / "model.safetensors")
    name = sorted(tensors)[0]
    save_file({name: tensors[name]}, checkpoint / "other.safetensors")
    code, said = line(capsys, [*EXPORT[:-3], "--weights", "checkpoint", "--output", "out"])
    assert code == 2
    assert f"holds {name} twice, in model.safetensors and other.safetensors" in said


def test_a_rejected_bundle_says_so_everywhere(place, tiny_bundle, capsys):
    import json

    from sttm_export.bundle.opened import write_manifest

    bundle = shutil.copytree(tiny_bundle, place / "missed")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["validation"]["results"][0]["passed"] = False
    write_manifest(bundle, manifest)
    words = "rejected when it was exported: a check of its validation missed"
    assert main(["inspect", "missed"]) == 0
    assert words in " ".join(capsys.readouterr().out.split())
    assert main(["inspect", "missed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == "a check of its validation missed"
    assert main(["run", "missed", "--video", "clip.mp4", "--output", "o.npz"]) == 0
    assert words in capsys.readouterr().err
    assert main(["validate", "missed"]) == 0
    assert words in capsys.readouterr().err


def test_a_clip_of_one_frame_is_said(place, capsys):
    helpers_runtime.write_video(place / "one.mp4", frames=1)
    assert main(["run", "tiny", "--video", "one.mp4", "--output", "o.npz"]) == 0
    assert "the clip has one frame, so there was nothing to merge across frames" in capsys.readouterr().err

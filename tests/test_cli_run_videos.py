"""`sttm-export run BUNDLE --videos`: one load for many; what is finished stays, what fails is said, nothing is half."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers_bundles import contents
from helpers_corpora import arrays, write_bad_files, write_corpus
from helpers_runtime import write_video

from sttm_export.cli import main
from sttm_export.corpora import seeing
from sttm_export.corpora.record import MEMBER, read
from sttm_export.pipeline.resident import Pipeline
from sttm_export.workflows import corpus as looping


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four clips in two directories. Do not change them: copy them."""
    directory = tmp_path_factory.mktemp("corpus") / "clips"
    assert write_corpus(directory) == ["a/0.mp4", "a/1.mp4", "b/0.mp4", "b/1.mp4"]
    return directory


@pytest.fixture
def run(tiny_bundle, clips, tmp_path):
    """Run the verb on those clips, or others; returns its exit code."""

    def call(*more, videos=(clips,), output=tmp_path / "out"):
        return main(["run", str(tiny_bundle), "--videos", *map(str, videos), "--output", str(output), *map(str, more)])

    return call


def results(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


ALL = ["a/0.mp4.npz", "a/1.mp4.npz", "b/0.mp4.npz", "b/1.mp4.npz"]


def test_each_is_bit_for_bit_what_it_is_alone(run, tiny_bundle, clips, tmp_path, monkeypatch, capsys):
    loaded = []
    enter = Pipeline.__init__
    monkeypatch.setattr(Pipeline, "__init__", lambda self, *a, **k: (loaded.append(1), enter(self, *a, **k))[1])
    assert run() == 0
    assert capsys.readouterr().out == f"{tmp_path}/out: 4 merged, 0 finished earlier, 0 failed\n"
    assert len(loaded) == 1
    assert results(tmp_path / "out") == ALL
    for name in ALL:
        command = ["run", str(tiny_bundle), "--video", str(clips / name[:-4]), "--output", str(tmp_path / "one.npz")]
        assert main(command) == 0
        assert arrays(tmp_path / "out" / name) == arrays(tmp_path / "one.npz")


def test_what_is_finished_is_not_made_again(run, tmp_path, monkeypatch, capsys):
    assert run("--shard", "1/2") == 0
    part = contents(tmp_path / "out")
    assert 0 < len(part) < 4
    assert run() == 0
    assert f"{4 - len(part)} merged, {len(part)} finished earlier" in capsys.readouterr().out
    assert results(tmp_path / "out") == ALL
    before = contents(tmp_path / "out")
    assert part.items() <= before.items()
    # Nor is anything loaded for that.
    monkeypatch.setattr(Pipeline, "__init__", None)
    assert run() == 0
    assert contents(tmp_path / "out") == before
    assert run("--shard", "2/2") == 0
    assert "in part 2 of 2" in capsys.readouterr().err


def test_a_result_says_what_it_was_made_of(run, clips, tmp_path):
    assert run() == 0
    record = read(tmp_path / "out" / ALL[0])
    status = (clips / "a/0.mp4").stat()
    assert (record.video.bytes, record.video.modified_ns) == (status.st_size, status.st_mtime_ns)
    assert set(record.settings) == {"version of sttm-export", "bundle", "frames a second", "thresholds", "backend"}
    assert record.tokens == arrays(tmp_path / "out" / ALL[0])["tokens"][1][0]
    assert "CPUExecutionProvider" in record.backend
    assert record.note == ""
    assert set(arrays(tmp_path / "out" / ALL[0], ())) >= {MEMBER, "tokens", "timestamps", "frame_indices"}


def test_a_video_that_changed_and_results_that_are_damaged(run, clips, tmp_path, capsys):
    mine = shutil.copytree(clips, tmp_path / "mine")
    assert run(videos=[mine]) == 0
    before, out = contents(tmp_path / "out"), tmp_path / "out"
    os.utime(mine / "a/0.mp4", ns=(1, 1))
    (out / ALL[1]).write_bytes(before[ALL[1]][:-40])
    (out / ALL[2]).write_bytes(b"")
    (mine / "b/1.mp4").unlink()
    (mine / "list.txt").write_text("a/0.mp4\na/1.mp4\nb\nb/1.mp4\n")
    assert run(videos=[mine / "list.txt"]) == 0
    captured = capsys.readouterr()
    assert "3 merged, 1 finished earlier, 0 failed" in captured.out  # that of a video that is gone stays
    assert "1 result made before the video changed: made anew" in captured.err
    assert "2 results found damaged: made anew" in captured.err
    after = contents(out)
    assert {name for name in ALL if after[name] != before[name]} == {ALL[0]}  # another time of the same content
    assert arrays(out / ALL[0])["tokens"][2]


def test_other_settings_are_refused_and_replaced_by_force(run, tmp_path, capsys):
    assert run() == 0
    before = contents(tmp_path / "out")
    assert run("--fps", "2") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"a/0\.mp4\.npz was made with other frames a second; choose another output, or .* --force", error)
    assert run("--spatial-threshold", "0.3") == 2
    assert "other thresholds" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
    assert run("--fps", "2", "--force") == 0
    assert "4 results of other settings: made anew" in capsys.readouterr().err
    assert set(contents(tmp_path / "out")) == set(before)
    assert run("--fps", "2") == 0
    assert "0 merged, 4 finished" in capsys.readouterr().out


def test_what_is_not_ours_is_left_alone(run, tiny_bundle, clips, tmp_path, capsys):
    (tmp_path / "out/a").mkdir(parents=True)
    one = ["run", str(tiny_bundle), "--video", str(clips / "a/0.mp4"), "--output", str(tmp_path / "out" / ALL[0])]
    assert main(one) == 0
    before = contents(tmp_path / "out")
    for more in ((), ("--force",)):
        assert run(*more) == 2
        assert "a/0.mp4.npz is in the way and is no result of a corpus" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_pictures_on_request(run, tmp_path, capsys):
    assert run("--shard", "1/2") == 0
    assert run("--pictures") == 0
    assert results(tmp_path / "out") == sorted([*ALL, *(name[:-3] + "png" for name in ALL)])
    assert run("--pictures") == 0
    assert "0 merged, 4 finished" in capsys.readouterr().out


def test_bad_files_end_nothing(run, clips, tmp_path, capsys):
    mine = shutil.copytree(clips, tmp_path / "mine")
    expected = write_bad_files(mine / "bad")
    (mine / "folder.mp4").mkdir()
    assert run(videos=[mine]) == 1
    captured = capsys.readouterr()
    assert f"4 merged, 0 finished earlier, {len(expected)} failed" in captured.out
    last = captured.err.splitlines()[-1]
    assert last.startswith(f"sttm-export: {len(expected)} of {4 + len(expected)} videos failed; ")
    assert last.endswith("failed.jsonl says why, and the same command tries them again.")
    assert captured.err.count("FAILED: ") == len(expected)
    assert results(tmp_path / "out") == sorted([*ALL, "failed.jsonl"])
    rows = [json.loads(line) for line in (tmp_path / "out/failed.jsonl").read_text().splitlines()]
    assert {row["name"] for row in rows} == {f"bad/{name}" for name in expected}
    for row in rows:
        assert row["video"] == str(mine / row["name"])
        assert re.search(expected[row["name"][4:]], row["why"]), row
        assert "\n" not in row["why"]
    # Tried again: one is whole now, one is gone, the others have one line each.
    shutil.copy(clips / "a/0.mp4", mine / "bad/empty.mp4")
    assert run(videos=[mine]) == 1
    assert f"1 merged, 4 finished earlier, {len(expected) - 1} failed" in capsys.readouterr().out
    assert (tmp_path / "out/failed.jsonl").read_text().count("\n") == len(expected) - 1
    shutil.rmtree(mine / "bad")
    (mine / "bad").mkdir()
    for name in expected:
        if len(name) < 200:
            shutil.copy(clips / "a/0.mp4", mine / "bad" / name)
    assert run("--shard", "1/1", videos=[mine]) == 0
    left = (tmp_path / "out/failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"][:7] for line in left] == ["bad/nnn"]  # of a video that nobody names any more


def test_what_vanishes_breaks_off_or_was_not_foreseen(run, clips, tmp_path, monkeypatch, capsys):
    mine = shutil.copytree(clips, tmp_path / "mine")
    whole = write_video(mine / "c.mp4", frames=14).read_bytes()
    (mine / "c.mp4").unlink()
    (mine / "long.mp4").write_bytes(whole)
    (mine / "gone.mp4").write_bytes(whole)
    (mine / "odd.mp4").write_bytes(whole)
    begin, decode = looping._Telling.begin, Pipeline.decode

    def vanish(self, one):
        begin(self, one)
        if one.name == "gone.mp4":
            one.path.unlink()

    def stumble(self, path, fps=None):
        if path.name == "odd.mp4":
            raise ZeroDivisionError("a rate of 0\nand more")
        video = decode(self, path, fps)
        return replace(video, note=f"{path} breaks off: 9 of 14.") if path.name == "long.mp4" else video

    monkeypatch.setattr(looping._Telling, "begin", vanish)
    monkeypatch.setattr(Pipeline, "decode", stumble)
    assert run(videos=[mine]) == 1
    error = capsys.readouterr().err
    assert re.search(r"FAILED: There is no video at .*gone\.mp4", error)
    assert re.search(r"FAILED: .*odd\.mp4 cannot be decoded \(ZeroDivisionError: a rate of 0\); give a video", error)
    assert re.search(r"^ +/.*long\.mp4 breaks off: 9 of 14\.$", error, re.MULTILINE)
    assert read(tmp_path / "out/long.mp4.npz").note.endswith("breaks off: 9 of 14.")


def test_how_far_it_is_stands_in_a_log_once_a_minute(run, monkeypatch, capsys):
    assert run() == 0
    assert " of 4: " not in capsys.readouterr().err
    monkeypatch.setattr(looping, "_TELL", 0.0)
    monkeypatch.setattr(seeing, "nonfinite", lambda tokens: "2 of 9 values are NaN")
    assert run("--fps", "2", "--force") == 0
    error = capsys.readouterr().err
    assert "      3 of 4: 3 merged, 0 finished earlier, 0 failed\n" in error
    assert len(re.findall(r"The tokens of .*\.mp4: 2 of 9 values are NaN; those mean nothing\.", error)) == 4


def test_a_full_disk_ends_it_with_one_sentence(run, tmp_path, monkeypatch, capsys):
    write, calls = seeing.write_npz, []

    def full(file, *arguments, **more):
        calls.append(1)
        if len(calls) == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(seeing, "write_npz", full)
        assert run() == 2
    error = capsys.readouterr().err.splitlines()
    assert re.search(r"^sttm-export: Cannot write .*b/0\.mp4\.npz: No space left on device; ", error[-1])
    assert results(tmp_path / "out") == ALL[:2]
    assert run() == 0
    assert "2 merged, 2 finished earlier" in capsys.readouterr().out


STALLED = """
import sys, time
from sttm_export.corpora import seeing

write, calls = seeing.write_npz, []
def half_written(file, *arguments, **more):
    if calls:
        file.write(b"PK half of a file")
        file.flush()
        print("stalled", file=sys.stderr, flush=True)
        time.sleep(600)
    calls.append(1)
    write(file, *arguments, **more)

seeing.write_npz = half_written
from sttm_export.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_whatever_ends_it_leaves_whole_files_and_the_rest_follows(run, tiny_bundle, clips, tmp_path, capsys, number):
    """A real process that is ended while the second result is written."""
    out = tmp_path / "out"
    command = ["run", str(tiny_bundle), "--videos", str(clips), "--output", str(out)]
    process = subprocess.Popen([sys.executable, "-c", STALLED, *command], stderr=subprocess.PIPE, text=True)
    assert all(iter(process.stderr.readline, "stalled\n"))
    assert len(results(out)) == 2
    # Another process beside it takes nothing away from it.
    assert run("--shard", "1/1", videos=[clips / "b"], output=out / "b") == 0
    assert len([name for name in results(out) if ".partial-" in name]) == 1
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    left = results(out)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "interrupted; the same command goes on after the results that are finished, so far 1." in error
        assert left == [ALL[0], *ALL[2:]]
    capsys.readouterr()
    assert run() == 0
    assert "1 merged, 3 finished earlier" in capsys.readouterr().out
    assert results(out) == ALL


def test_two_at_once_on_one_output(tiny_bundle, clips, tmp_path):
    """Both do all of it; each file is one of them, whole, and the list of failures has one line of each."""
    mine = shutil.copytree(clips, tmp_path / "mine")
    (mine / "bad.mp4").touch()
    command = [sys.executable, "-m", "sttm_export", "run", tiny_bundle, "--videos", mine, "--output", tmp_path / "out"]
    both = [subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], errors
    assert results(tmp_path / "out") == [*ALL, "failed.jsonl"]
    assert all(read(tmp_path / "out" / name) for name in ALL)
    rows = [json.loads(line) for line in (tmp_path / "out/failed.jsonl").read_text().splitlines()]
    assert {row["name"] for row in rows} == {"bad.mp4"}


def test_options_that_do_not_go_together(run, tiny_bundle, clips, tmp_path, capsys):
    def refused(*words):
        before = contents(tmp_path)
        assert main(["run", *map(str, words)]) == 2
        assert contents(tmp_path) == before
        return capsys.readouterr().err.splitlines()[-1]

    here, one = str(tiny_bundle), clips / "a/0.mp4"
    assert "give --video FILE, or --videos" in refused(here)
    assert "give --video FILE, or --videos" in refused(here, "--video", one, "--videos", clips)
    assert "--videos needs a directory for the results" in refused(here, "--videos", clips)
    for option in (("--picture", "a.png"), ("--overlay", "a.mp4"), ("--report", "a.html")):
        assert "is about one video; give --video FILE with it" in refused(
            here, "--videos", clips, "--output", tmp_path / "o", *option
        )
    for option in (("--shard", "1/2"), ("--pictures",), ("--force",), ("--threads", "1")):
        assert "is about many videos; give --videos with it" in refused(here, "--video", one, *option)
    out = ("--output", tmp_path / "out")
    assert "--shard 3/2 is not possible" in refused(here, "--videos", clips, *out, "--shard", "3/2")
    assert "--threads -1 is not possible" in refused(here, "--videos", clips, *out, "--threads", "-1")
    assert "--fps 0 is not possible" in refused(here, "--videos", clips, *out, "--fps", "0")
    (tmp_path / "file").touch()
    assert "is no directory; with --videos, give one" in refused(here, "--videos", clips, "--output", tmp_path / "file")
    assert "would lie in the bundle" in refused(here, "--videos", clips, "--output", tiny_bundle)
    assert "There is no directory" in refused(here, "--videos", clips, "--output", tmp_path / "no/out")
    assert "does not exist" in refused(here, "--videos", tmp_path / "none", *out)
    (tmp_path / "empty").mkdir()
    assert "holds no videos" in refused(here, "--videos", tmp_path / "empty", *out)
    assert "would both have the result 0.mp4.npz" in refused(here, "--videos", clips / "a", clips / "b", *out)


def test_names_that_no_file_can_have(run, clips, tmp_path, capsys):
    """In a list, where nothing keeps them out."""
    names = ["n" * 300, "n" * 300 + "/x.mp4", "a/" + "n" * 230 + ".mp4", "gone/x.mp4", "a/0.mp4/x.mp4"]
    mine = shutil.copytree(clips, tmp_path / "mine")
    (mine / "list.txt").write_text("\n".join([*names, "a"]))
    assert run(videos=[mine / "list.txt"]) == 1
    captured = capsys.readouterr()
    assert "2 merged, 0 finished earlier, 5 failed" in captured.out
    assert captured.err.count("is too long; rename it") == 3
    assert captured.err.count("There is no video at") == 2


def test_tokens_that_merge_inside_the_language_model(language_bundle, clips, tmp_path):
    command = ["run", str(language_bundle), "--videos", str(clips / "a"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    for name in ("0.mp4", "1.mp4"):
        one = ["run", str(language_bundle), "--video", str(clips / "a" / name), "--output", str(tmp_path / "one.npz")]
        assert main(one) == 0
        assert arrays(tmp_path / "out" / f"{name}.npz") == arrays(tmp_path / "one.npz")


def test_what_makes_bundles_is_not_imported(tiny_bundle, clips, tmp_path):
    code = f"""
import sys
from sttm_export.cli import main
assert main({["run", str(tiny_bundle), "--videos", str(clips), "--output", str(tmp_path / "out")]!r}) == 0
sys.exit(" ".join({{"torch", "transformers", "onnx", "huggingface_hub"}} & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_given_twice_counts_once(run, clips, capsys):
    assert run(videos=[clips / "a", clips / "a" / "0.mp4"]) == 0
    captured = capsys.readouterr()
    assert "2 merged" in captured.out
    assert "1 video given more than once" in captured.err

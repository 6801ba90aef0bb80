"""docs/corpora.md: every recipe is run, on a tiny bundle; that of Ray on a local Ray, where it is installed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers_blocks import blocks, run_block
from helpers_corpora import arrays, write_corpus

from sttm_export.cli import build_parser

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "corpora.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
NAMES = ["a/0.mp4", "a/1.mp4", "b/0.mp4", "b/1.mp4"]


def marked(mark):
    """The one block with a mark of its own."""
    ((_, code),) = re.findall(rf"^<!-- test: {mark} -->\n```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture
def place(tiny_bundle, tmp_path):
    """A directory as the recipes have it."""
    (tmp_path / "my-bundle").symlink_to(tiny_bundle)
    assert write_corpus(tmp_path / "clips") == NAMES
    return tmp_path


def results(place):
    merged = place / "merged"
    return sorted(path.relative_to(merged).as_posix()[:-4] for path in merged.rglob("*.npz"))


def test_one_process_several_and_a_result_read_again(place):
    first, reading, several = blocks(TEXT, tested=True)
    assert f"merged: {len(NAMES)} merged, 0 finished earlier, 0 failed" in run_block(*first, place)
    shape = run_block(*reading, place).split()[0]
    assert shape.startswith("(")
    before = {name: arrays(place / "merged" / f"{name}.npz") for name in NAMES}
    shutil.rmtree(place / "merged")
    said = run_block(several[0], several[1].replace("--threads 2", "--threads 1"), place)
    assert len(said.splitlines()) == 4
    assert {name: arrays(place / "merged" / f"{name}.npz") for name in NAMES} == before


def run_slurm(place, task, parts):
    code = marked("slurm").replace("--engine", "--provider cpu").replace("PARTS=32", f"PARTS={parts}")
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(place), "SLURM_ARRAY_TASK_ID": str(task), "PATH": path}
    script = place / "job.sh"
    script.write_text(code)
    return subprocess.run(["bash", script], cwd="/", env=environment, capture_output=True, text=True, check=False)


def test_the_tasks_of_a_job_array_make_it_together(place):
    (place / "clips/a/bad.mp4").touch()
    done, codes = [], set()
    for task in (1, 2):
        result = run_slurm(place, task, 2)
        codes.add(result.returncode)
        assert f"in part {task} of 2" in result.stderr
        done.append(set(results(place)))
    assert codes == {0, 1}  # one of the two has the bad file
    assert set() < done[0] < done[1] == set(NAMES)
    assert json.loads((place / "merged/failed.jsonl").read_text())["name"] == "a/bad.mp4"


def test_shellcheck_finds_nothing_in_the_shell_recipes():
    shells = [marked("slurm"), *(code for language, code in blocks(TEXT, tested=True) if language == "bash")]
    shells += [code for language, code in blocks(TEXT, tested=False) if language == "bash"]
    assert len(shells) >= 4
    for code in shells:
        command = [BIN / "shellcheck", "--shell", "bash", "-"]
        # Single quotes: what is in them is for the shell that parallel starts.
        command[1:1] = ["--exclude", "SC2016"] if "parallel" in code else []
        result = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout


def test_the_call_of_parallel_is_one_the_program_understands():
    (code,) = [code for language, code in blocks(TEXT, tested=False) if "parallel" in code]
    (call,) = re.findall(r"sttm-export (run .*?);", code)
    options = build_parser().parse_args(call.replace("{}", "3").split())
    assert (options.shard, options.engine) == ("3/4", True)


def test_multiprocessing(place):
    (place / "clips/bad.mp4").touch()
    (place / "program.py").write_text(marked("multiprocessing").replace("threads=2", "threads=1"))
    result = subprocess.run([sys.executable, "program.py"], cwd=place, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert results(place) == NAMES
    assert len(result.stdout.splitlines()) == 5
    assert re.search(r"^clips/bad\.mp4 0 clips/bad\.mp4 is empty", result.stdout, re.MULTILINE)


LOCAL = (
    "ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, _node_ip_address='127.0.0.1', "
    "_temp_dir={place!r})"
)
# The same data set without an output: arrays of rows of different lengths through Ray's object store.
FURTHER = """
import numpy as np
held = videos.map_batches(
    sttm_export.VideoTokens,
    fn_constructor_kwargs={"bundle": Path("my-bundle").absolute(), "backend": "cpu", "threads": 1},
    batch_format="numpy",
    batch_size=2,
    num_cpus=1,
    compute=ray.data.ActorPoolStrategy(size=1),
)
for row in held.iter_rows():
    name = Path(row["path"]).relative_to(clips).as_posix()
    assert len(row["tokens"]) == row["num_tokens"]
    if row["error"]:
        assert row["num_tokens"] == 0
        continue
    with np.load(f"merged/{name}.npz") as file:
        for key in ("tokens", "token_box", "token_patches", "assignment", "timestamps", "frame_indices"):
            value = np.asarray(row[key])
            assert (value.dtype, value.shape) == (file[key].dtype, file[key].shape), key
            assert value.tobytes() == file[key].tobytes(), key
    print("same", name)
ray.shutdown()
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed; pip install 'ray[data]'")
def test_ray(place):
    """The recipe on CPUs; then arrays instead of files; and Ray ends without a process left."""
    (place / "clips/bad.mp4").touch()
    home = tempfile.mkdtemp(prefix="ray")  # its sockets want a short path
    code = marked("ray").replace("ray.init()", LOCAL.format(place=home))
    code = code.replace("num_gpus=1", "num_cpus=1").replace("size=4", "size=2").replace("batch_size=8", "batch_size=2")
    code = code.replace('"root": clips}', '"root": clips, "backend": "cpu", "threads": 1}')
    environment = {**os.environ, "HOME": home, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", code + FURTHER],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert results(place) == NAMES
        rows = [line for line in result.stdout.splitlines() if line.startswith(str(place / "clips"))]
        assert len(rows) == 5
        assert sum("is empty" in row and " 0 " in row for row in rows) == 1
        assert sorted(re.findall(r"^same (\S+)$", result.stdout, re.MULTILINE)) == NAMES
        assert not left_over(home), "a process of Ray is left"
    finally:
        shutil.rmtree(home, ignore_errors=True)


def left_over(home):
    """Processes whose command names the directory of this Ray."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=False).stdout
    return [line for line in found.splitlines() if home in line]


def test_every_figure_of_the_page_is_that_of_the_program():
    """22 MB: K tokens of 3584 channels in FP16."""
    assert round(0.5 * 32 * 196 * 3584 * 2 / 1e6) == 22

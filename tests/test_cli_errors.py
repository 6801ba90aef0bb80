"""Every error a user can make: one sentence, exit code 2, no traceback, nothing left behind."""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers_networks import tiny_model, tiny_state, write_checkpoint

from sttm_export.cli import main
from sttm_export.runtime.sample_clips import find_sample_clip


@pytest.fixture
def export(tiny_toml, tmp_path, capsys):
    """Run an export that must fail; returns its message."""

    def run(*extra, model=str(tiny_toml), budget="0.5", weights=("--random-weights", "0"), code=2):
        output = tmp_path / "out" / "bundle"
        arguments = ["--model", model, "--budget", budget, "--frames", "4", *weights, "--output", str(output), *extra]
        assert main(arguments) == code
        assert not output.parent.exists() or not any(output.parent.iterdir()), "something was left behind"
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("sttm-export: ")
        assert "Traceback" not in message
        return message

    return run


@pytest.mark.parametrize("budget", ["0", "-0.5", "1.5", "nan"])
def test_wrong_budget(export, budget):
    assert "is outside (0, 1]; give the share of tokens to keep" in export(budget=budget)


def test_budget_that_is_no_number(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--model", "llava-video-7b", "--budget", "half"])
    assert stop.value.code == 2
    assert "invalid float value: 'half'" in capsys.readouterr().err


def test_too_few_frames_for_the_budget(export):
    assert "too few for a budget of 0.1" in export(budget="0.1")
    assert "--frames 10 or more" in export(budget="0.1")


def test_unknown_model_gets_the_nearest(export):
    assert "Unknown model 'llava-vidoe-7b'. Did you mean 'llava-video-7b'?" in export(model="llava-vidoe-7b")


def test_model_file_with_faults_names_all_of_them(export, tiny_toml, tmp_path):
    text = tiny_toml.read_text().replace('title = "Tiny"\n', "").replace("heads = 4", 'heads = "four"')
    (tmp_path / "bad.toml").write_text(text + "\n[extra]\n")
    message = export(model=str(tmp_path / "bad.toml"))
    for fault in ("missing 'title'", "'architecture.tower.heads' must be int, got 'four'", "unknown key 'extra'"):
        assert fault in message


@pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "a/b", ".hidden", "a b", "a\\nb", "", "n" * 101])
def test_a_models_name_is_no_path(export, tiny_toml, tmp_path, name):
    """It is the first part of the default output."""
    text = tiny_toml.read_text()
    assert text.count('name = "tiny"') == 1
    (tmp_path / "bad.toml").write_text(text.replace('name = "tiny"', f'name = "{name}"'))
    assert "does not describe a model: name must be letters, digits" in export(model=str(tmp_path / "bad.toml"))


def test_missing_model_file(export, tmp_path):
    assert "Cannot read" in export(model=str(tmp_path / "none.toml"))


def test_no_weights_names_both_ways(export):
    message = export(weights=())
    assert "--weights DIR_OR_HUB_ID" in message
    assert "--random-weights SEED" in message


def test_both_weights(export):
    assert "exclude each other" in export("--weights", "somewhere")


def test_unknown_target_and_capability(export):
    assert "Did you mean 'jetson-orin-jp62'?" in export("--target", "jetson-orin-jp6")
    assert "Unknown compute capability 'sm87'; valid are, by target, rtx: sm75" in export(
        "--compute-capability", "sm87"
    )


def test_a_precision_that_the_hardware_lacks_is_refused_with_the_reason(export):
    message = export("--target", "rtx", "--target", "jetson-orin-jp62", "--precision", "fp8")
    assert "Target 'jetson-orin-jp62' lacks fp8: Orin's GPU (compute capability 8.7) has no FP8 units" in message
    assert "TensorRT has FP4 from version 10.8 on" in export("--target", "x86-trt103", "--precision", "fp4")
    assert "Graphs cannot be exported in 'fp8'" in export("--target", "jetson-thor-jp71", "--precision", "fp8")


def test_unknown_precision_policy_and_impossible_values(export):
    said = export("--precision", "int4")
    assert "Graphs cannot be exported in 'int4'. Did you mean 'int8'? Valid: fp16, fp32, int8." in said
    assert "--accumulate has no 'fp16'. Did you mean 'fp32'?" in export("--accumulate", "fp16")
    assert "unknown policy 'magic'" in export("--policy", "magic")
    assert "--batch 0 is not possible" in export("--batch", "0")
    assert "--spatial-threshold 3 is no cosine" in export("--spatial-threshold", "3")
    assert "root_level 9 is outside" in export("--root-level", "9")
    assert "head_dim 5 does not divide 48 channels" in export("--head-dim", "5")
    assert "--validation-frames 9 is outside 1..4" in export("--validation-frames", "9")
    assert "contradict each other" in export("--no-validation", "--validation-frames", "2")


def test_unreadable_and_empty_clips(export, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4", "none.mp4"):
        message = export("--clip", str(tmp_path / name))
        assert name in message


def test_incomplete_and_corrupt_checkpoints(export, tmp_path):
    model = tiny_model()
    state = tiny_state(model, 3)
    write_checkpoint(tmp_path / "whole", model, state)
    shutil.copytree(tmp_path / "whole", tmp_path / "incomplete")
    shards = sorted((tmp_path / "incomplete").glob("*.safetensors"))
    shards[0].unlink()
    assert shards[0].name in export(weights=("--weights", str(tmp_path / "incomplete")))
    shutil.copytree(tmp_path / "whole", tmp_path / "corrupt")
    for shard in (tmp_path / "corrupt").glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-64])
    assert "safetensors" in export(weights=("--weights", str(tmp_path / "corrupt")))
    (tmp_path / "nothing").mkdir()
    assert "nothing" in export(weights=("--weights", str(tmp_path / "nothing")))


def test_a_disk_that_is_too_small_is_seen_before_any_work(export, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert "free; free some space" in export()


def test_a_disk_that_fills_up_leaves_nothing(export, monkeypatch):
    from sttm_export.graphs import export as exporter

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter, "_save", full)
    assert "the disk is full" in export()


def test_a_short_write_of_weights_is_a_full_disk(export, monkeypatch):
    import onnx_ir

    def short(*_args, **_kwargs):
        raise OSError("problem writing element 2048 to file")  # what NumPy's tofile says, without an errno

    monkeypatch.setattr(onnx_ir, "save", short)
    assert "the disk is full" in export()


def test_an_interrupt_leaves_nothing(export, monkeypatch):
    from sttm_export.graphs import export as exporter

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "_save", interrupted)
    assert "interrupted; nothing was left behind" in export(code=130)


def test_a_broken_rule_is_refused(export, monkeypatch):
    """An operator that the target cannot build stops the export before any engine is tried."""
    from sttm_export.graphs import rule_table, rules

    rule = next(rule for rule in rule_table.rules().values() if rule.severity == "error")
    found = [rules.Finding(rule, "rtx", "node 'sort'", "")]
    monkeypatch.setattr(rules, "check_structures", lambda _graphs, _target: found)
    message = export()
    assert "Target rtx cannot build these graphs: vision_encoder.onnx: error" in message
    assert rule.id in message


def test_output_in_the_way(export, tiny_toml, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    command = [
        "--model",
        str(tiny_toml),
        "--budget",
        "0.5",
        "--frames",
        "4",
        "--random-weights",
        "0",
        "--output",
        str(taken),
    ]
    assert main(command) == 2
    assert "exists already; choose another --output, or replace it with --force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 2
    assert "is no bundle, so --force does not replace it" in capsys.readouterr().err
    assert (taken / "thesis.txt").read_text() == "mine"


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def fails(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "name", ["token_merger.onnx", "vision_encoder.onnx.data", "manifest.json", "fixtures/token_merger.npz"]
)
def test_tampered_bundle(copy, capsys, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    for verb in ("inspect", "validate"):
        message = fails(capsys, verb, copy)
        assert re.search("damaged or was tampered with|is not a bundle|is not as sttm-export writes it", message)
        assert name in message or name == "manifest.json"


def test_bundle_with_a_missing_file(copy, capsys):
    (copy / "token_merger.onnx").unlink()
    (copy / "vision_encoder.onnx").unlink()
    assert "token_merger.onnx is missing, and 1 more file(s) differ" in fails(capsys, "inspect", copy)


def test_what_is_no_bundle(tmp_path, copy, capsys):
    assert "is not a bundle" in fails(capsys, "inspect", tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["format"] = 3
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "has bundle format 3, this program reads format 6; export it again" in fails(capsys, "inspect", copy)


def test_run_refuses_bad_requests(tiny_bundle, tmp_path, capsys):
    clip = find_sample_clip("carphone")
    out = tmp_path / "tokens.npz"
    assert "none.mp4" in fails(capsys, "run", tiny_bundle, "--video", tmp_path / "none.mp4", "--output", out)
    assert "--fps 0 is not possible" in fails(
        capsys, "run", tiny_bundle, "--video", clip, "--fps", "0", "--output", out
    )
    assert "Cannot write" in fails(capsys, "run", tiny_bundle, "--video", clip, "--output", tmp_path / "no" / "t.npz")
    assert "no provider" in fails(
        capsys, "run", tiny_bundle, "--video", clip, "--output", out, "--provider", "Nonsense"
    )
    assert "is no cosine" in fails(
        capsys, "run", tiny_bundle, "--video", clip, "--output", out, "--spatial-threshold", "7"
    )
    assert not out.exists()


def test_validate_wants_the_weights_the_bundle_was_made_of(tmp_path, tiny_bundle, capsys):
    model = tiny_model()
    write_checkpoint(tmp_path / "other", model, tiny_state(model, 3))
    clip = find_sample_clip("carphone")
    message = fails(capsys, "validate", tiny_bundle, "--clip", clip, "--weights", tmp_path / "other")
    assert "These are not the weights the bundle was made of" in message


def test_unknown_verb(capsys):
    assert "Unknown verb 'inspct'. Did you mean 'inspect'?" in fails(capsys, "inspct")


def test_no_traceback_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sttm_export", "--model", "llava", "--budget", "0.5", "--output", str(tmp_path / "b")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sttm-export: Unknown model 'llava'.")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_nothing(tmp_path, tiny_toml, number):
    """A real signal to a real process, as a CI job that times out sends it, or a terminal that is closed."""
    command = [sys.executable, "-m", "sttm_export", "--model", str(tiny_toml), "--budget", "0.5", "--frames", "4"]
    command += ["--random-weights", "0", "--output", str(tmp_path / "bundle")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    assert "[1/7] Open the weights" in line
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; nothing was left behind" in err
    assert list(tmp_path.iterdir()) == []


def test_features_that_are_not_finite_are_reported(tiny_bundle):
    """The check that the manifest carries: which frames hold NaN, and a budget that holds all the same."""
    from sttm_export.bundle.opened import open_bundle
    from sttm_export.contracts.graph import TOKEN_MERGER
    from sttm_export.families.registry import parts_of
    from sttm_export.graphs.fixtures import read_fixture
    from sttm_export.runtime.merged import MergedTokens
    from sttm_export.runtime.ort_session import OrtSession
    from sttm_export.workflows.evidence import examine

    bundle = open_bundle(tiny_bundle)
    graph = bundle.graph(TOKEN_MERGER)
    inputs, _ = read_fixture(bundle.fixture_path(TOKEN_MERGER), graph)
    features = inputs["features"].copy()
    features[2, 1, 5] = np.nan
    part = next(part for part in parts_of(bundle.manifest.recipe) if part.name == TOKEN_MERGER)
    session, packed = OrtSession(bundle.onnx_path(TOKEN_MERGER), graph), []
    rules = bundle.rules(TOKEN_MERGER)
    pack = lambda case, _: packed.append(case)  # noqa: E731
    report, made = examine(
        part, {}, lambda: session, rules, {"features": features}, lambda *_: None, name="a", pack=pack
    )
    assert any("hold 1 NaN/Inf in frames 2" in finding for finding in report.findings)
    assert MergedTokens.from_outputs(made, len(features), bundle.merge).num_tokens <= bundle.merge.max_tokens
    assert not packed
    assert not report.passed
    judged = [row for row in report if not row.skipped]
    assert [(row.tensor, row.passed) for row in judged] == [("num_tokens", True)]
    assert "first at [2, 1, 5]" in report.first_miss.reason

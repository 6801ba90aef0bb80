"""`doctor`: for each target what can be done here, why not, and what fixes it."""

import dataclasses
import json

import pytest
from helpers_device import ORIN, absent, orin

from sttm_export.cli import main
from sttm_export.contracts.target import find_target, targets
from sttm_export.machine.doctor import examine_targets
from sttm_export.machine.modules import ModuleFacts

ALL = list(targets().values())
RTX = {"tensorrt": absent("tensorrt"), "tensorrt-rtx": ModuleFacts("tensorrt_rtx", "1.7.1.116")}


def answers(facts, name, has_onnx=True):
    (verdict,) = examine_targets(facts, [find_target(name)], has_onnx)
    return verdict.check.answer, verdict.build.answer, verdict.run.answer


def test_a_jetson_builds_and_runs_its_own_target_only():
    verdicts = {verdict.target: verdict for verdict in examine_targets(orin(), ALL, has_onnx=True)}
    can = [name for name, verdict in verdicts.items() if verdict.build.answer == "yes"]
    assert can == ["jetson-orin-jp62"]
    assert verdicts["jetson-orin-jp62"].run.answer == "yes"
    assert "10.16" in verdicts["jetson-orin-jp72"].build.why
    assert verdicts["jetson-orin-jp72"].build.fix


def test_rtx_builds_without_a_gpu_and_runs_with_one():
    host = orin(processor="x86_64", l4t="", jetpack="", gpu=None, tensorrt=RTX)
    assert answers(host, "rtx") == ("yes", "yes", "no")
    ada = dataclasses.replace(ORIN, compute_capability="sm89")
    assert answers(dataclasses.replace(host, gpu=ada), "rtx") == ("yes", "yes", "yes")
    assert answers(dataclasses.replace(host, tensorrt={}), "rtx") == ("yes", "no", "no")


def test_what_is_not_stated_makes_an_unknown():
    assert answers(orin(l4t="", jetpack=""), "jetson-orin-jp62") == ("yes", "unknown", "unknown")


def test_on_another_kind_of_machine_the_kit_is_the_fix():
    host = orin(processor="x86_64", l4t="", jetpack="", gpu=None, tensorrt=RTX)
    (verdict,) = examine_targets(host, [find_target("jetson-orin-jp62")], has_onnx=True)
    assert "bash device/build.sh" in verdict.build.fix
    assert verdict.build.why == "this is Linux x86_64, the target is Linux aarch64"


def test_rules_need_onnx():
    assert answers(orin(), "jetson-orin-jp62", has_onnx=False)[0] == "no"


def test_the_command_prints_every_target(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in targets())
    assert "This machine" in text
    assert "bash device/build.sh" in text


def test_the_command_prints_json(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in found["targets"]] == list(targets())
    assert found["machine"]["python"]
    assert {"answer", "why", "fix"} == set(found["targets"][0]["build"])
    names = [check["name"] for check in found["targets"][1]["checks"]]
    assert {"processor", "GPU", "TensorRT"} <= set(names)


def test_a_bad_option_is_an_error(capsys):
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--yaml"])
    assert end.value.code == 2

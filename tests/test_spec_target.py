import json
import re
from pathlib import Path

import pytest

from sttm_export.cli import main
from sttm_export.commands.targets import count_rules
from sttm_export.contracts.data import read_toml
from sttm_export.contracts.target import TargetSpec, find_target, targets
from sttm_export.errors import UserError

ALL = list(targets().values())
KNOWN = {"fp32", "fp16", "bf16", "int8", "int4", "fp8", "fp4"}


def test_every_jetpack_and_tensorrt_has_a_row():
    releases = {release for target in ALL for release in target.jetpack}
    assert {"6.1", "6.2", "6.2.2", "6.2.3", "7.1", "7.2", "7.2.2"} <= releases
    versions = {target.tensorrt_version for target in ALL if target.flavour == "tensorrt"}
    assert versions == {"10.3", "10.13", "10.16", "11.4"}
    assert [t.name for t in ALL if t.flavour == "tensorrt-rtx"] == ["rtx"]


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_rows_do_not_contradict_themselves(target):
    assert target.opsets[0] <= 20 <= target.opsets[1]
    assert set(target.precisions) <= KNOWN
    assert set(target.precisions).isdisjoint(target.lacks)
    assert set(target.precisions) | set(target.lacks) == KNOWN
    assert bool(target.jetpack) == bool(target.l4t) == (target.built == "device") == (target.machine == "aarch64")
    assert all(re.fullmatch(r"sm\d+", name) for name in target.compute_capabilities)
    assert not target.image or target.image.startswith("nvcr.io/nvidia/")
    assert target.source
    assert target.title.startswith(("TensorRT-RTX", "Jetson", "x86-64"))


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_a_row_travels_as_json(target):
    assert TargetSpec.from_json(json.loads(json.dumps(target.to_json()))) == target


@pytest.mark.parametrize("target", [t for t in ALL if "sm87" in t.compute_capabilities], ids=lambda t: t.name)
@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_orin_lacks_fp8_and_fp4(target, precision):
    with pytest.raises(
        UserError, match=rf"lacks {precision}: Orin's GPU .* they begin with .*; choose --precision fp16"
    ):
        target.check_precision(precision)


def test_a_precision_that_is_there_passes():
    find_target("jetson-thor-jp71").check_precision("fp8")
    find_target("jetson-orin-jp62").check_precision("fp16")


def test_the_verb_lists_every_target(capsys):
    assert main(["targets"]) == 0
    shown = capsys.readouterr().out
    assert all(target.name in shown for target in ALL)
    assert "nvcr.io/nvidia/tensorrt:24.08-py3" in shown


def test_the_verb_prints_every_field(capsys):
    assert main(["targets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(targets())
    assert [TargetSpec.from_json(row) for row in rows] == ALL


def test_rules_of_a_target_are_counted():
    # CumSum is a loop before TensorRT 10.8 only, so 10.3 has rules that later versions do not.
    assert count_rules("jetson-orin-jp62") > count_rules("jetson-orin-jp72") > 10


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.3.0.30", True), ("10.3", True), ("10.30.0", False), ("10", False), ("8.6.2", False), ("10.3rc1", False)],
)
def test_a_tensorrt_belongs_to_a_target_by_the_parts_of_its_version(version, fits):
    assert find_target("jetson-orin-jp62").has_tensorrt(version) is fits


def test_the_gpu_extra_brings_a_tensorrt_that_a_target_has():
    project = read_toml(Path(__file__).resolve().parent.parent / "pyproject.toml")
    (pin,) = [row for row in project["project"]["optional-dependencies"]["gpu"] if row.startswith("tensorrt")]
    version = re.fullmatch(r"tensorrt==([\d.]+)\.\*", pin)[1]
    assert version in {target.tensorrt_version for target in ALL if target.built == "gpu-host"}

"""The kit on machines that are not here: every refusal comes before any work, with its fix, and writes nothing."""

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from helpers_bundles import GRAPHS, dead_process, put_engines, write_engine
from helpers_device import GIB, ORIN, absent, orin

from sttm_export.bundle.manifest import RuleFinding, read_manifest
from sttm_export.bundle.opened import Bundle, open_bundle
from sttm_export.bundle.store import only_builder
from sttm_export.bundle.sums import read_sums
from sttm_export.contracts.target import find_target, targets
from sttm_export.engines.memory import RTX_BASE, builder_base
from sttm_export.errors import UserError
from sttm_export.kit import __main__ as kit
from sttm_export.kit import flow
from sttm_export.kit.checks import check_bundle, pick_target, read_targets
from sttm_export.machine import jetson
from sttm_export.machine.jetson import PowerFacts
from sttm_export.machine.modules import ModuleFacts
from sttm_export.machine.needs import derive_needs
from sttm_export.system import MemoryFacts, size_text

JP62 = find_target("jetson-orin-jp62")


@pytest.fixture(scope="module")
def exported(tiny_bundle, tmp_path_factory):
    """A copy of the tiny bundle without engines; only `bundle` may be changed."""
    copy = tmp_path_factory.mktemp("kit") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    shutil.rmtree(copy / "engines")
    return copy


@pytest.fixture
def bundle(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "bundle")


@pytest.fixture
def machine(monkeypatch):
    """Let the kit see an Orin, with changes."""

    def be(**changes):
        monkeypatch.setattr(flow, "read_machine", lambda: orin(**changes))

    be()
    return be


def files(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*")}


def run(bundle, *options):
    before = files(bundle)
    code = kit.main(list(options), bundle)
    assert files(bundle) == before, "something was written"
    return code


def test_a_good_machine_and_bundle(machine, bundle, capsys):
    assert run(bundle, "--check") == 0
    text = capsys.readouterr().out
    assert "Tiny for Jetson Orin, JetPack 6.1 / 6.2, TensorRT 10.3" in text
    assert "will do" in text
    assert "failed" not in text
    assert "→" not in text
    assert "Power mode" not in text, "no Jetson says that it has none"
    machine(power=PowerFacts("15W", "MAXN_SUPER", 2))
    assert run(bundle, "--check") == 0
    assert "Power mode: 15W (the fastest is MAXN_SUPER: sudo nvpmodel -m 2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "name", "fix"),
    [
        ({"l4t": "35.4.1", "jetpack": ""}, "JetPack", "SDK Manager"),
        ({"tensorrt": {"tensorrt": absent("tensorrt")}}, "TensorRT", "python3-libnvinfer"),
        ({"tensorrt": {"tensorrt": ModuleFacts("tensorrt", "10.7.0")}}, "TensorRT", "the version that built it"),
        ({"gpu": dataclasses.replace(ORIN, compute_capability="sm72")}, "GPU", "--target"),
        ({"memory": MemoryFacts(8 * GIB, GIB // 4)}, "memory", "--ignore-memory"),
        ({"numpy": absent("numpy")}, "NumPy", "python3-numpy"),
    ],
)
def test_a_machine_that_will_not_do(machine, bundle, capsys, changes, name, fix):
    machine(**changes)
    assert run(bundle, "--target", "jetson-orin-jp62") == 2
    captured = capsys.readouterr()
    assert f"will not do for jetson-orin-jp62: {name} (" in captured.err
    assert fix in captured.out.split(f"failed   {name}")[1]


def test_all_faults_come_at_once(machine, bundle, capsys, monkeypatch):
    machine(processor="x86_64", l4t="", jetpack="", gpu=None, tensorrt={"tensorrt": absent("tensorrt")})
    monkeypatch.setattr(flow, "free_disk", lambda path: 2**20)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (bundle / "token_merger.onnx").write_bytes(b"damaged")
    assert run(bundle, "--target", "jetson-orin-jp62") == 2
    captured = capsys.readouterr()
    assert "files, processor, JetPack, GPU, TensorRT, disk, bundle (" in captured.err
    assert captured.out.count("→") == 7
    assert "larger disk" in captured.out
    assert "copy the bundle to a disk that can be written" in captured.out


def test_a_damaged_bundle(machine, bundle, capsys):
    (bundle / "fixtures" / "token_merger.npz").unlink()
    with (bundle / "vision_encoder.onnx.data").open("r+b") as file:
        file.write(b"x")
    assert run(bundle) == 2
    assert "fixtures/token_merger.npz and 1 more missing or changed" in capsys.readouterr().out


def test_a_changed_kit_is_a_damaged_bundle(machine, bundle, capsys):
    with (bundle / "device" / "sttm_export" / "errors.py").open("a") as file:
        file.write("# mine\n")
    assert run(bundle) == 2
    assert "device/sttm_export/errors.py missing or changed" in capsys.readouterr().out


def test_what_the_build_does_not_use_may_be_left_behind(machine, bundle):
    for name in ("report.html", "tokens.png", "times.json"):
        (bundle / name).unlink()
    assert run(bundle, "--check") == 0


def test_a_changed_manifest_and_no_manifest(machine, bundle, capsys):
    text = (bundle / "manifest.json").read_text().replace('"precision": "fp16"', '"precision": "fp32"')
    (bundle / "manifest.json").write_text(text)
    assert run(bundle) == 2
    assert "manifest.json was changed after the export" in capsys.readouterr().err
    (bundle / "manifest.json").unlink()
    assert run(bundle) == 2
    assert "is not a bundle" in capsys.readouterr().err


def without(bundle, **changes):
    """The opened bundle with another manifest, as an export with other options would have made it."""
    manifest = read_manifest(bundle)
    changed = {key: change(getattr(manifest, key)) for key, change in changes.items()}
    return Bundle(bundle, dataclasses.replace(manifest, **changed))


def check(bundle, name, target=JP62):
    return next(found for found in check_bundle(bundle, target) if found.name == name)


def test_a_bundle_without_fixtures(exported):
    bundle = without(exported, files=lambda rows: [row for row in rows if not row.path.startswith("fixtures/")])
    found = check(bundle, "fixtures")
    assert (found.status, found.found) == ("failed", "none for vision_encoder and token_merger")
    assert "without --no-validation" in found.fix


def test_a_precision_that_the_target_lacks(exported):
    found = check(without(exported, precision=lambda _: "fp8"), "precision")
    assert found.status == "failed"
    assert "--precision" in found.fix
    assert check(without(exported), "precision").status == "ok"


def test_rules_were_checked_for_every_target_at_export(exported):
    names = json.loads((exported / "manifest.json").read_text())["rule_findings"]
    assert list(names) == sorted(targets())
    assert all(check(without(exported), "rules", target).status == "ok" for target in targets().values())


def test_rules_of_a_target_that_the_export_did_not_know(exported):
    found = check(without(exported, rule_findings=lambda _: {"rtx": []}), "rules")
    assert (found.status, found.found) == ("unknown", "checked for rtx")
    assert "export again" in found.fix


def test_broken_rules_are_refused_and_warnings_are_not(exported):
    warning, error = (
        RuleFinding("token_merger", severity, f"{severity} topk-limit: node") for severity in ("warning", "error")
    )
    bundle = without(exported, rule_findings=lambda rows: rows | {JP62.name: [warning, error]})
    found = check(bundle, "rules")
    assert (found.status, found.found) == ("failed", "token_merger: error topk-limit: node (1 in all)")
    assert check(without(exported, rule_findings=lambda _: {JP62.name: [warning]}), "rules").status == "ok"


def test_too_little_memory_can_be_tried_all_the_same(machine, bundle, capsys):
    machine(memory=MemoryFacts(8 * GIB, GIB // 4))
    assert run(bundle, "--check", "--ignore-memory") == 0
    assert "unknown  memory: 256 MiB free" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "jetson-orin-62"], "Did you mean 'jetson-orin-jp62'?"),
        (["--target", "rtx"], "The kit has no target 'rtx'"),
        (["--runs", "0"], "--runs 0 is not possible"),
        (["--workspace", "0"], "--workspace 0 is not possible"),
    ],
)
def test_bad_options(machine, bundle, capsys, options, message):
    assert run(bundle, *options) == 2
    assert message in capsys.readouterr().err


def test_the_kit_of_no_bundle(capsys):
    assert kit.main(["--check"]) == 2
    assert "not the kit of a bundle" in capsys.readouterr().err


def test_the_target_is_the_one_that_fits(exported):
    targets = read_targets(exported / "device" / "targets.json")
    for facts, name in (
        (orin(), "jetson-orin-jp62"),
        (orin(l4t="39.2.0", tensorrt={"tensorrt": ModuleFacts("tensorrt", "10.16.0")}), "jetson-orin-jp72"),
        (orin(l4t="39.2.0", tensorrt={"tensorrt": ModuleFacts("tensorrt", "11.4.1")}), "jetson-orin-jp722"),
        # Nothing fits: the nearest, whose checks then say what is missing.
        (orin(tensorrt={"tensorrt": absent("tensorrt")}), "jetson-orin-jp62"),
    ):
        assert pick_target(facts, targets, None, ["rtx"]).name == name
    host = orin(processor="x86_64", l4t="", jetpack="", gpu=dataclasses.replace(ORIN, compute_capability="sm89"))
    assert pick_target(host, targets, None, ["jetson-orin-jp62"]).name == "x86-trt103"


def test_nohup_is_respected(machine, bundle):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(bundle, "--check") == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_damaged_targets(tmp_path):
    (tmp_path / "targets.json").write_text('[{"name": 1}]')
    with pytest.raises(UserError, match="damaged; copy the bundle anew"):
        read_targets(tmp_path / "targets.json")


@pytest.fixture
def built(machine, bundle, monkeypatch):
    """The kit, with builds and comparisons that take no time."""

    def build(work, partial, say):
        for name in GRAPHS:
            record = write_engine(partial, JP62.name, name, "sm87", b"new", "{graph}")
            work.builds.append(
                {
                    "record": dataclasses.asdict(record),
                    "memory": {"free_before": None, "least_free": None, "taken": None},
                }
            )

    monkeypatch.setattr(flow, "_build", build)
    monkeypatch.setattr(flow, "_compare", lambda work, partial, say: None)
    monkeypatch.setattr(flow, "_first_miss", lambda work: ([], ""))
    return lambda *options: kit.main(list(options), bundle)


def test_what_a_power_cut_left_is_swept_or_put_back(built, bundle, capsys):
    engines, dead = bundle / "engines", dead_process()
    put_engines(bundle, JP62.name, "sm87")
    (engines / JP62.name).rename(engines / f".{JP62.name}.old-{dead}")
    (engines / f".{JP62.name}.partial-{dead}").mkdir()
    assert built() == 2
    shown = capsys.readouterr()
    assert "was put back" in shown.out
    assert "a process that was killed had left" in shown.out
    assert "are there already" in shown.err
    assert [path.name for path in engines.iterdir()] == [JP62.name]


def test_two_kits_at_once_are_one_and_a_refusal(built, bundle, capsys):
    with only_builder(bundle):
        assert built() == 2
    assert "Engines are built into" in capsys.readouterr().err
    assert not (bundle / "engines").exists()


def test_engines_for_another_gpu_stay(built, bundle):
    put_engines(bundle, JP62.name, "sm86", stem="{graph}")
    assert built() == 0
    names = {f"{graph}{middle}.engine" for graph in GRAPHS for middle in ("", ".sm86")}
    assert {path.name for path in (bundle / "engines" / JP62.name).glob("*.engine")} == names
    open_bundle(bundle)


def test_what_is_no_engine_stops_the_kit(built, bundle, capsys):
    put_engines(bundle, JP62.name, "sm87")
    (bundle / "engines" / JP62.name / "notes.txt").write_text("mine")
    assert built("--force") == 2
    assert "holds 'notes.txt'" in capsys.readouterr().err


def test_evidence_goes_and_what_a_user_put_beside_it_stays(built, bundle):
    rejected = bundle / "rejected" / JP62.name
    rejected.mkdir(parents=True)
    for name in ("report.md", "report.json", "a.log", "notes.txt"):
        (rejected / name).write_text("x")
    assert built() == 0
    assert [path.name for path in rejected.iterdir()] == ["notes.txt"]
    (rejected / "notes.txt").unlink()
    assert built("--force") == 0
    assert not (bundle / "rejected").exists()


def test_the_bundle_lists_its_kit(exported):
    names = set(read_sums(exported))
    assert {"device/build.sh", "device/README.md", "device/targets.json"} <= names
    assert "device/sttm_export/kit/__main__.py" in names


DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "device.md").read_text(encoding="utf-8")


def first_cells(section):
    """First cells of the tables of a section, without heads."""
    rows = re.findall(r"^\| ([^|]+) \|.*\n", DOCUMENT.split(f"## {section}\n")[1].split("\n## ")[0], re.MULTILINE)
    return [row.strip("`") for row in rows]


def test_the_document_names_every_option():
    options = {string for action in kit.build_parser()._actions for string in action.option_strings} - {"-h", "--help"}
    assert set(first_cells("Options")) - {"option"} == options


def test_the_document_names_every_check(machine, bundle):
    work = flow._look(open_bundle(bundle, verify=False), flow.Request())
    table = first_cells("What is checked before any work")
    assert table[1 : table.index("graph")] == [found.name for found in work.checks]


def test_the_document_has_the_releases_of_the_table():
    pairs = re.findall(r"(\d\d\.\d[\d.]*) is (?:JetPack )?(\d\.[\d.]*\d)", " ".join(DOCUMENT.split()))
    assert dict(pairs) == jetson._JETPACK_OF


def test_the_document_has_the_memory_that_is_asked_for():
    encoder = derive_needs({"vision_encoder": int(791.5 * 2**20)}, {}, builder_base(JP62))
    assert f"asks for {size_text(encoder.memory)}" in DOCUMENT


def test_what_is_asked_for_covers_every_peak_that_was_measured():
    units = {"MiB": 2**20, "GiB": 2**30}
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) ([MG]iB) \| ([\d.]+) GiB \| [\d.]+ GiB \|$", DOCUMENT, re.MULTILINE)
    assert len(rows) == 5
    for size, unit, peak in rows:
        assert derive_needs({"graph": int(float(size) * units[unit])}, {}, RTX_BASE).memory >= float(peak) * 2**30

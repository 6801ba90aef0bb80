import dataclasses
import json
import platform
import types

import pytest

from sttm_export.bundle.records import Sidecar, read_sidecar
from sttm_export.engines import compatibility
from sttm_export.engines.compatibility import check_runs_here, flavour_of, why_not_here
from sttm_export.errors import UserError

HERE = f"{platform.system()} {platform.machine()}"


def sidecar(tensorrt="tensorrt 10.3.0.30", capability="sm87", where=HERE):
    return Sidecar(tensorrt, "token_merger.engine", compute_capability=capability, platform=where)


def api(version="10.3.0.30", flavour="tensorrt"):
    return types.SimpleNamespace(version=version, flavour=flavour)


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("10.3.0.30", "10.3.0.30", True),
        ("10.3.0.26", "10.3.0.30", False),
        ("10.3.0.30", "10.13.2.6", False),
        ("10.3.0.30", "11.4.0", False),
    ],
)
def test_the_very_version_that_built_it(built, here, fits):
    assert (why_not_here(sidecar(f"tensorrt {built}"), api(here), "sm87") == []) == fits


def test_one_flavour_does_not_run_in_the_other():
    made = sidecar("tensorrt-rtx 1.7.1.116", "sm86")
    assert why_not_here(made, api("1.7.1.116", "tensorrt-rtx"), "sm86") == []
    reason = "it was built with tensorrt-rtx 1.7.1.116, here is tensorrt 1.7.1.116"
    assert why_not_here(made, api("1.7.1.116"), "sm86") == [reason]


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("sm87", "sm87", True),
        ("sm86", "sm87", False),
        ("portable", "sm89", True),
        ("", "sm89", True),
        ("sm87", None, False),
    ],
)
def test_compute_capability(built, here, fits):
    assert (why_not_here(sidecar(capability=built), api(), here) == []) == fits


def test_another_platform():
    reason = f"it was built for Linux riscv64, this is {HERE}"
    assert why_not_here(sidecar(where="Linux riscv64"), api(), "sm87") == [reason]


def test_every_reason_in_one_sentence_with_the_fix(monkeypatch):
    monkeypatch.setattr(compatibility, "ask_gpu", lambda: (None, "Cannot start it: no device; join the group."))
    with pytest.raises(UserError) as caught:
        check_runs_here(sidecar("tensorrt 10.16.1.11", "sm110", "Linux riscv64"), api(), None)
    assert str(caught.value) == (
        "token_merger.engine does not run here: it was built with tensorrt 10.16.1.11, here is tensorrt 10.3.0.30; it "
        f"was built for Linux riscv64, this is {HERE}; this machine has no NVIDIA GPU that can be "
        "used (Cannot start it: no device; join the group); build it "
        "on this machine with `sttm-export build BUNDLE --target NAME`, or in the bundle with `bash device/build.sh`."
    )


def test_without_a_sidecar_only_the_gpu_is_asked_for():
    check_runs_here(None, api(), "sm87")
    with pytest.raises(UserError, match="The engine does not run here: this machine has no NVIDIA GPU"):
        check_runs_here(None, api(), None)


def test_reading_a_sidecar(tmp_path):
    engine = tmp_path / "x.engine"
    assert read_sidecar(engine) is None
    beside = tmp_path / "x.engine.json"
    beside.write_text(json.dumps(dataclasses.asdict(sidecar()) | {"graph": "for people"}))
    assert read_sidecar(engine) == sidecar()
    for damage in ("{", "[]", "{}", '{"tensorrt": 7}', "\udcff"):
        beside.write_bytes(damage.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match=r"x.engine.json is damaged \(.*\); build it on this machine"):
            read_sidecar(engine)
    beside.write_text(json.dumps({"tensorrt": "onnxruntime 1.2"}))
    with pytest.raises(UserError, match=r"names 'onnxruntime 1\.2', expected tensorrt or tensorrt-rtx"):
        read_sidecar(engine)


@pytest.mark.parametrize(
    ("data", "flavour"), [(b"vtrt\0\0", "tensorrt-rtx"), (b"ftrt\0\0", "tensorrt"), (b"", "tensorrt")]
)
def test_first_bytes_tell_the_flavour_where_nothing_else_does(tmp_path, data, flavour):
    (tmp_path / "x.engine").write_bytes(data)
    assert flavour_of(tmp_path / "x.engine", None) == flavour
    assert flavour_of(tmp_path / "x.engine", sidecar("tensorrt-rtx 1.7")) == "tensorrt-rtx"

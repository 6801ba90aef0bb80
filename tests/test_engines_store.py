import json
import shutil

import pytest

from sttm_export.bundle.opened import open_bundle
from sttm_export.bundle.records import EngineRecord, sha256_of
from sttm_export.bundle.store import engine_targets, engines_staging, publish_engines, read_records
from sttm_export.bundle.sums import differing_files, read_sums, write_sums
from sttm_export.errors import UserError

TARGET = "jetson-orin-jp62"


def record(status="built", file=f"{TARGET}/token_merger.engine"):
    return EngineRecord(TARGET, "sm87", "token_merger", status, file=file, bytes=6)


def publish(bundle, data=b"engine"):
    with engines_staging(bundle, TARGET) as partial:
        (partial / "token_merger.engine").write_bytes(data)
        publish_engines(bundle, TARGET, partial, [record()])
    return bundle / "engines" / TARGET


def test_a_target_is_moved_in_whole(tmp_path):
    folder = publish(tmp_path)
    assert engine_targets(tmp_path) == [TARGET]
    assert read_records(tmp_path, TARGET) == [record()]
    assert {path.name for path in folder.iterdir()} == {"token_merger.engine", "engines.json", "SHA256SUMS"}
    assert read_sums(folder)["token_merger.engine"] == sha256_of(folder / "token_merger.engine")
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [TARGET]


def test_a_second_build_replaces_the_first(tmp_path):
    publish(tmp_path)
    (tmp_path / "engines" / TARGET / "stale.engine").write_bytes(b"old")
    folder = publish(tmp_path, b"second")
    assert (folder / "token_merger.engine").read_bytes() == b"second"
    assert not (folder / "stale.engine").exists()
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [TARGET]


def test_a_build_that_ends_early_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), engines_staging(tmp_path, TARGET) as partial:
        assert partial.name == TARGET
        (partial / "half.engine").write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_ends_early_leaves_what_was_there(tmp_path):
    folder = publish(tmp_path)
    with pytest.raises(ValueError, match="no"), engines_staging(tmp_path, TARGET):
        raise ValueError("no")
    assert differing_files(folder) == []
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [TARGET]


def test_a_bundle_that_cannot_be_written_to(tmp_path):
    (tmp_path / "engines").write_text("in the way")
    message = r"Cannot write to .*; copy the bundle to a writable place"
    with pytest.raises(UserError, match=message), engines_staging(tmp_path, TARGET):
        pass


def test_a_damaged_index_is_said(tmp_path):
    folder = publish(tmp_path)
    (folder / "engines.json").write_text('[{"odd": 1}]')
    with pytest.raises(UserError, match=r"engines\.json is damaged: .*; build the engines again"):
        read_records(tmp_path, TARGET)
    assert read_records(tmp_path, "rtx") == []


def test_sums_tell_missing_from_changed(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, ["c", "a", "b"])
    assert list(read_sums(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "a").write_text("other")
    (tmp_path / "b").unlink()
    assert differing_files(tmp_path) == ["a was changed (its sha256 is not the recorded one)", "b is missing"]
    (tmp_path / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(UserError, match="lacks a readable SHA256SUMS"):
        read_sums(tmp_path)


def test_engines_come_into_a_bundle_without_touching_it(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "copy")
    before = {name: (bundle / name).read_bytes() for name in ("manifest.json", "SHA256SUMS")}
    folder = publish(bundle)
    opened = open_bundle(bundle)
    found = next(row for row in opened.engine_records() if row.target == TARGET)
    assert opened.engine_path(found).read_bytes() == b"engine"
    assert {name: (bundle / name).read_bytes() for name in before} == before
    (folder / "token_merger.engine").write_bytes(b"other!")
    with pytest.raises(UserError, match=f"tampered with: engines/{TARGET}/token_merger.engine was changed"):
        open_bundle(bundle)


def test_manifest_and_sums_must_agree(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "copy")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][0]["sha256"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    name = manifest["files"][0]["path"]
    with pytest.raises(UserError, match=f"{name} has another sha256 in manifest.json than in SHA256SUMS"):
        open_bundle(bundle)

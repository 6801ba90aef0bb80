"""Where a bundle goes: nothing of anybody else's is replaced, one export at a time, and what was killed is cleared."""

import json
import subprocess
import sys

import pytest
from helpers_bundles import MISSED, contents, make_bundle

from sttm_export.bundle.opened import bundle_around, is_bundle, uncovered_files
from sttm_export.bundle.records import EngineRecord
from sttm_export.bundle.store import engines_staging, publish_engines
from sttm_export.errors import UserError
from sttm_export.files.locks import locked_directory
from sttm_export.workflows.output import check_output, keep_rejected, publish, staging


@pytest.fixture
def output(tmp_path):
    return make_bundle(tmp_path / "o", text="old")


def export(output, force=True, said=None, text="new"):
    with staging(output, force, (said if said is not None else []).append) as partial:
        make_bundle(partial, text=text)
        publish(partial, output, force)


def text_of(output):
    return json.loads((output / "manifest.json").read_text())["text"]


def refused(output, words, force=True):
    before = contents(output)
    with pytest.raises(UserError, match=words):
        check_output(output, force)
    with pytest.raises(UserError, match=words):
        export(output, force)
    assert contents(output) == before
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_a_bundle_is_replaced_only_with_force(output):
    refused(output, "exists already; choose another --output, or replace it with --force", force=False)
    export(output)
    assert text_of(output) == "new"
    assert [path.name for path in output.parent.iterdir()] == ["o"]


@pytest.mark.parametrize(
    "manifest",
    [
        {"name": "My app", "start_url": "/", "icons": []},
        {"format": 2, "program": "another program 1"},
        {"program": "sttm-export 0.1.0"},
        ["sttm-export 0.1.0"],
    ],
)
def test_another_programs_manifest_is_no_bundle(output, manifest):
    """A web application has a manifest.json, too."""
    (output / "manifest.json").write_text(json.dumps(manifest))
    refused(output, "is no bundle, so --force does not replace it")


def test_a_manifest_without_sums_is_no_bundle(output):
    (output / "SHA256SUMS").unlink()
    refused(output, "is no bundle")


@pytest.mark.parametrize("name", ["notes.txt", "fixtures/mine.npz", ".hidden", "rejected/orin/notes.txt", "engines/a"])
def test_what_a_user_put_beside_is_named(output, name):
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text("mine")
    refused(output, f"holds '{name}', which is not of the bundle, so --force does not replace it")


def test_empty_directories_and_links_are_a_users_too(output, tmp_path):
    (output / "mine").mkdir()
    refused(output, "holds 'mine/'")
    (output / "mine").rmdir()
    (output / "link").symlink_to(tmp_path)
    refused(output, "holds 'link'")


def test_engines_and_evidence_of_the_kit_are_of_the_bundle(output):
    with engines_staging(output, "rtx") as partial:
        (partial / "a.engine").write_text("engine")
        publish_engines(output, "rtx", partial, [EngineRecord("rtx", "sm86", "a", "built", file="rtx/a.engine")])
    (output / "rejected" / "orin").mkdir(parents=True)
    (output / "rejected" / "orin" / "report.md").write_text("no")
    (output / "engines" / ".rtx.partial-12").mkdir()
    assert uncovered_files(output) == []
    (output / "engines" / "rtx" / "notes").write_text("mine")
    assert uncovered_files(output) == ["engines/rtx/notes"]


def test_a_damaged_bundle_may_be_replaced(output):
    (output / "a.onnx").write_text("damaged")
    export(output)
    assert text_of(output) == "new"


def test_an_output_in_a_bundle_is_refused(output):
    assert is_bundle(output)
    assert bundle_around(output / "x" / "y") == output
    with pytest.raises(UserError, match="would lie in the bundle"):
        check_output(output / "inner", force=False)


def test_what_comes_meanwhile_is_not_replaced(output, tmp_path):
    """Notes put there, or another bundle made there, while the export was at work."""
    with pytest.raises(UserError, match="holds 'notes'"), staging(output, True, print) as partial:
        make_bundle(partial, text="new")
        (output / "notes").write_text("mine")
        publish(partial, output, True)
    assert text_of(output) == "old"
    with pytest.raises(UserError, match="exists already"), staging(tmp_path / "p", False, print) as partial:
        make_bundle(tmp_path / "p", text="theirs")
        publish(partial, tmp_path / "p", False)
    assert text_of(tmp_path / "p") == "theirs"


def test_two_at_once_are_one_and_a_refusal(output):
    with staging(output, True, print) as partial:
        with pytest.raises(UserError, match=r"Another export is making .* at this moment"):
            export(output)
        make_bundle(partial, text="first")
        publish(partial, output, True)
    assert text_of(output) == "first"
    assert [path.name for path in output.parent.iterdir()] == ["o"]


def test_a_bundle_that_engines_are_built_into_is_not_replaced(output):
    with locked_directory(output, "no"), pytest.raises(UserError, match=r"Engines are built into .* at this moment"):
        export(output)
    assert text_of(output) == "old"


KILLED = """
import os, sys
from pathlib import Path
from sttm_export.workflows.output import publish, staging
from sttm_export.files import staging as files

output = Path(sys.argv[1])
rename = Path.rename
def deadly(path, to):
    rename(path, to)
    if ".old-" in to.name:
        os.kill(os.getpid(), 9)
if sys.argv[2] == "between":
    Path.rename = deadly
with staging(output, True, print) as partial:
    (partial / "a").write_text("half")
    if sys.argv[2] == "between":
        publish(partial, output, True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("when", ["writing", "between"])
def test_the_next_export_clears_up_after_one_that_was_killed(output, when):
    done = subprocess.run([sys.executable, "-c", KILLED, str(output), when], check=False)
    assert done.returncode == -9
    left = {path.name.partition("-")[0] for path in output.parent.iterdir()}
    assert left == {".o.partial", ".o.lock"} | ({".o.old"} if when == "between" else {"o"})
    said = []
    with staging(output, True, said.append) as partial:
        assert text_of(output) == "old"
        make_bundle(partial, text="new")
        publish(partial, output, True)
    assert text_of(output) == "new"
    assert [path.name for path in output.parent.iterdir()] == ["o"]
    assert ("was put back" in said[0]) == (when == "between")
    assert "which a process that was killed had left" in said[-1]


def reject(output, force):
    with staging(output, force, print) as partial:
        make_bundle(partial, text="rejected", validation=MISSED)
        return keep_rejected(partial, output, force)


def test_a_rejected_bundle_takes_a_free_name(tmp_path):
    output = tmp_path / "o"
    assert [reject(output, force=False).name for _ in range(3)] == ["o.rejected", "o.rejected-2", "o.rejected-3"]
    assert reject(output, force=True).name == "o.rejected"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.rejected", "o.rejected-2", "o.rejected-3"]


@pytest.mark.parametrize("theirs", ["directory", "notes", "good bundle", "dangling link"])
def test_force_replaces_no_other_thing_of_that_name(tmp_path, theirs):
    place = tmp_path / "o.rejected"
    if theirs == "dangling link":
        place.symlink_to(tmp_path / "absent")
    elif theirs == "directory":
        place.mkdir()
        (place / "thesis.txt").write_text("mine")
    else:
        make_bundle(place, validation={"passed": theirs == "good bundle"})
        if theirs == "notes":
            (place / "notes").write_text("mine")
    before = place.readlink() if place.is_symlink() else contents(place)
    assert reject(tmp_path / "o", force=True).name == "o.rejected-2"
    assert (place.readlink() if place.is_symlink() else contents(place)) == before


def test_a_bundle_with_an_engine_that_failed_is_a_rejected_one(tmp_path):
    place = make_bundle(tmp_path / "o.rejected", validation=None)
    with engines_staging(place, "rtx") as partial:
        publish_engines(place, "rtx", partial, [EngineRecord("rtx", "sm86", "a", "failed", "no kernel")])
    assert reject(tmp_path / "o", force=True) == place

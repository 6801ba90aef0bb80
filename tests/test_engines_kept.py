"""Engines that a build does not replace: they move along, unchanged, or are said to be damaged; nothing else goes."""

import json

import pytest
from helpers_bundles import GRAPHS, make_bundle, put_engines, write_engine

from sttm_export.bundle.kept import carry_over, check_strangers, engines_in_the_way
from sttm_export.bundle.opened import open_bundle
from sttm_export.bundle.store import engines_staging, publish_engines, read_records
from sttm_export.bundle.sums import differing_files, write_sums
from sttm_export.errors import UserError

TARGET = "x86-trt1016"


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def rebuild(bundle, capability, stem="{graph}.{capability}"):
    with engines_staging(bundle, TARGET) as partial:
        built = [write_engine(partial, TARGET, graph, capability, b"new", stem) for graph in GRAPHS]
        kept = carry_over(bundle, TARGET, partial, built)
        publish_engines(bundle, TARGET, partial, [*built, *kept.records])
    return kept.notes


def state(bundle):
    """What the index says, and whether each engine, its sidecar and its log are there."""
    rows = {}
    for record in read_records(bundle, TARGET):
        engine = bundle / "engines" / record.file
        assert json.loads(engine.with_name(f"{engine.name}.json").read_text())["engine"] == engine.name
        assert (bundle / "engines" / record.log).read_text() == "a log"
        rows[record.graph, record.compute_capability] = (engine.name, engine.read_bytes())
    assert differing_files(bundle / "engines" / TARGET) == []
    return rows


def test_other_capabilities_stay(bundle):
    put_engines(bundle, TARGET, "sm86", "sm89")
    assert rebuild(bundle, "sm86") == []
    assert state(bundle) == {
        (graph, one): (f"{graph}.{one}.engine", data)
        for graph in GRAPHS
        for one, data in (("sm86", b"new"), ("sm89", b"engine"))
    }
    open_bundle(bundle)


def test_engines_without_a_capability_in_their_name_get_one(bundle):
    """Full TensorRT builds for the GPU that is present: on a second host the names are the same."""
    put_engines(bundle, TARGET, "sm86", stem="{graph}")
    assert rebuild(bundle, "sm89", stem="{graph}") == []
    assert state(bundle) == {
        (graph, one): (f"{graph}{middle}.engine", data)
        for graph in GRAPHS
        for one, middle, data in (("sm86", ".sm86", b"engine"), ("sm89", "", b"new"))
    }


@pytest.mark.parametrize("damage", ["changed", "missing", "sidecar", "signed anew"])
def test_what_is_damaged_is_left_out_aloud(bundle, damage):
    folder = put_engines(bundle, TARGET, "sm86", "sm89")
    engine = folder / "token_merger.sm89.engine"
    if damage == "missing":
        engine.unlink()
    elif damage == "sidecar":
        engine.with_name(f"{engine.name}.json").write_text("{}")
    else:
        engine.write_bytes(b"other!")
    if damage == "signed anew":
        write_sums(folder, [path.name for path in folder.iterdir() if path.name != "SHA256SUMS"])
    (note,) = rebuild(bundle, "sm86")
    assert note.startswith("the engine of token_merger for sm89 is damaged and was left out; build it again with")
    assert set(state(bundle)) == {("vision_encoder", "sm86"), ("token_merger", "sm86"), ("vision_encoder", "sm89")}
    assert not engine.exists()
    open_bundle(bundle)


def test_what_is_replaced_may_be_damaged(bundle):
    folder = put_engines(bundle, TARGET, "sm86")
    (folder / "token_merger.sm86.engine").write_bytes(b"other!")
    with pytest.raises(UserError, match="damaged"):
        open_bundle(bundle)
    open_bundle(bundle, engines=False)
    assert rebuild(bundle, "sm86") == []
    assert len(state(bundle)) == 2


@pytest.mark.parametrize("name", ["engines.json", "SHA256SUMS"])
def test_damaged_lists_are_replaced_aloud(bundle, name):
    folder = put_engines(bundle, TARGET, "sm86", "sm89")
    (folder / name).write_text("nonsense")
    notes = rebuild(bundle, "sm86")
    assert notes
    assert all("left out" in note for note in notes)
    assert set(state(bundle)) == {(graph, "sm86") for graph in GRAPHS}


def test_the_devices_report_moves_along_with_its_engines(bundle):
    with engines_staging(bundle, TARGET) as partial:
        record = write_engine(partial, TARGET, GRAPHS[0], "sm86")
        (partial / "report.md").write_text("passed")
        publish_engines(bundle, TARGET, partial, [record])
    rebuild(bundle, "sm89")
    assert (bundle / "engines" / TARGET / "report.md").read_text() == "passed"
    rebuild(bundle, "sm89")
    rebuild(bundle, "sm86")
    open_bundle(bundle)


def test_which_engines_are_in_the_way(bundle):
    put_engines(bundle, TARGET, "sm86", "sm89")
    assert engines_in_the_way(bundle, TARGET, ["sm75", "sm89"]) == ["sm89"]
    assert engines_in_the_way(bundle, TARGET, ["sm75"]) == []
    assert engines_in_the_way(bundle, TARGET, [None]) == ["sm86", "sm89"]
    assert engines_in_the_way(bundle, "rtx", [None]) == []


def test_what_is_no_engine_is_named(bundle):
    folder = put_engines(bundle, TARGET, "sm86")
    check_strangers(bundle, TARGET, GRAPHS)
    check_strangers(bundle, "rtx", GRAPHS)
    # An engine that trtexec built by hand under our name, and lists that are gone, are ours to replace.
    (folder / "token_merger.sm89.engine").write_text("by hand")
    (folder / "SHA256SUMS").unlink()
    check_strangers(bundle, TARGET, GRAPHS)
    for name in ("notes.txt", "other.engine", "profile.json"):
        (folder / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds '{name}', which is in no SHA256SUMS and would go"):
            check_strangers(bundle, TARGET, GRAPHS)
        (folder / name).unlink()


@pytest.mark.parametrize(
    "file", ["/etc/hostname", "../../secret", "rtx/a.engine", f"{TARGET}/../../a", f"{TARGET}/a/b", "a.engine"]
)
@pytest.mark.parametrize("field", ["file", "log", "target"])
def test_an_index_names_files_of_its_own(bundle, file, field):
    folder = put_engines(bundle, TARGET, "sm86")
    rows = json.loads((folder / "engines.json").read_text())
    rows[0][field] = file
    (folder / "engines.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"engines\.json names .*copy the bundle anew"):
        read_records(bundle, TARGET)


def test_an_engine_that_is_a_link_out_is_refused(bundle, tmp_path):
    folder = put_engines(bundle, TARGET, "sm86")
    (tmp_path / "outside").write_text("x")
    (folder / "token_merger.sm86.engine").unlink()
    (folder / "token_merger.sm86.engine").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link out of"):
        read_records(bundle, TARGET)

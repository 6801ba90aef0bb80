"""Every table at 80 and at 60 columns, on a pipe: no value is cut, no word broken, no line too long."""

import io
import json

import pytest
from rich.console import Console

from sttm_export.bundle.opened import open_bundle
from sttm_export.bundle.records import EngineRecord
from sttm_export.cli import main
from sttm_export.commands.layout import column_widths, print_facts, print_table
from sttm_export.commands.tables import print_bundle, print_engines
from sttm_export.contracts.target import targets
from sttm_export.families.registry import load_model, model_names

WIDTHS = pytest.mark.parametrize("width", [60, 80, 160])


def rendered(width, show):
    console = Console(file=io.StringIO(), width=width)
    show(console)
    return console.file.getvalue()


def words_of(text):
    """What stands in a rendered table, without its lines."""
    return set("".join(" " if 0x2500 <= ord(c) < 0x25A0 else c for c in text).split())


def assert_shown(text, width, *values):
    words = words_of(text)
    for value in values:
        assert set(str(value).split()) <= words, f"{value!r} is cut at {width} columns:\n{text}"
    assert all(len(line) <= width for line in text.splitlines()), text


ROWS = [
    ("a_long_name_of_a_tensor/MatMul_35_out0", "0.25", "words that can be folded anywhere, if there is need"),
    ("short", "", "one\ntwo"),
]


@WIDTHS
def test_no_value_is_cut(width):
    text = rendered(width, lambda console: print_table(console, "A title", ("tensor", "error", "why"), ROWS))
    assert_shown(text, width, "A title", *(cell for row in ROWS for cell in row))
    assert ("┃" in text) == (width > 60)


def test_a_column_without_values_is_left_out():
    rows = [("a", "", "b")]
    assert "nothing" not in rendered(80, lambda console: print_table(console, "t", ("x", "nothing", "y"), rows))


def test_a_value_longer_than_the_terminal_is_folded():
    path = "/a/" + "b" * 150
    text = rendered(60, lambda console: print_facts(console, "t", [("path", path), ("other", "c")]))
    assert text.count("b") == 150
    assert max(map(len, text.splitlines())) <= 60
    text = rendered(60, lambda console: print_table(console, "t", ("x", "y"), [("1", path)]))
    assert path in "".join(text.split())


def test_widths_never_go_below_a_word():
    assert column_widths([("ab cd", "efg")], 80) == [5, 3]
    assert column_widths([("ab cd", "efg")], 7 + 5) == [2, 3]
    assert column_widths([("ab cd", "efg")], 7 + 4) is None


@WIDTHS
def test_targets(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["targets"]) == 0
    text = capsys.readouterr().out
    for name, target in targets().items():
        assert_shown(text, width, name, target.title, ", ".join(target.compute_capabilities), target.image)


@WIDTHS
def test_models(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for name in model_names():
        assert_shown(text, width, name, load_model(name).title, load_model(name).hub_id)


@WIDTHS
def test_a_bundle(width, tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    text = rendered(width, lambda console: print_bundle(bundle, console))
    # Sentences (paths, reasons) are left to the terminal to wrap, so that they can be searched and copied whole.
    table = "\n".join(line for line in text.splitlines() if ": " not in line or line.startswith((" ", "│")))
    for row in bundle.manifest.data["validation"]["results"]:
        assert_shown(table, width, row["stage"], row["tensor"], "pass")
        assert f"Stages of {row['graph']}, on {row['clip']}" in " ".join(text.split())
    assert "4 frames of a synthetic scene" in " ".join(text.split())
    for record in bundle.engine_records():
        assert_shown(table, width, record.target, record.graph, record.status)
    for row in bundle.manifest.data["files"]:
        if not row["path"].startswith("device/"):
            assert_shown(table, width, row["path"], f"{row['sha256'][:16]}…")


@WIDTHS
def test_reasons_of_engines_are_sentences_below(width):
    reason = "tensorrt 10.3 could not build token_merger.onnx: " + "because of this and that " * 8
    records = [EngineRecord("rtx", name, "token_merger", "failed", reason) for name in ("sm86", "sm89")]
    text = rendered(width, lambda console: print_engines(records, console))
    assert text.splitlines()[-1] == f"rtx, failed: {reason}"
    assert text.count("because") == 8


@WIDTHS
def test_doctor(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    table = text[: text.index("Why not")]
    for target in found["targets"]:
        assert_shown(table, width, target["target"], target["build"]["answer"])
    assert_shown(table, width, found["machine"]["python"] + ",")

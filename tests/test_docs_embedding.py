"""The blocks of docs/embedding.md run, and its table names what there is."""

import inspect
import re
import shutil
from pathlib import Path

import pytest
from helpers_ask import export_asked
from helpers_blocks import blocks, run_block

import sttm_export
from sttm_export.runtime.sample_clips import find_sample_clip

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding")
    shutil.move(export_asked(folder, layer=0), folder / "my-bundle")
    shutil.copy(find_sample_clip("carphone"), folder / "holiday.mp4")
    return folder


@pytest.mark.parametrize("number", range(len(blocks(TEXT, tested=True))))
def test_blocks_run(place, number):
    language, code = blocks(TEXT, tested=True)[number]
    assert language == "python"
    run_block(language, code, place)


def test_the_table_has_every_method_and_option():
    table = TEXT.split("| call | gives |")[1].split("\n\n")[0]
    methods = {name for name, value in vars(sttm_export.Pipeline).items() if callable(value) and name[0] != "_"}
    assert methods == set(re.findall(r"pipe\.(\w+)\(", table)) | {"ask_stream"}
    for call, function in (
        ("load", sttm_export.load),
        ("run", sttm_export.Pipeline.run),
        ("ask", sttm_export.Pipeline.ask),
    ):
        row = re.search(rf"`(?:pipe\.)?{call}\(([^`]*)\)`", table)[1]
        options = [name for name in inspect.signature(function).parameters if name != "self"]
        assert re.findall(r"\w+", row) == options, call


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link

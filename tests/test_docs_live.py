"""docs/live.md against the program: its commands run or name real options, records and codes are those of the code."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
from helpers_blocks import blocks, run_block

from sttm_export import program
from sttm_export.cli import build_parser
from sttm_export.errors import UserError
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.streams.camera import PAUSES
from sttm_export.streams.pictures import MOST_DAMAGED
from sttm_export.streams.records import read_windows
from sttm_export.streams.status import RECENT

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "live.md").read_text(encoding="utf-8")


def test_marked_blocks_run_and_records_have_what_is_named(tiny_bundle, tmp_path):
    (tmp_path / "my-bundle").symlink_to(tiny_bundle)
    shutil.copy(find_sample_clip("carphone"), tmp_path / "holiday.mp4")
    for language, code in blocks(TEXT, tested=True):
        run_block(language, code, tmp_path)
    windows = [np.load(path) for path in sorted((tmp_path / "windows").iterdir())]
    streamed = list(read_windows(io.BytesIO((tmp_path / "windows.stream").read_bytes())))
    assert len(streamed) == 4
    rows = re.findall(r"^\| (`.*`) \|", TEXT.split("| in `record`")[1].split("\n\n")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    assert {"window", "frames", "stream.dropped", "stream.latency"} <= named
    for record in [json.loads(str(windows[-1]["record"])), streamed[-1].facts]:
        found = {*record, *(f"stream.{name}" for name in record["stream"])}
        # `reopened` is counted of what can break off, which a file cannot.
        assert named - found <= {"stream.reopened"}


def test_commands_that_are_not_run_name_real_options():
    parser = build_parser()
    commands = [line for _, code in blocks(TEXT, tested=False) for line in code.splitlines()]
    assert len(commands) == 2
    for command in commands:
        parser.parse_args(shlex.split(command.split(" | ")[0])[1:])


def test_numbers_are_those_of_the_code():
    assert "again after 1, 2, 4, 8, 16\n  and then every 30 s" in TEXT
    assert PAUSES == (1, 2, 4, 8, 16, 30)
    assert f"taken again after {MOST_DAMAGED}." in TEXT
    assert f"the last {RECENT} windows" in TEXT
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)]
    assert codes == [0, UserError.exit_code, program.INTERRUPTED, program.CLOSED_PIPE]

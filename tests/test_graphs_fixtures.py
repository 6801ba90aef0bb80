import hashlib
import time

import numpy as np
import pytest
from helpers_graphs import tiny_inputs, tiny_spec

from sttm_export.contracts.graph import GraphSpec
from sttm_export.errors import UserError
from sttm_export.graphs.fixtures import read_fixture, write_fixture

OUTPUTS = {
    "tokens": np.ones((4, 4, 32), np.float32),
    "num_tokens": np.array(3, np.int32),
    "assignment": np.arange(16, dtype=np.int32).reshape(4, 4),
    "converged": np.array(True),
}


def test_what_was_written_is_read(tmp_path):
    path = write_fixture(tmp_path / "fixtures" / "tiny.npz", tiny_spec(), tiny_inputs(), OUTPUTS)
    inputs, outputs = read_fixture(path, tiny_spec())
    assert list(inputs) == [t.name for t in tiny_spec().inputs]
    assert list(outputs) == [t.name for t in tiny_spec().outputs]
    for name, array in (tiny_inputs() | OUTPUTS).items():
        got = (inputs | outputs)[name]
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype
        assert got.shape == array.shape


def test_numpy_alone_reads_it(tmp_path):
    path = write_fixture(tmp_path / "tiny.npz", tiny_spec(), tiny_inputs(), OUTPUTS)
    with np.load(path) as archive:
        assert archive.files[:2] == ["input.features", "input.num_frames"]
        assert archive["output.converged"].item() is True


def test_bytes_depend_on_the_content_alone(tmp_path, monkeypatch):
    def digest(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    first = digest(write_fixture(tmp_path / "a.npz", tiny_spec(), tiny_inputs(), OUTPUTS))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2_000_000_000))
    # Neither the order of the mappings nor the layout in memory counts.
    inputs = dict(reversed(tiny_inputs().items())) | {"features": np.asfortranarray(tiny_inputs()["features"])}
    assert digest(write_fixture(tmp_path / "b.npz", tiny_spec(), inputs, OUTPUTS)) == first
    changed = OUTPUTS | {"num_tokens": np.array(4, np.int32)}
    assert digest(write_fixture(tmp_path / "c.npz", tiny_spec(), tiny_inputs(), changed)) != first


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"tokens": OUTPUTS["tokens"]}, "output tensors are"),
        (OUTPUTS | {"extra": np.zeros(1)}, "output tensors are"),
        (
            OUTPUTS | {"num_tokens": np.array([3], np.int32)},
            r"output 'num_tokens' is int32 \[1\], declared is int32 \[\]",
        ),
        (OUTPUTS | {"num_tokens": np.array(3)}, r"output 'num_tokens' is int64 \[\], declared is int32 \[\]"),
    ],
)
def test_only_what_is_declared_is_written(tmp_path, outputs, message):
    with pytest.raises(ValueError, match=message):
        write_fixture(tmp_path / "x.npz", tiny_spec(), tiny_inputs(), outputs)
    assert not list(tmp_path.iterdir())


def test_missing_damaged_or_foreign_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="is missing; export the bundle again"):
        read_fixture(tmp_path / "none.npz", tiny_spec())
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="is damaged"):
        read_fixture(tmp_path / "text.npz", tiny_spec())
    path = write_fixture(tmp_path / "tiny.npz", tiny_spec(), tiny_inputs(), OUTPUTS)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="is damaged"):
        read_fixture(path, tiny_spec())


def test_fixture_of_other_shapes_is_a_user_error(tmp_path):
    path = write_fixture(tmp_path / "tiny.npz", tiny_spec(), tiny_inputs(), OUTPUTS)
    with pytest.raises(
        UserError, match=r"was made for another graph than tiny: input 'features' is float32 .* declared is float16"
    ):
        read_fixture(path, tiny_spec("float16"))


def test_an_array_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "p.npz", **{"input.x": np.array([{}], dtype=object)})
    with pytest.raises(UserError, match="is damaged"):
        read_fixture(tmp_path / "p.npz", GraphSpec("p", (), ()))


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f2', 'shape': (", b"{'descr': [], 'shape': 3}", b"{" * 5000, b"\xff" * 64, b""]
)
def test_a_member_whose_header_is_damaged(tmp_path, header):
    """NumPy raises whatever its reader of Python literals meets; all of it is a damaged file."""
    import struct
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("input.x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
    with pytest.raises(UserError, match=r"a\.npz is (damaged|made for another graph)"):
        read_fixture(tmp_path / "a.npz", tiny_spec())

"""A bundle is a closed set: no name in it leads out, and nothing else lies in it."""

import json

import pytest
from helpers_bundles import make_bundle

from sttm_export.bundle.opened import open_bundle
from sttm_export.bundle.sums import write_sums
from sttm_export.cli import main
from sttm_export.errors import UserError

OUT = ["/etc/hostname", "../secret", "fixtures/../../secret", "a\\b", "a\nb", "", "."]


def reopen(bundle, **fields):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | fields))
    write_sums(bundle, ["a.onnx", "manifest.json"])
    return open_bundle(bundle)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle beside a file that is none of its business; nothing but manifest and sums may be opened."""
    (tmp_path / "secret").write_text("secret")
    return make_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", OUT)
def test_a_manifest_names_files_of_its_own(bundle, name):
    with pytest.raises(UserError, match=r"manifest\.json names .*copy the bundle anew"):
        reopen(bundle, files=[{"path": name, "sha256": "0", "bytes": 1}])


@pytest.mark.parametrize("name", [*OUT, "fixtures/a", ".a"])
def test_graphs_have_names_of_their_own(bundle, name):
    encoder, merger = json.loads((bundle / "manifest.json").read_text())["graphs"]
    with pytest.raises(UserError, match="'graphs' must have vision_encoder, token_merger, each once, got "):
        reopen(bundle, graphs=[encoder | {"name": name}, merger])


@pytest.mark.parametrize("name", [name for name in OUT if "\n" not in name])
def test_sums_name_files_of_their_own(bundle, name, monkeypatch):
    hashed = []
    monkeypatch.setattr("sttm_export.bundle.sums.sha256_of", hashed.append)
    with (bundle / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(UserError, match="SHA256SUMS names"):
        open_bundle(bundle)
    assert hashed == []


def test_a_link_out_of_a_bundle_is_not_followed(bundle):
    (bundle / "a.onnx").unlink()
    (bundle / "a.onnx").symlink_to(bundle.parent / "secret")
    with pytest.raises(UserError, match=r"names 'a.onnx', which is a link out of"):
        open_bundle(bundle)


def test_what_is_in_no_sum_is_named(bundle, capsys):
    open_bundle(bundle)
    (bundle / "notes.txt").write_text("mine")
    (bundle / "sitecustomize.py").write_text("import this")
    assert main(["inspect", str(bundle)]) == 2
    message = capsys.readouterr().err
    assert "holds 'notes.txt', which is in no SHA256SUMS and not of the bundle, nor are 1 more; move it" in message
    open_bundle(bundle, verify=False)

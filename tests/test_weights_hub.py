"""The hub, played by a fake: what is fetched, and what each failure says."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from helpers_networks import load_checkpoint, tiny_model, tiny_state, write_checkpoint
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from sttm_export.errors import UserError
from sttm_export.weights.sources import resolve_checkpoint

MODEL = tiny_model()
STATE = tiny_state(MODEL)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves one directory as a repository and records what is downloaded."""

    def __init__(self, directory):
        self.directory, self.fetched, self.revisions = directory, [], []

    def model_info(self, repository, revision=None):
        self.revisions.append(revision)
        names = [path.name for path in self.directory.iterdir()]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in [*names, "sub/x.bin"]])

    def download(self, repository, name, revision=None):
        assert revision == COMMIT
        self.fetched.append(name)
        return str(self.directory / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "served", MODEL, STATE, shards=3)
    fake = FakeHub(tmp_path / "served")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    return fake


def failing(error):
    def call(*args, **kwargs):
        raise error

    return call


def http_error(kind):
    """The hub client changed its HTTP library twice; its errors only look at these attributes."""
    return kind("not found", response=SimpleNamespace(headers={}, request=None))


def test_fetches_config_index_and_needed_shards_only(hub):
    state, source = load_checkpoint(MODEL, "example/tiny-video")
    assert list(state) == list(STATE)
    assert hub.fetched[:2] == ["config.json", "model.safetensors.index.json"]
    assert sorted(set(hub.fetched[2:])) == ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
    assert (source.identifier, source.revision) == ("example/tiny-video", COMMIT)
    assert source.describe().startswith("checkpoint example/tiny-video at 0123456789ab (sha256 ")


def test_revision_is_passed_on(hub):
    resolve_checkpoint("example/tiny-video@v1.0")
    assert hub.revisions == ["v1.0"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(RepositoryNotFoundError), "neither a directory nor a public hub repository example/x"),
        (http_error(GatedRepoError), "example/x is gated; accept its terms"),
        (http_error(RevisionNotFoundError), "no such revision"),
        (ConnectionError("name resolution failed"), r"ConnectionError: name resolution failed\); check the connection"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError(), "RuntimeError: no reason given"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failures_to_open(hub, error, message):
    hub.model_info = failing(error)
    with pytest.raises(UserError, match=message) as caught:
        resolve_checkpoint("example/x")
    assert "\n" not in str(caught.value)


def test_failure_in_mid_download(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(TimeoutError("timed out")))
    with pytest.raises(UserError, match=r"Could not fetch config\.json of example/x .*TimeoutError"):
        load_checkpoint(MODEL, "example/x")


def test_offline_uses_the_cache(hub, monkeypatch):
    def cached(repository, name, revision=None):
        return str(hub.directory / name) if name == "config.json" else None

    hub.model_info = failing(ConnectionError("offline"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    state, source = load_checkpoint(MODEL, "example/tiny-video")
    assert list(state) == list(STATE)
    assert (source.identifier, source.revision) == ("example/tiny-video", "served")


def test_a_missing_repository_is_not_looked_up_in_the_cache(hub, monkeypatch):
    hub.model_info = failing(http_error(RepositoryNotFoundError))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", failing(AssertionError("looked up")))
    with pytest.raises(UserError, match="neither a directory"):
        resolve_checkpoint("example/x")


@pytest.mark.parametrize("source", ["no-such-directory", "./a/b", "/no/such/dir", "a/b/c", "", "a b/c", "-x/y"])
def test_text_that_is_neither_directory_nor_hub_id(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source:
        with pytest.raises(UserError, match="neither an existing directory nor a hub id"):
            resolve_checkpoint(source)
    else:
        with pytest.raises(UserError, match="is empty"):
            resolve_checkpoint(source)


def test_a_file_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(UserError, match="is a file; give the directory"):
        resolve_checkpoint(str(path))


def test_local_directory_needs_no_hub_client(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    write_checkpoint(tmp_path, MODEL, STATE)
    load_checkpoint(MODEL, str(tmp_path))

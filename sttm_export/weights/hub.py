"""Hugging Face hub: list a repository with one request, then download single files; from the cache when offline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sttm_export.errors import UserError
from sttm_export.weights.files import CheckpointFiles, LocalFiles

# A snapshot in the cache is recognised by any one of these.
_MARKERS = ("config.json", "model.safetensors.index.json", "model.safetensors")


@dataclass(frozen=True)
class HubFiles:
    """One commit of a repository."""

    identifier: str
    revision: str
    listing: tuple[str, ...]

    def names(self) -> list[str]:
        """Names of the files at the top of the repository."""
        return [name for name in self.listing if "/" not in name]

    def path(self, name: str) -> Path:
        """Download one file, or find it in the cache."""
        import huggingface_hub

        with _as_user_errors(self.identifier, name):
            return Path(huggingface_hub.hf_hub_download(self.identifier, name, revision=self.revision))


def open_repository(repository: str, revision: str | None) -> CheckpointFiles:
    """Return a repository's files, from the cache if the hub cannot be reached but has been read before.

    Raises:
        UserError: no such repository or revision, no access to it, or no connection and nothing in the cache.
    """
    import huggingface_hub

    try:
        with _as_user_errors(repository, "the file list"):
            info = huggingface_hub.HfApi().model_info(repository, revision=revision)
    except _UnreachableError:
        cached = _cached(repository, revision)
        if cached is None:
            raise
        return cached
    return HubFiles(repository, info.sha or "", tuple(file.rfilename for file in info.siblings or ()))


class _UnreachableError(UserError):
    """No answer, as opposed to the answer no."""


def _cached(repository: str, revision: str | None) -> LocalFiles | None:
    import huggingface_hub

    for name in _MARKERS:
        found = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            snapshot = Path(found).parent
            return LocalFiles(snapshot, repository, snapshot.name)
    return None


@contextmanager
def _as_user_errors(repository: str, what: str) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"{repository} is gated; accept its terms on the hub, log in with `hf auth login`, and run again."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repository} has no such revision; give an existing one, or none for the newest.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is neither a directory nor a public hub repository {repository}; check the spelling of --weights, "
            "or log in with `hf auth login` if it is private."
        ) from error
    # The hub client lets through whatever its HTTP stack, the disk or the cache raise; all of it means the same here.
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise _UnreachableError(
            f"Could not fetch {what} of {repository} from the hub ({type(error).__name__}: {reason}); check the "
            "connection, or download the repository elsewhere and give its directory with --weights."
        ) from error

"""`engines/<target>/` of a bundle: what was built for one target, by an export, by `build` or on the device.

A target's directory is whole in itself (engines, sidecars, logs, `engines.json`, `SHA256SUMS`) and is moved in by one
rename, so that the rest of the bundle never changes after its export.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sttm_export.bundle.records import EngineIndex, EngineRecord
from sttm_export.bundle.sums import SUMS, write_sums
from sttm_export.contracts.records import read_json, read_record
from sttm_export.errors import UserError
from sttm_export.files.locks import locked_directory
from sttm_export.files.names import check_component, check_links, check_name
from sttm_export.files.staging import give_name, partial_path, recover, remove_tree, sweep

ENGINES = "engines"
INDEX = "engines.json"
# Kernel times that full TensorRT measured, for the next build of the target.
TIMINGS = "timing.cache"


def engine_targets(bundle: Path) -> list[str]:
    """Names of the targets that something is known of, sorted."""
    folder = bundle / ENGINES
    return sorted(path.parent.name for path in folder.glob(f"*/{INDEX}") if not path.parent.name.startswith("."))


def read_records(bundle: Path, target: str) -> list[EngineRecord]:
    """Records of one target; empty if nothing is known of it.

    Raises:
        UserError: the index is damaged, or names files that are not the target's.
    """
    path, again = bundle / ENGINES / target / INDEX, f"build the engines again with sttm-export build {bundle} --force"
    if not path.exists():
        return []
    try:
        rows = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}; {again}.") from error
    faults: list[str] = []
    index: EngineIndex | None = read_record(EngineIndex, {"engines": rows}, faults)
    if index is None:
        raise UserError(f"{path} is damaged: {'; '.join(faults[:3])}; {again}.")
    _check_names(bundle, target, index.engines)
    return list(index.engines)


def _check_names(bundle: Path, target: str, records: Sequence[EngineRecord]) -> None:
    """Refuse an index that names files of another directory than its own, before any of them is opened."""
    source = f"{ENGINES}/{target}/{INDEX}"
    for record in records:
        check_component(record.graph, source)
        if record.target != target:
            raise UserError(f"{source} names '{record.target}', which is another target; copy the bundle anew.")
        for name in filter(None, (record.file, record.log)):
            if not check_name(name, source).startswith(f"{target}/") or name.count("/") > 1:
                raise UserError(f"{source} names '{name}', which is not of {target}; copy the bundle anew.")
            check_links(bundle / ENGINES / target, name.removeprefix(f"{target}/"), source)


def seal_target(folder: Path, records: Sequence[EngineRecord]) -> None:
    """Write index and sums into a target's directory; the last step before it is moved in."""
    folder.mkdir(parents=True, exist_ok=True)
    index = json.dumps([record.to_json() for record in records], indent=1, sort_keys=True) + "\n"
    (folder / INDEX).write_text(index, encoding="utf-8")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    write_sums(folder, [path.relative_to(folder).as_posix() for path in files])


def clear_engines(bundle: Path, target: str) -> list[str]:
    """Put back, or remove, what builds of a target that were killed have left; to be called by who holds the lock.

    Returns:
        What to tell the user: empty where nothing was to be done.
    """
    return [*recover(bundle / ENGINES / target), *sweep(bundle / ENGINES / target)]


def only_builder(bundle: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the right to change the engines of a bundle until the end of the block.

    Raises:
        UserError: another process has it.
    """
    return locked_directory(bundle, f"Engines are built into {bundle} by another process; wait for its end.")


@contextlib.contextmanager
def engines_staging(bundle: Path, target: str) -> Iterator[Path]:
    """Yield a temporary directory of the name `<target>`, in place of `engines/<target>`, for the files of one build.

    Its parent plays the engines' directory, so that paths in records are the final ones. Whatever ends the block
    removes both, unless `publish_engines` has moved the target's directory in.

    Raises:
        UserError: the bundle cannot be written to.
    """
    partial = partial_path(bundle / ENGINES / target)
    made_parent = not partial.parent.exists()
    try:
        (partial / target).mkdir(parents=True)
    except OSError as error:
        raise UserError(f"Cannot write to {bundle} ({error.strerror}); copy the bundle to a writable place.") from error
    try:
        yield partial / target
    finally:
        remove_tree(partial)
        if made_parent:
            with contextlib.suppress(OSError):
                partial.parent.rmdir()


def publish_engines(bundle: Path, target: str, partial: Path, records: Sequence[EngineRecord]) -> Path:
    """Seal a staged target and give it its place; what was there before goes only after the new one stands."""
    seal_target(partial, records)
    final = bundle / ENGINES / target
    give_name(partial, final)
    return final

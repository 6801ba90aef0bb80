"""Where a bundle goes: what may be replaced, one export at a time, and a directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sttm_export.bundle.opened import bundle_around, is_bundle, open_bundle, uncovered_files
from sttm_export.errors import UserError
from sttm_export.files.locks import locked_beside, locked_directory
from sttm_export.files.staging import give_name, partial_path, recover, remove_tree, sweep

_ELSEWHERE = "choose another --output"
# Bytes; a directory is made under its name with `.partial-<process>` and may be kept with `.rejected-<number>`.
_LONGEST_NAME = 200


def check_output(output: Path, force: bool) -> None:
    """Refuse, before any work, an output directory that is in the way or cannot be made.

    Raises:
        UserError: something is there without `force`, or is not a bundle of this program with nothing else in it; the
            output would lie in a bundle; its parent is not writable.
    """
    if output.name in {"", ".."}:
        raise UserError(f"{output} is no name for a bundle; give --output a directory of its own.")
    if output.is_symlink():
        raise UserError(f"{output} is a link, which an export does not follow or replace; {_ELSEWHERE}.")
    if len(os.fsencode(output.name)) > _LONGEST_NAME:
        raise UserError(f"The name {output.name[:40]}… is too long; {_ELSEWHERE} of at most {_LONGEST_NAME} bytes.")
    around = bundle_around(output)
    if around is not None:
        raise UserError(f"{output} would lie in the bundle {around}, which holds nothing else; {_ELSEWHERE}.")
    if output.exists() and not force:
        raise UserError(f"{output} exists already; {_ELSEWHERE}, or replace it with --force.")
    _check_replaceable(output)
    parent = next(folder for folder in (output.parent, *output.parent.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"Cannot write to {parent}; choose an --output below a directory that is writable.")


@contextlib.contextmanager
def staging(output: Path, force: bool, say: Callable[[str], None]) -> Iterator[Path]:
    """Yield a temporary directory beside `output`; whatever ends the block early removes it.

    Until the end of the block no other export of this program makes the same output. What an earlier one that was
    killed has left is removed, or put back if it is the bundle that it was about to replace.

    Args:
        output: the bundle's directory.
        force: whether a bundle that is there may be replaced.
        say: is told what was swept or put back.

    Raises:
        UserError: another export makes it, or it is in the way.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"Another export is making {output} at this moment; wait for its end, or {_ELSEWHERE}."
    with locked_beside(output, refusal):
        for line in [*recover(output), *sweep(output)]:
            say(line)
        # Once more: another export may have ended since the options were checked.
        check_output(output, force)
        partial = partial_path(output)
        partial.mkdir()
        try:
            yield partial
        finally:
            remove_tree(partial)


def publish(partial: Path, output: Path, force: bool) -> None:
    """Give a whole bundle its name, inside `staging`; one that was there before goes after the new one stands.

    Raises:
        UserError: meanwhile something came to lie there that may not be replaced, or engines are built into it.
    """
    check_output(output, force)
    refusal = f"Engines are built into {output} at this moment; wait for their end, then export again."
    with locked_directory(output, refusal):
        give_name(partial, output)


def keep_rejected(partial: Path, output: Path, force: bool) -> Path:
    """Keep a bundle in which a check missed as `<output>.rejected`, inside `staging`.

    One that is there is replaced only by `force`, and only if it is a rejected bundle with nothing else in it;
    otherwise this one is called `<output>.rejected-2`, or the first number that is free.

    Returns:
        Where it is.
    """
    place = output.with_name(f"{output.name}.rejected")
    recover(place)
    sweep(place)
    number = 2
    while os.path.lexists(place) and not (force and _is_rejected(place)):
        place = output.with_name(f"{output.name}.rejected-{number}")
        number += 1
    give_name(partial, place)
    return place


def _check_replaceable(output: Path) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not is_bundle(output):
        raise UserError(f"{output} exists and is no bundle, so --force does not replace it; {_ELSEWHERE}.")
    extra = uncovered_files(output)
    if extra:
        raise UserError(
            f"{output} holds {extra[0]!r}, which is not of the bundle, so --force does not replace it; move that "
            f"elsewhere, or {_ELSEWHERE}."
        )


def _is_rejected(place: Path) -> bool:
    """Whether a directory is a bundle that an export has rejected, and nothing else."""
    if not is_bundle(place) or uncovered_files(place):
        return False
    try:
        return bool(open_bundle(place, verify=False).rejected())
    except UserError:
        return False

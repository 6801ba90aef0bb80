"""Names of files that come from a bundle: they lead to files inside of it, or nothing is opened."""

from __future__ import annotations

from pathlib import Path

from sttm_export.errors import UserError

_AGAIN = "copy the bundle anew from where it was made, or export it again"


def check_name(name: str, source: str) -> str:
    """Return a relative file name with forward slashes, as bundles record them.

    Args:
        name: such as `fixtures/token_merger.npz`.
        source: the file that holds the name, for the message.

    Raises:
        UserError: empty, absolute, with `..`, a backslash or a control character.
    """
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in name or any(ord(sign) < 32 or ord(sign) == 127 for sign in name):
        raise UserError(f"{source} names {name!r}, which is no name of a file inside the bundle; {_AGAIN}.")
    return name


def check_component(name: str, source: str) -> str:
    """Return a name without a slash and without a dot in front, such as that of a graph or target."""
    if "/" in name or name.startswith("."):
        raise UserError(f"{source} names {name!r}, which is no plain name; {_AGAIN}.")
    return check_name(name, source)


def check_links(directory: Path, name: str, source: str) -> None:
    """Refuse a name whose file is a link, or lies behind one, that leads out of the directory.

    Raises:
        UserError: it does; nothing was opened.
    """
    home = directory.resolve()
    try:
        place = (directory / name).resolve()
    except (OSError, RuntimeError) as error:  # a circle of links
        raise UserError(f"{directory / name} is a link that leads nowhere; {_AGAIN}.") from error
    if not place.is_relative_to(home):
        raise UserError(f"{source} names {name!r}, which is a link out of {directory}; {_AGAIN}.")

"""What an option's text may be before anything is done with it."""

from __future__ import annotations

import os
from pathlib import Path

from sttm_export.errors import UserError

_LONGEST_NAME, _LONGEST_PATH, _SHOWN = 255, 4095, 40


def path_value(text: str) -> Path:
    """Return the path that an option names; argparse's `type` of every option that takes one.

    Raises:
        UserError: empty, or a name that no file can have or that reports cannot carry.
    """
    return Path(text_value(text))


def text_value(text: str) -> str:
    """Return a text that may be a path, a name or a hub id.

    Raises:
        UserError: as `path_value`.
    """
    shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    if not text:
        raise UserError("A path that was given is empty text; give the path of a file or directory.")
    if "\0" in text:
        raise UserError(f"{shown} holds a NUL character, which no path can have; give another path.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{shown} is not UTF-8, so no report can name it; rename the file or directory.") from error
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > _LONGEST_NAME or len(os.fsencode(text)) > _LONGEST_PATH:
        raise UserError(
            f"{shown} is too long: a name has at most {_LONGEST_NAME} bytes, a path {_LONGEST_PATH}; give another."
        )
    return text

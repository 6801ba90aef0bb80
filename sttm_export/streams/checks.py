"""What cannot be asked of a stream, refused before any work."""

from __future__ import annotations

from sttm_export.errors import UserError


def still_levels(text: str) -> int | None:
    """Read a `--still-tolerance`: levels of grey, or None for `off`.

    Raises:
        UserError: neither.
    """
    try:
        return None if text == "off" else int(text)
    except ValueError as error:
        raise UserError(f"--still-tolerance {text} is none; give levels of grey, 0 to 255, or off.") from error


def check_counts(
    step: int, most: int, *, every: int | None, window: int | None, queue: int, windows: int | None
) -> None:
    """Refuse numbers of frames and windows that are not possible; None is not looked at.

    Args:
        step: frames that the encoder makes one set of features of.
        most: frames that the merger takes.
        every: frames from window to window.
        window: frames of a window.
        queue: frames that may wait.
        windows: after which it ends.

    Raises:
        UserError: names the option.
    """
    for option, number in (("--every", every), ("--window", window)):
        if number is not None and (number < 1 or number % step):
            raise UserError(f"{option} {number} is not possible; give a whole number of frames, a multiple of {step}.")
    longest = window or most
    if every is not None and every > longest:
        raise UserError(
            f"--every {every} is more than the {longest} frames of a window, so that frames would be in none; give at "
            f"most {longest}, or a lower --fps."
        )
    for option, number in (("--queue", queue), ("--windows", windows)):
        if number is not None and number < 1:
            raise UserError(f"{option} {number} is not possible; give a whole number from 1.")

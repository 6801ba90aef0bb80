"""Standard output and error that end no command: what a terminal cannot show is spelled, a closed pipe is quiet."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import sys

CLOSED_PIPE = 141
"""Exit code where the reader of the output is gone, as a shell reports it of other programs (128 + SIGPIPE)."""
_HANDLER = "sttm-export-spelled"
_SPELLED = {
    **{"…": "...", "×": "x", "·": "*", "→": "->", "←": "<-", "±": "+-", "∞": "inf", "√": "sqrt", "²": "^2", "ε": "eps"},
    **{"–": "-", "—": "-", "≤": "<=", "≥": ">=", "≈": "~", "•": "*", "“": '"', "”": '"', "’": "'"},
}


def prepare_streams() -> None:
    """Let standard output and error take every text: ASCII or Latin-1 terminals, and file names that are not UTF-8."""
    codecs.register_error(_HANDLER, _spell)
    for stream in (sys.stdout, sys.stderr):
        # A stream is None where its descriptor was closed, and may be another object in a test or a notebook.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def say_error(line: str) -> None:
    """Print one line on standard error, if anybody still reads it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def output_closed() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    return any(_closed(descriptor) for descriptor in (1, 2))


def end_streams() -> None:
    """Write what is still buffered; what cannot be written is dropped, before the end of Python trips over it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), stream.fileno())
        except ValueError:
            pass  # closed by somebody else: nothing is buffered


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(_plain(character) for character in error.object[error.start : error.end])
    return text, error.end


def _plain(character: str) -> str:
    if 0x2500 <= ord(character) < 0x25A0 or 0x2800 <= ord(character) < 0x2900:
        return "*"  # rules, blocks and the braille of a progress bar
    return _SPELLED.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")


def _closed(descriptor: int) -> bool:
    watch = select.poll()
    watch.register(descriptor, select.POLLOUT)
    return any(event & select.POLLERR for _, event in watch.poll(0))

"""What every program of this package is around its work: signals, exit codes, one line for what went wrong.

Standard output and error end no program: what a terminal cannot show is spelled, a closed pipe is quiet.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType

from sttm_export.errors import Incomplete, UserError, ValidationMiss, out_of_memory

INTERRUPTED = 130
CLOSED_PIPE = 141
"""Exit code where the reader of the output is gone, as a shell reports it of other programs (128 + SIGPIPE)."""
_HANDLER = "sttm-export-spelled"
_SPELLED = {
    **{"…": "...", "×": "x", "·": "*", "→": "->", "←": "<-", "±": "+-", "∞": "inf", "√": "sqrt", "²": "^2", "ε": "eps"},
    **{"–": "-", "—": "-", "≤": "<=", "≥": ">=", "≈": "~", "•": "*", "“": '"', "”": '"', "’": "'"},
}


def run_program(name: str, work: Callable[[], None], *, no_memory: str, no_disk: str) -> int:
    """Do the work of a program and say in one line what ended it early; a fault of the program keeps its traceback.

    Args:
        name: stands before that line.
        work: what it does.
        no_memory: what to do where memory ran out.
        no_disk: what to do where the disk is full.

    Returns:
        0 if all is well, 1 where a numeric check missed or some of many files failed, 2 for bad input, 130 when
        interrupted, 141 where nobody reads the output any more.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A lost terminal or SSH connection is an interruption, too. Under nohup it is none.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    prepare_streams()
    try:
        work()
        print(end="", flush=True)
    except (UserError, ValidationMiss, Incomplete) as error:
        say_error(f"{name}: {error}")
        return error.exit_code
    except KeyboardInterrupt as error:
        # Who leaves something behind on purpose says so.
        say_error(f"{name}: interrupted; {error.args[0] if error.args else 'nothing was left behind'}.")
        return INTERRUPTED
    except BrokenPipeError:
        if not output_closed():
            raise
        return CLOSED_PIPE
    except (MemoryError, RuntimeError, OSError) as error:
        if out_of_memory(error):
            say_error(f"{name}: memory ran out; {no_memory}.")
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            say_error(f"{name}: the disk is full; {no_disk}; nothing was left behind.")
        else:
            raise
        return UserError.exit_code
    finally:
        end_streams()
    return 0


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


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

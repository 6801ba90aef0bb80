"""The families of failure: what a user can fix, a numeric check that did not pass, and some files of many.

Anything else that is raised is a fault of this program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a missing piece. The message is one sentence: what was wrong, what was expected, what to do next."""

    exit_code = 2


class ValidationMiss(Exception):
    """A stage departed from its reference further than its gate allows.

    The message has three lines: what departs; measured against allowed; where the evidence is, how to find the cause.
    """

    exit_code = 1


class Incomplete(Exception):
    """Some of many files failed and the others are done. The message says how many, and where it says why."""

    exit_code = 1


_OUT_OF_MEMORY = ("bad_alloc", "can't allocate memory", "Failed to allocate memory", "Cannot allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in the words of Python, PyTorch or ONNX Runtime."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest valid name, or an empty string, followed by the valid names."""
    names = sorted(valid)
    spelled = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), spelled, n=1, cutoff=0.5)
    hint = f" Did you mean '{spelled[near[0]]}'?" if near else ""
    return f"{hint} Valid: {', '.join(names)}."


def in_lines(lines: Iterable[str]) -> str:
    """Join the lines of a message; all but the first are indented, so that they read as one."""
    return "\n  ".join(line for line in lines if line)


def first_line(error: BaseException) -> str:
    """First line of what a library says, which may go on with paths and a stack; without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]

"""Where questions come from: the command line, a terminal, or a pipe; a line is a question."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from sttm_export.errors import UserError
from sttm_export.language.prompt import question_text

_PROMPT = "question (empty to end): "
_LONGEST_LINE = 2**16


class Questions:
    """Questions one after the other, in the order in which they are asked.

    Args:
        given: on the command line; without any they are read from standard input, to an empty line or its end.

    Raises:
        UserError: one of those given is empty or no text, or nothing is given and standard input has no question.
    """

    def __init__(self, given: Sequence[str]) -> None:
        self.given = [question_text(question) for question in given]
        self.interactive = not given and sys.stdin is not None and sys.stdin.isatty()
        # One line of a pipe is read now: that there is none is found out before any work.
        self._first = "" if given or self.interactive else _read_line()

    @property
    def any(self) -> bool:
        """Whether there is one, as far as is known."""
        return bool(self.given or self.interactive or self._first)

    def __iter__(self) -> Iterator[str]:
        """Yield them; on a terminal each is asked for."""
        yield from self.given
        if self.given:
            return
        line = self._ask() if self.interactive else self._first
        while line:
            yield question_text(line)
            line = self._ask() if self.interactive else _read_line()

    def _ask(self) -> str:
        print(_PROMPT, end="", file=sys.stderr, flush=True)
        line = _read_line()
        if not line:
            print(file=sys.stderr)
        return line


def _read_line() -> str:
    """One line without whitespace around it; empty at the end of the input."""
    if sys.stdin is None:  # its descriptor was closed
        return ""
    try:
        line = sys.stdin.readline(_LONGEST_LINE)
    except UnicodeDecodeError as error:
        raise UserError("Standard input is no valid UTF-8 text; check its encoding.") from error
    except OSError as error:  # a directory, or a terminal that is gone
        raise UserError(f"Standard input cannot be read ({error.strerror or error}); give a question.") from error
    if len(line) == _LONGEST_LINE:
        raise UserError(f"A line of standard input has more than {_LONGEST_LINE} characters; ask in fewer words.")
    return line.strip()

"""How the kit says how far a stream is: a line that changes on a terminal, a line a minute in a log."""

import io

from helpers_streams import Clock

from sttm_export.kit.telling import Telling


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_has_a_line_a_minute():
    file, clock = io.StringIO(), Clock()
    with Telling(file, clock) as telling:
        for second in range(121):
            clock.now = 100.0 + second
            telling.show(f"{second} windows")
        telling.say("what stays")
    assert file.getvalue().splitlines() == ["0 windows", "60 windows", "120 windows", "what stays"]


def test_a_terminal_has_one_line_that_changes():
    file = Terminal()
    with Telling(file, Clock()) as telling:
        telling.show("1 window, 3 dropped")
        telling.show("2 windows")
        telling.say("what stays")
        telling.show("3 windows")
    gap = " " * (len("1 window, 3 dropped") - len("2 windows"))
    assert file.getvalue() == f"\r1 window, 3 dropped\r2 windows{gap}\nwhat stays\n\r3 windows\n"

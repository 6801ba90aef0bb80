"""Records what was called, in memory and, where STTM_STANDIN_LOG names a file, one JSON line a call."""

import json
import os

calls = []


def record(name, *arguments, **named):
    """Note a call; arguments that JSON has no form for are written by their type."""
    plain = [
        argument if isinstance(argument, (str, int, float, bool, type(None))) else type(argument).__name__
        for argument in arguments
    ]
    row = {"call": name, "arguments": plain, **named}
    calls.append(row)
    path = os.environ.get("STTM_STANDIN_LOG")
    if path:
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be imported before anything else
            file.write(json.dumps(row) + "\n")


def names():
    """The functions that were called, in order."""
    return [row["call"] for row in calls]

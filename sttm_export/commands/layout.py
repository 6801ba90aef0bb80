"""Tables that fit their terminal: folded at spaces while every word has room, else each row as a list of its values.

Rich would cut or break words where a table is too wide. What stands in these tables are names and numbers that one
searches for or copies, so no word is ever broken while there is another way to show it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Cell = str | Text


def print_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under headings; columns without any value are left out."""
    used = [place for place in range(len(headings)) if any(len(row[place]) for row in rows)]
    headings, rows = [headings[place] for place in used], [[row[place] for place in used] for row in rows]
    widths = column_widths([headings, *rows], console.width)
    if widths is None:
        _print_lists(console, title, headings, rows)
        return
    table = Table(title=title)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_facts(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values; a value that is too long for one line goes on below itself."""
    table = Table(title=title, show_header=False)
    names = max(len(name) for name, _ in rows)
    longest = max(len(line) for _, value in rows for line in value.split("\n"))
    table.add_column(width=names)
    table.add_column(width=max(1, min(longest, console.width - names - _overhead(2))), overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def column_widths(rows: Sequence[Sequence[Cell]], room: int) -> list[int] | None:
    """Return a width for every column, none below its longest word; None where even that is too wide.

    Args:
        rows: all of one length, the headings among them.
        room: columns of the terminal.
    """
    columns = [[str(cell) for cell in column] for column in zip(*rows, strict=True)]
    widths = [max(len(word) for cell in column for word in [*cell.split(), "-"]) for column in columns]
    left = room - _overhead(len(columns)) - sum(widths)
    if left < 0:
        return None
    open_columns = set(range(len(columns)))
    while open_columns:
        # Rows are as tall as their tallest cell: the column that is folded most gets what unfolds it by one line.
        place = max(sorted(open_columns), key=lambda place: _height(columns[place], widths[place]))
        now = _height(columns[place], widths[place])
        more = next((n for n in range(1, left + 1) if _height(columns[place], widths[place] + n) < now), None)
        if more is None:
            open_columns.remove(place)
            continue
        widths[place] += more
        left -= more
    return widths


def _height(cells: Sequence[str], width: int) -> int:
    """Lines of the tallest cell in a column of this width."""
    lines = [cell.split("\n") for cell in cells]
    return max(sum(max(1, len(textwrap.wrap(line, width, break_on_hyphens=False))) for line in cell) for cell in lines)


def _overhead(columns: int) -> int:
    """Lines between columns, and a space on both sides of each cell."""
    return 3 * columns + 1


def _print_lists(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    console.print(Text(title, "italic", overflow="fold"))
    for row in rows:
        console.print(Text.assemble("- ", row[0], overflow="fold"))
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            if len(cell):
                text = Text.assemble(f"{heading}: " if heading else "", cell, overflow="fold")
                console.print(Padding(text, (0, 0, 0, 4), expand=False))

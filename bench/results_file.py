"""A result file with one row a line: many small rows stay readable, and short."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench import machine
from sttm_export.errors import UserError

Row = dict[str, Any]


def write_rows(path: Path, about: Mapping[str, Any], **tables: Iterable[Row]) -> None:
    """Write what it was measured on, what is told about it, and tables of rows.

    Args:
        path: the file.
        about: more keys of the file.
        tables: rows by their key.
    """
    head = json.dumps({**machine.describe(), **about}, indent=1, ensure_ascii=False)[:-2]
    parts = [f' "{name}": [\n  {_lines(rows)}\n ]' for name, rows in tables.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head},\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def draw_result(path: Path, maker: str, draw: Callable[[dict[str, Any]], None]) -> int:
    """Draw what a result file of the module `maker` holds; 2 where there is nothing to draw."""
    try:
        if not path.is_file():
            raise UserError(f"There is no result file {path}; make one with python -m {maker}.")
        draw(json.loads(path.read_text(encoding="utf-8")))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def short(value: float) -> float:
    """Four digits, which is more than a decision needs, and less than processors differ in."""
    return float(f"{value:.4g}")


def _lines(rows: Iterable[Row]) -> str:
    return ",\n  ".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)

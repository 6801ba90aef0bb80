"""Where the data rooms `models/` and `calibration/` lie, and reading their TOML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sttm_export.contracts.records import read_regular
from sttm_export.errors import UserError

_LARGEST_TOML = 2**20
PACKAGE = Path(__file__).resolve().parent.parent


def data_directory(name: str) -> Path:
    """Return a data room, or the LICENSE: inside an installed wheel, or beside the package in a checkout."""
    installed = PACKAGE / "data" / name
    return installed if installed.exists() else PACKAGE.parent / name


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file; a missing or malformed file is a `UserError` that names the line."""
    # Here and not above: the device kit reads specs from JSON, and Python 3.10 on a Jetson has no reader for TOML.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = read_regular(path, _LARGEST_TOML).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; give the path of a TOML file.") from error
    except ValueError as error:
        raise UserError(f"Cannot read {path}: {error}; give the path of a TOML file.") from error
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UserError(f"{path} is nested without end; give a TOML file like those of models/.") from error
    except ValueError as error:  # also an integer of more digits than Python reads
        raise UserError(f"{path} is not valid TOML ({error}); correct that line.") from error

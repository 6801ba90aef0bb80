"""The one typed reader: plain values of a JSON or TOML file → frozen dataclasses, with every fault in one message.

A field's annotation is its contract: plain types, `X | None`, `Literal`, tuples, `dict[str, X]`, other dataclasses, and
`Annotated` with a `Range`. A field with a default may be missing.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from sttm_export.errors import UserError

LARGEST_FILE = 64 * 2**20
"""Bytes; a manifest of thousands of files has less than one of these 64 MiB."""
_SHOWN = 60


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included unless `above` says that the lower one is not."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether the number lies inside; NaN lies nowhere."""
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        """`1 to 4096`, `above 0, at most 1000`."""
        return f"above {self.low:g}, at most {self.high:g}" if self.above else f"{self.low:g} to {self.high:g}"


Size = Annotated[int, Range(1, 2**20)]
Dimension = Annotated[int, Range(1, 2**31)]
Count = Annotated[int, Range(0, 2**62)]
Share = Annotated[float, Range(0.0, 1.0, above=True)]
Cosine = Annotated[float, Range(-1.0, 1.0)]
Number = Annotated[Any, "a number, or its name as text"]
"""A measured figure: JSON has no infinities, so those are written as text."""


def read_regular(path: Path, limit: int = LARGEST_FILE) -> bytes:
    """Return the bytes of a regular file; a FIFO or device is not opened, which could wait for ever.

    Raises:
        ValueError: says in a few words what is there instead.
    """
    try:
        if not path.exists():
            raise ValueError("there is no such file")
        if not path.is_file():
            raise ValueError("it is no regular file")
        size = path.stat().st_size
        if size > limit:
            raise ValueError(f"it has {size} bytes, at most {limit} were expected")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def read_json(path: Path, limit: int = LARGEST_FILE) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: says in a few words why it cannot be read.
    """
    return parse_json(read_regular(path, limit))


def parse_json(content: bytes) -> Any:
    """Return the value of the bytes of a JSON file; raises as `read_json`."""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except RecursionError as error:
        raise ValueError("it is nested without end") from error


def read_record(kind: type, data: Any, faults: list[str], *, where: str = "", strict: bool = False) -> Any:
    """Fill a dataclass from a table, collecting every fault instead of stopping at the first.

    Args:
        kind: a dataclass.
        data: plain values, as JSON or TOML gives them.
        faults: one phrase is added for everything that is wrong.
        where: path of the table in its file, with a dot at its end; for messages.
        strict: whether a key that the dataclass does not have is a fault.

    Returns:
        The record; None where a fault was added.
    """
    if not isinstance(data, Mapping):
        faults.append(f"'{where.rstrip('.') or 'the file'}' must be a table, got {_shown(data)}")
        return None
    before, values = len(faults), {}
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    if strict:
        faults.extend(f"unknown key '{where}{key}'" for key in sorted(map(str, set(data) - set(known))))
    for name, field in known.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], where + name, faults, strict)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"missing '{where}{name}'")
    if len(faults) > before:
        return None
    try:
        return kind(**values)
    except UserError as error:  # values that are possible one by one, not together
        faults.append(str(error).rstrip("."))
        return None


def _convert(hint: Any, value: Any, where: str, faults: list[str], strict: bool) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1], value, where, faults)
    if origin in {typing.Union, types.UnionType}:
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _convert(inner, value, where, faults, strict)
    if origin is tuple:
        return _sequence(arguments, value, where, faults, strict)
    if origin in {dict, Mapping}:
        return _table(arguments[1], value, where, faults, strict)
    if dataclasses.is_dataclass(hint):
        return read_record(typing.cast(type, hint), value, faults, where=f"{where}.", strict=strict)
    return _plain(hint, value, where, faults)


def _plain(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    if kind is Any:
        return value
    if typing.get_origin(kind) is Literal:
        valid = typing.get_args(kind)
        if not isinstance(value, str) or value not in valid:
            faults.append(f"'{where}' must be {' or '.join(map(repr, valid))}, got {_shown(value)}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else float("inf")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        faults.append(f"'{where}' must be {kind.__name__}, got {_shown(value)}")
    return value


def _bounded(kind: Any, bounds: Any, value: Any, where: str, faults: list[str]) -> Any:
    if kind is Any:
        try:
            float(value)
        except (TypeError, ValueError, OverflowError):
            faults.append(f"'{where}' must be {bounds}, got {_shown(value)}")
        return value
    before = len(faults)
    value = _plain(kind, value, where, faults)
    if len(faults) == before and value not in bounds:
        faults.append(f"'{where}' must be {bounds}, got {_shown(value)}")
    return value


def _sequence(arguments: tuple[Any, ...], value: Any, where: str, faults: list[str], strict: bool) -> Any:
    if not isinstance(value, (list, tuple)):
        faults.append(f"'{where}' must be a list, got {_shown(value)}")
        return ()
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        faults.append(f"'{where}' must have {len(kinds)} values, got {len(value)}")
        return ()
    pairs = zip(kinds, value, strict=True)
    return tuple(_convert(kind, row, f"{where}[{i}]", faults, strict) for i, (kind, row) in enumerate(pairs))


def _table(kind: Any, value: Any, where: str, faults: list[str], strict: bool) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        faults.append(f"'{where}' must be a table, got {_shown(value)}")
        return {}
    return {str(key): _convert(kind, row, f"{where}.{key}", faults, strict) for key, row in value.items()}


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end, or an integer of more digits than Python prints
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

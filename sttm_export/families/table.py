"""Reading the table `architecture` of a model file, which is the family's own. No PyTorch here."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.records import read_record
from sttm_export.errors import UserError

T = TypeVar("T")


def read_table(kind: type[T], data: Any, faults: list[str]) -> T:
    """Fill a family's dataclass; `faults` gets a phrase for all that is wrong, and then the return is None."""
    return cast(T, read_record(kind, data, faults, where="architecture.", strict=True))


def table_of(kind: type[T], model: ModelSpec, title: str) -> T:
    """Return the table of a model that has no faults.

    Raises:
        UserError: it is no model of the family, which has the title.
    """
    faults: list[str] = []
    table = read_table(kind, model.architecture, faults)
    if faults:
        raise UserError(f"{model.name} is no {title} model: {'; '.join(faults)}.")
    return table

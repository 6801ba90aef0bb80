"""Finding a family by the name that a model file gives, and model files by theirs.

A family is a folder here: `architecture.py`, which reads and checks the family's table of a model file without PyTorch,
and `family.py`, which holds its `FAMILY`. Nothing else lists it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sttm_export import families
from sttm_export.contracts.data import data_directory, read_toml
from sttm_export.contracts.model import ModelSpec, inconsistencies
from sttm_export.contracts.records import read_record
from sttm_export.errors import UserError, did_you_mean
from sttm_export.families.table import read_table

if TYPE_CHECKING:
    from sttm_export.contracts.recipe import Recipe
    from sttm_export.families.part import Family, Part


def family_names() -> list[str]:
    """Families there are, as model files name them."""
    return sorted(row.name.replace("_", "-") for row in pkgutil.iter_modules(families.__path__) if row.ispkg)


def family_of(model: ModelSpec) -> Family:
    """Return the family of a model; imports PyTorch.

    Raises:
        UserError: a model that its family has no networks for.
    """
    if faults := faults_of(model):
        raise UserError(f"{model.name} is not a model that can be exported: {'; '.join(faults)}; export it again.")
    return cast("Family", _module(model.family, "family").FAMILY)


def parts_of(recipe: Recipe) -> tuple[Part, ...]:
    """Parts of a model in the order of the data; imports PyTorch."""
    return family_of(recipe.model).parts(recipe)


def model_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in data_directory("models").glob("*.toml"))


def load_model(name_or_path: str) -> ModelSpec:
    """Return the model of that name, or the one described by a TOML file of the same form.

    Raises:
        UserError: unknown name (with the nearest one), or a file with faults (all of them in one message).
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in model_names():
        path = data_directory("models") / f"{name_or_path}.toml"
    else:
        raise UserError(f"Unknown model '{name_or_path}'.{did_you_mean(name_or_path, model_names())}")
    return _checked(read_toml(path), str(path))


def faults_of(model: ModelSpec) -> list[str]:
    """What no model of its family can be; empty for one that can be exported."""
    faults = inconsistencies(model)
    if model.family not in family_names():
        return [*faults, f"unknown family '{model.family}'.{did_you_mean(model.family, family_names())}".rstrip(".")]
    return [*faults, *_module(model.family, "architecture").faults_of(model)]


def _checked(data: Mapping[str, Any], source: str) -> ModelSpec:
    faults: list[str] = []
    model = read_record(ModelSpec, data, faults, strict=True)
    if faults and data.get("family") in family_names():
        # Its own table is named in the same message.
        table = _module(data["family"], "architecture").Table
        read_table(table, data.get("architecture"), faults)
    elif not faults:
        faults = faults_of(model)
    if faults:
        raise UserError(f"{source} does not describe a model: {'; '.join(faults)}. Compare with a file of models/.")
    return cast(ModelSpec, model)


def _module(family: str, name: str) -> Any:
    return import_module(f"{families.__name__}.{family.replace('-', '_')}.{name}")

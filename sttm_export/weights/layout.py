"""How checkpoints of a family look: names of tensors in each layout, and what their config.json must say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sttm_export.errors import UserError
from sttm_export.weights.files import read_json_object

Shape = tuple[int, ...]


def linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    """Return the two parameters of a Linear."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm_shapes(name: str, width: int) -> dict[str, Shape]:
    """Return the two parameters of a LayerNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


@dataclass(frozen=True)
class Layout:
    """One way to name a model's parameters: canonical prefix → prefix in the checkpoint; the first that fits counts."""

    name: str
    prefixes: tuple[tuple[str, str], ...]

    def names(self, canonical: Iterable[str]) -> dict[str, str]:
        """Return canonical name → checkpoint name for all parameters that the layout can hold."""
        found = {name: self._theirs(name) for name in canonical}
        return {name: theirs for name, theirs in found.items() if theirs is not None}

    def _theirs(self, canonical: str) -> str | None:
        fitting = ((ours, theirs) for ours, theirs in self.prefixes if canonical.startswith(ours))
        ours, theirs = next(fitting, ("", None))
        return None if theirs is None else theirs + canonical.removeprefix(ours)


@dataclass(frozen=True)
class Apart:
    """Tensors that a checkpoint may lack because they lie in a repository of their own, such as a vision tower."""

    prefix: str  # canonical prefix of its parameters
    hub_id: str
    layouts: tuple[Layout, ...]
    config_faults: Callable[[Mapping[str, Any]], list[str]]  # faults of its config.json


@dataclass(frozen=True)
class Closed:
    """A part of a checkpoint that holds these parameters and no others; looked at only where one of them is wanted."""

    prefix: str  # canonical prefix of its parameters
    shapes: Mapping[str, Shape]
    config_faults: Callable[[Mapping[str, Any]], list[str]]  # what config.json says against it
    unchecked: str  # what only a config tells, shapes do not

    def superfluous(self, layout: Layout, present: Iterable[str]) -> list[str]:
        """Return tensors that stand among its own and that it does not have, sorted."""
        places = tuple(theirs for ours, theirs in layout.prefixes if ours.startswith(self.prefix))
        return sorted({name for name in present if name.startswith(places)} - set(layout.names(self.shapes).values()))


@dataclass(frozen=True)
class CheckpointForm:
    """Layouts that a family's checkpoints come in, the commonest first."""

    layouts: tuple[Layout, ...]
    # Faults of the config.json of a whole model, as phrases.
    config_faults: Callable[[Mapping[str, Any]], list[str]]
    unchecked: str  # what only a config tells, shapes do not
    apart: Apart | None = None
    closed: Closed | None = None

    def asked_for(self, shapes: Iterable[str]) -> CheckpointForm:
        """Return the form with its closed part only if these parameters have some of it."""
        closed = self.closed
        if closed is None or not any(name.startswith(closed.prefix) for name in shapes):
            return replace(self, closed=None)
        first, more = self.config_faults, closed.config_faults
        # Both may know a key, such as the width.
        return replace(
            self,
            config_faults=lambda config: list(dict.fromkeys(first(config) + more(config))),
            unchecked=f"{self.unchecked}, and {closed.unchecked}",
        )


def detect_layout(layouts: Iterable[Layout], canonical: Collection[str], present: Collection[str]) -> Layout | None:
    """Return the layout most of whose names are present, the first of equals; None where not one name is."""
    names = set(present)
    found = {layout: sum(theirs in names for theirs in layout.names(canonical).values()) for layout in layouts}
    best = max(found, key=lambda layout: found[layout])
    return best if found[best] else None


def check_config(path: Path, faults_of: Callable[[Mapping[str, Any]], list[str]], model: str) -> None:
    """Hold a config.json against the model that is asked for.

    Raises:
        UserError: unreadable, or contradicting the model; all contradictions in one message.
    """
    if faults := faults_of(read_json_object(path)):
        raise UserError(f"{path} does not belong to {model}: {'; '.join(faults)}; choose another --model or --weights.")


def differing(config: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Phrases about keys (`a.b` goes into tables) whose value is another; one that is absent or null is not checked.

    Shapes alone do not tell everything apart: the number of heads or the kind of projector leaves them as they are.
    """
    found = [(key, look_up(config, key), wanted) for key, wanted in expected.items()]
    return [f"{key} is {value!r}, expected {wanted!r}" for key, value, wanted in found if value not in (None, wanted)]


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """Value of a key, whose dots go into tables; None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value

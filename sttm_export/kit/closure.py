"""Which files of this package the kit is made of: found by following imports; none is missing, none too much."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# Programs: modules that are run, not imported.
ROOTS = ("kit/__main__.py", "kit/build_job.py", "kit/check_job.py")


def kit_sources(roots: Iterable[str] = ROOTS, package: Path = PACKAGE) -> list[str]:
    """Return paths below the package, sorted: the roots, all they import of it, and the packages these lie in."""
    found: set[str] = set()
    open_ends = list(roots)
    while open_ends:
        name = open_ends.pop()
        if name in found:
            continue
        found.add(name)
        open_ends += _own_imports(package, name)
        open_ends += [f"{parent}/__init__.py".removeprefix("./") for parent in Path(name).parents]
    return sorted(found)


def imported_modules(source: str) -> Iterator[str]:
    """Yield every module that a file imports when it runs, in functions too; `from a import b` gives a and a.b.

    What stands under `if TYPE_CHECKING:` is for type checkers and is not imported.
    """
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_imports(package: Path, name: str) -> Iterator[str]:
    for module in imported_modules((package / name).read_text(encoding="utf-8")):
        head, *rest = module.split(".")
        if head != package.name or not rest:
            continue
        path = "/".join(rest)
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if (package / candidate).is_file():
                yield candidate

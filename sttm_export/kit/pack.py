"""Packing the device kit: `device/` of a bundle, with all that a bare JetPack needs; the same bytes every time.

It is made of files of this package, found by following imports: none is missing, none too much.
"""

from __future__ import annotations

import ast
import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sttm_export import __version__
from sttm_export.contracts.data import data_directory
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.memory import builder_base
from sttm_export.kit.checks import KIT, TARGETS
from sttm_export.machine.needs import Needs, derive_needs
from sttm_export.system import size_text

PACKAGE = Path(__file__).resolve().parents[1]
# Programs: modules that are run, not imported; what builds an engine is found by the import of its name.
ROOTS = ("kit/__main__.py", "kit/check_job.py", "kit/run_main.py")
SCRIPTS = ("build.sh", "run.sh", "common.sh")
README, LICENSE = "README.md", "LICENSE"


def pack_kit(bundle: Path, title: str, graphs: Sequence[Path], targets: Sequence[TargetSpec]) -> Path:
    """Write `device/` into a bundle that is being made; the same bytes whenever the same bundle is made.

    Args:
        bundle: its directory; graphs and fixtures are there.
        title: of the model.
        graphs: ONNX files of the bundle.
        targets: all that there are; those that are built where they run are packed.
    """
    kit = bundle / KIT
    for name in kit_sources():
        copy = kit / PACKAGE.name / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Content only: times and rights of the sources are this machine's.
        shutil.copyfile(PACKAGE / name, copy)
    for script in SCRIPTS:
        shutil.copyfile(Path(__file__).with_name(script), kit / script)
    shutil.copyfile(data_directory(LICENSE), kit / LICENSE)
    packed = [target for target in targets if target.built != "anywhere"]
    rows = [target.to_json() for target in packed]
    (kit / TARGETS).write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sizes = {graph.stem: _size(graph) + _size(graph.with_name(f"{graph.name}.data")) for graph in graphs}
    fixtures = {name: _size(bundle / "fixtures" / f"{name}.npz") for name in sizes}
    needs = derive_needs(sizes, fixtures, max(map(builder_base, packed)))
    (kit / README).write_text(_readme(title, sizes, needs, packed), encoding="utf-8")
    return kit


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


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _readme(title: str, sizes: Mapping[str, int], needs: Needs, targets: Sequence[TargetSpec]) -> str:
    graphs = ", ".join(f"{name} ({size_text(size)})" for name, size in sizes.items())
    rows = "\n".join(f"| `{target.name}` | {target.title} |" for target in targets)
    work = _filled(
        "It checks this machine (JetPack, TensorRT, GPU, free memory, disk) and the bundle's files, and says all that "
        f"is missing at once, with what to do about it. Then it builds an engine of each graph, {graphs}, one after "
        "the other, runs them on the packed inputs and compares with the packed outputs of the PyTorch reference: "
        "floats within derived tolerances, merging decisions one by one. If all of it passes, the engines are in "
        "`engines/<target>/`, with `report.md` and `report.json`. If not, no engine is left, and the reports and logs "
        "are in `rejected/<target>/`."
    )
    takes = _filled(
        "Needed are Python 3.10 or later, NumPy and TensorRT's Python package, which JetPack brings; "
        f"{size_text(needs.memory)} of free memory ({needs.memory_reason}) and {size_text(needs.disk)} of disk. "
        "Nothing is installed, nothing is fetched."
    )
    runs = _filled(
        "It reads raw frames, pixels and nothing else, from a pipe or a file, and writes the merged tokens of window "
        "after window: into a directory, one file each; with `--output -` as a stream that NumPy reads; or the last "
        "window into one file. The pixels are resized as the model was trained, with Pillow where it is installed and "
        "by the same arithmetic in NumPy where it is not. Recipes for cameras and network streams are in "
        "`docs/camera.md` of sttm-export."
    )
    return f"""# Engines on the device: {title}

```bash
bash device/build.sh            # in the directory of the bundle; on the Jetson, or on the host with the GPU
bash device/build.sh --check    # looks at machine and bundle, builds nothing
bash device/build.sh --help     # all options
```

{work}

{takes}

| target | machine |
|---|---|
{rows}

## Tokens of a camera or a video

Once the engines are built:

```bash
ffmpeg -v error -i clip.mp4 -f rawvideo -pix_fmt rgb24 - |
    bash device/run.sh --frames - --size 1280x720 --rate 30 --output windows
bash device/run.sh --help       # all options
```

{runs}

## Exit codes

0 passed, or the frames ended and every window is written; 1 a build failed or an engine departs from the reference; 2
machine, bundle, options or frames are not as they must be; 130 interrupted; 141 nobody reads the output any more.

The sources in `sttm_export/` are those of sttm-export {__version__} (Apache-2.0, see `LICENSE`), as they are there.
"""


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, 118, break_long_words=False, break_on_hyphens=False)

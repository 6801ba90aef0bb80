"""Imports run one way, heavy ones stay out of where they have no business, and sizes stay readable."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from sttm_export.cli import VERBS

PACKAGE = Path(__file__).resolve().parent.parent / "sttm_export"
DOCUMENT = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# From the ground up; a room may import what is listed, and nothing else of this package.
ROOMS = {
    "errors": set(),
    "program": {"errors"},
    "system": set(),
    "files": {"errors"},
    "contracts": {"errors"},
    "merging": {"errors", "contracts"},
    "weights": {"errors", "contracts"},
    "quantization": {"errors", "contracts"},
    "graphs": {"errors", "contracts", "quantization"},
    "bundle": {"errors", "files", "contracts"},
    "engines": {"errors", "system", "contracts", "bundle"},
    "runtime": {"errors", "system", "files", "contracts", "bundle", "engines"},
    "streams": {"errors", "system", "files", "contracts", "runtime"},
    "language": {"errors", "contracts", "merging", "weights", "quantization", "runtime"},
    "families": {"errors", "contracts", "merging", "weights", "runtime", "language", "quantization"},
    "pipeline": {"errors", "contracts", "bundle", "engines", "runtime", "streams", "language"},
    "corpora": {"errors", "files", "contracts", "bundle", "runtime", "streams", "pipeline"},
    "validation": {"errors", "system", "contracts", "runtime"},
    "machine": {"errors", "system", "contracts", "engines"},
    "kit": {
        *(
            "errors",
            "system",
            "files",
            "program",
            "contracts",
            "graphs",
            "bundle",
            "engines",
            "runtime",
            "streams",
            "validation",
            "machine",
        )
    },
    "terminal": set(),
}
ROOMS["workflows"] = set(ROOMS)
ROOMS["drift"] = set(ROOMS)
ROOMS["calibration"] = set(ROOMS)
ROOMS["timing"] = set(ROOMS)
ROOMS["commands"] = set(ROOMS)
ROOMS["cli"] = set(ROOMS)
ROOMS["__main__"] = {"cli"}

HEAVY = {
    *(
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
    ),
    *("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "polygraphy", "av", "PIL", "jinja2", "rich", "numpy"),
}
# Third-party packages each room may import, inside functions too.
ALLOWED = {
    "errors": set(),
    "program": set(),
    "system": set(),
    "files": set(),
    "contracts": set(),
    "merging": {"torch", "numpy"},
    "quantization": {"torch", "numpy"},
    # safetensors: a video that was read is kept in such a file, without torch.
    "language": {"torch", "numpy", "transformers", "tokenizers", "safetensors"},
    "families": {"torch", "numpy", "transformers"},
    "weights": {"torch", "numpy", "safetensors", "huggingface_hub", "transformers", "tokenizers"},
    # onnxscript: what the exporter's table of translations is written in.
    "graphs": {"torch", "numpy", "onnx", "onnx_ir", "onnxscript"},
    "bundle": set(),
    "engines": set(),
    "runtime": {"numpy", "av", "PIL", "onnxruntime"},
    "streams": {"numpy", "av"},
    "pipeline": {"numpy"},
    "corpora": {"numpy"},
    "validation": {"numpy", "jinja2"},
    "machine": set(),
    "kit": {"numpy"},
    "terminal": {"rich"},
    "workflows": {"torch", "numpy"},
    "drift": {"torch", "numpy", "onnx", "onnx_ir"},
    "calibration": {"torch", "numpy"},
    "timing": {"numpy"},
    "commands": {"rich"},
    "cli": set(),
    "__main__": set(),
}


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(tree):
    """Every module that is imported anywhere in a file; `from a import b` gives both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    names = [name.split(".") for name in imports(TREES[path]) if name.startswith("sttm_export.")]
    return {parts[1] for parts in names} & set(ROOMS) - {room_of(path)}


def third_party(path):
    return {name.split(".")[0] for name in imports(TREES[path])} & HEAVY


def test_every_file_is_in_a_room():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(ROOMS) == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path):
    room = room_of(path)
    # For type checkers alone, the package names what programs that embed it use.
    public = {"errors", "runtime", "streams", "pipeline", "corpora"}
    assert rooms_imported(path) <= (public if room == "__init__" and path.parent == PACKAGE else ROOMS.get(room, set()))
    assert third_party(path) <= ALLOWED.get(room, set())


def test_the_table_has_no_circle():
    seen = set()
    for room, below in ROOMS.items():
        assert below <= seen, room
        seen.add(room)


def test_the_document_has_the_same_table():
    rows = re.findall(
        r"^\| (`[^|]+`) \| [^|]+ \| ([^|]+) \|$", DOCUMENT.split("## 2. ")[1].split("And what")[0], re.MULTILINE
    )
    table = {name: allowed for names, allowed in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(table) == set(ROOMS) - {"__main__"}
    for room, allowed in table.items():
        if allowed == "all of the above":
            assert {"workflows", "drift", "calibration", "timing", "commands", "cli"} >= {room}
        else:
            assert set(allowed.replace("nothing", "").split(", ")) - {""} == ROOMS[room], room


def test_the_oracle_shares_the_grid_tables_only():
    own = {name for name in imports(TREES[PACKAGE / "merging" / "reference.py"]) if name.startswith("sttm_export.")}
    assert {name.split(".")[2] for name in own} == {"geometry"}


LEAN = """
import sys
from sttm_export.{module} import {name}
{call}
heavy = {heavy!r}
loaded = sorted(heavy & {{name.split(".")[0] for name in sys.modules}})
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""


def run_lean(module, name, call, heavy):
    code = LEAN.format(module=module, name=name, call=call, heavy=set(heavy))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


HELP = "\ntry: main([{arguments}])\nexcept SystemExit as end: assert end.code == 0, end.code\n"


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb):
    arguments = ", ".join(repr(word) for word in (verb, "--help") if word)
    result = run_lean("cli", "main", HELP.format(arguments=arguments), HEAVY)
    assert result.returncode == 0, result.stderr
    assert "usage: sttm-export" in result.stdout


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("engines.build", "build_engines"),
        ("runtime.pipeline", "merge_features"),
        ("validation.stages", "judge_stages"),
        ("families.registry", "load_model"),
        ("bundle.opened", "open_bundle"),
        ("language.tokenizer", "read_tokenizer"),
        ("language.prompt", "question_ids"),
        ("language.choose", "Sampler"),
        ("language.model", "LanguageModel"),
        ("language.kept", "KeptVideo"),
    ],
)
def test_what_a_device_uses_needs_no_torch(module, name):
    result = run_lean(module, name, "", HEAVY - {"numpy"})
    assert result.returncode == 0, result.stderr


def test_a_bundle_is_timed_without_torch():
    """Nor onnx: it is timed where it runs."""
    result = run_lean("timing.run", "bench_bundle", "", HEAVY - {"numpy", "rich"})
    assert result.returncode == 0, result.stderr


def test_a_tokenizer_is_read_without_transformers():
    """Nor torch: an answer is made on devices."""
    call = "data = __import__('sttm_export.weights.stand_in_tokenizer', fromlist=['x']).stand_in_tokenizer(300)\n"
    call += "assert load_tokenizer(data, 'made', 'again', 300).get_vocab_size() == 300"
    result = run_lean("weights.tokenizer_file", "load_tokenizer", call, HEAVY - {"numpy", "tokenizers"})
    assert result.returncode == 0, result.stderr


def test_the_lean_test_can_fail():
    assert "numpy" in run_lean("runtime.pipeline", "merge_features", "", HEAVY).stderr


def lines_of(path):
    return path.read_text(encoding="utf-8").count("\n")


def functions():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node.end_lineno - node.lineno + 1, f"{path.name}:{node.lineno} {node.name}"


def test_guide_values():
    assert [path.name for path in FILES if lines_of(path) > 400] == []
    assert statistics.median(lines for path in FILES if (lines := lines_of(path))) <= 150
    assert [name for lines, name in functions() if lines > 80] == []
    assert statistics.median(lines for lines, _ in functions()) <= 16

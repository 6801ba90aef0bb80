"""The README against the program: option tables are generated, blocks marked `<!-- test -->` are executed.

`python tests/test_readme.py` writes the option tables anew.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sttm_export.cli import VERBS, build_parser
from sttm_export.runtime.sample_clips import find_sample_clip

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
OPTIONS = re.compile(r"(<!-- options -->\n).*?(<!-- end of options -->)", re.DOTALL)
BLOCK = re.compile(r"^(<!-- test -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def option_tables():
    """Markdown: a heading, what the verb does and one table for each verb."""
    verbs = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return "\n\n".join(verb_table(name, parser) for name, parser in verbs.choices.items())


def verb_table(name, parser):
    shown = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    usage = " ".join(["sttm-export", name, *(word.dest.upper() for word in shown if not word.option_strings)])
    lines = [f"### `{usage}`", "", parser.description]
    if shown:
        lines += ["", "| option | meaning |", "|---|---|"]
        lines += [f"| `{spelled(action)}` | {meaning(action)} |" for action in shown]
    return "\n".join(lines)


def spelled(action):
    if not action.option_strings:
        return action.dest.upper()
    value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
    return f"{action.option_strings[-1]}{value}"


def meaning(action):
    required = "; required" if action.required and action.option_strings else ""
    return f"{(action.help or '').replace('|', chr(92) + '|')}{required}"


def with_tables(text):
    return OPTIONS.sub(lambda match: f"{match[1]}{option_tables()}\n{match[2]}", text)


def blocks(tested):
    return [(language, code) for mark, language, code in BLOCK.findall(TEXT) if bool(mark) == tested]


def test_option_tables_are_those_of_the_program():
    assert with_tables(TEXT) == TEXT, "run: python tests/test_readme.py"
    assert all(f"### `sttm-export {verb}" in TEXT for verb in VERBS)
    assert TEXT.count("| `--") > 25


def test_every_option_says_what_it_is_for():
    verbs = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    options = [(name, action) for name, parser in verbs.choices.items() for action in parser._actions]
    assert [(name, action.dest) for name, action in options if not action.help] == []
    assert max(sum(1 for verb, _ in options if verb == name) for name in VERBS) <= 24


def test_marked_blocks_run(tmp_path, tiny_toml):
    """In order, in one directory, with a tiny model in place of the real one and a real clip under the name used."""
    shutil.copy(find_sample_clip("carphone"), tmp_path / "holiday.mp4")
    tested = blocks(tested=True)
    assert [language for language, _ in tested] == ["bash", "python", "bash", "bash"]
    for language, code in tested:
        small = code.replace("--model llava-video-7b", f"--model {tiny_toml} --frames 4 --compute-capability sm86")
        command = ["bash", "-euo", "pipefail", "-c", small] if language == "bash" else [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{small}\n{result.stdout}\n{result.stderr}"
    assert {"my-bundle", "tokens.npz", "tokens.png", "my-bundle.json"} <= {path.name for path in tmp_path.iterdir()}


def environment():
    """The program of this Python comes first, as in an activated environment."""
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}


def test_blocks_that_are_not_run_name_real_options():
    """Commands that need a checkpoint, a Jetson or minutes are not run; their options must exist all the same."""
    parser = build_parser()
    commands = [
        line
        for language, code in blocks(tested=False)
        if language == "bash"
        for line in code.splitlines()
        if line.startswith("sttm-export")
    ]
    assert commands
    for command in commands:
        words = command.split()[1:]
        parser.parse_args(["export", *words] if words[0].startswith("-") else words)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / link).exists(), link
    for anchor in re.findall(r"semantics\.md#([\w-]+)", TEXT):
        headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/semantics.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_is_that_of_a_bundle(tiny_bundle):
    tree = TEXT.split("my-bundle/\n")[1].split("```")[0]
    named = [line.split()[0] for line in tree.splitlines()]
    files = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    matched = set()
    for pattern in named:
        if pattern.startswith("engines/"):
            pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
        whole = pattern.endswith("/")
        found = {name for name in files if (name.startswith(pattern) if whole else Path(name).match(pattern))}
        assert found, pattern
        matched |= found
    assert {name for name in files - matched if not name.startswith("engines/")} == set()


@pytest.mark.parametrize("phrase", ["No engine has been executed", "before decoder layer 0", "No accuracy is measured"])
def test_limits_are_said(phrase):
    assert phrase in TEXT


if __name__ == "__main__":
    README.write_text(with_tables(TEXT), encoding="utf-8")

"""docs/cli.md against the program: its tables of options are generated, its exit codes are those of the code.

`python tests/test_docs_cli.py` writes the tables anew.
"""

import argparse
import math
import re
from pathlib import Path

from sttm_export import program
from sttm_export.cli import VERBS, build_parser
from sttm_export.contracts.data import read_toml
from sttm_export.errors import UserError, ValidationMiss

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "cli.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
OPTIONS = re.compile(r"(<!-- options -->\n).*?(<!-- end of options -->)", re.DOTALL)


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


def test_option_tables_are_those_of_the_program():
    assert with_tables(TEXT) == TEXT, "run: python tests/test_docs_cli.py"
    assert all(f"### `sttm-export {verb}" in TEXT for verb in VERBS)
    assert TEXT.count("| `--") > 25


def test_every_option_says_what_it_is_for():
    verbs = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    options = [(name, action) for name, parser in verbs.choices.items() for action in parser._actions]
    assert [(name, action.dest) for name, action in options if not action.help] == []
    # `export` has those of the language model too.
    assert max(sum(1 for verb, _ in options if verb == name) for name in VERBS) <= 33


def test_exit_codes_are_those_of_the_program():
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)]
    assert codes == [0, ValidationMiss.exit_code, UserError.exit_code, program.INTERRUPTED, program.CLOSED_PIPE]


def test_shares_of_the_budget_are_those_that_were_solved():
    solved = read_toml(ROOT / "calibration" / "solved.toml")["solved"]
    shares = sorted(100 * row["tokens"] / row["max_tokens"] for row in solved)
    assert len({row["clip"] for row in solved}) == 5
    assert {row["budget"] for row in solved} == {0.5, 0.3, 0.15}
    assert f"between {shares[0]:.1f} % and {shares[-1]:.1f} % of K at budgets of 0.5, 0.3 and 0.15" in TEXT
    assert f"fill more than {math.floor(10 * shares[0]) / 10} % of it" in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(TEXT), encoding="utf-8")

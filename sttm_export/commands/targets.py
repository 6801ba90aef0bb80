"""`sttm-export targets`."""

from __future__ import annotations

import argparse
import json

HELP = "List the targets that engines can be built for."
_BUILT = {"anywhere": "anywhere, no GPU", "device": "on the device", "gpu-host": "on a host with such a GPU"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print every field as JSON")


def execute(options: argparse.Namespace) -> None:
    """Print the table."""
    from sttm_export.contracts.target import targets

    if options.json:
        print(json.dumps([target.to_json() for target in targets().values()], indent=1, ensure_ascii=False))
        return
    from sttm_export.commands.layout import print_table
    from sttm_export.terminal import table_console

    headings = ("name", "target", "GPUs", "opsets", "precisions", "engines are built", "container image", "rules")
    rows = []
    for name, target in targets().items():
        capabilities, precisions = ", ".join(target.compute_capabilities), ", ".join(target.precisions)
        opsets, rules = f"{target.opsets[0]} to {target.opsets[1]}", str(count_rules(name))
        rows.append((name, target.title, capabilities, opsets, precisions, _BUILT[target.built], target.image, rules))
    title = "Targets (precisions: of TensorRT on that hardware; graphs are exported in fp16 and fp32)"
    print_table(table_console(), title, headings, rows)


def count_rules(name: str) -> int:
    """How many rules of `graphs/rules.toml` speak of a target."""
    from sttm_export.contracts.target import find_target
    from sttm_export.graphs.rule_table import rules

    return sum(rule.applies_to(find_target(name)) for rule in rules().values())

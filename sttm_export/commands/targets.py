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
    from sttm_export.spec.target import targets

    if options.json:
        print(json.dumps([target.to_json() for target in targets().values()], indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from sttm_export.terminal import table_console

    table = Table(title="Targets (precisions: of TensorRT on that hardware; graphs are exported in fp16 and fp32)")
    for heading in ("name", "target", "GPUs", "opsets", "precisions", "engines are built", "rules"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"name", "engines are built"})
    for name, target in targets().items():
        capabilities, precisions = ", ".join(target.compute_capabilities), ", ".join(target.precisions)
        opsets = f"{target.opsets[0]} to {target.opsets[1]}"
        rules = str(count_rules(name))
        built = f"{_BUILT[target.built]}\n{target.image}".rstrip()
        table.add_row(name, target.title, capabilities, opsets, precisions, built, rules)
    table_console().print(table)


def count_rules(name: str) -> int:
    """How many rules of `graphs/rules.toml` speak of a target."""
    from sttm_export.graphs.rule_table import rules
    from sttm_export.spec.target import find_target

    return sum(rule.applies_to(find_target(name)) for rule in rules().values())

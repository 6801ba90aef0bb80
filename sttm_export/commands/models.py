"""`sttm-export models`."""

from __future__ import annotations

import argparse

HELP = "List the models that can be exported."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def execute(options: argparse.Namespace) -> None:
    """Print a table."""
    from sttm_export.commands.layout import print_table
    from sttm_export.families.registry import load_model, model_names
    from sttm_export.terminal import table_console

    headings = ("name", "model", "tokens a step", "channels", "published (spatial, temporal)", "checkpoint")
    rows = []
    for name in model_names():
        model = load_model(name)
        published = [f"{row.budget:.0%}: {row.spatial:g}, {row.temporal:g}" for row in model.merging.thresholds]
        grid = f"{model.grid.cells} ({model.grid.height}×{model.grid.width})"
        rows.append((name, model.title, grid, str(model.channels), "; ".join(published), model.hub_id))
    title = "Models (a TOML file of the same form works as well: --model my-model.toml)"
    print_table(table_console(), title, headings, rows)

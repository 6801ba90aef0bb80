"""`sttm-export models`."""

from __future__ import annotations

import argparse

HELP = "List the models that can be exported."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def execute(options: argparse.Namespace) -> None:
    """Print a table."""
    from rich.table import Table

    from sttm_export.spec.model import load_model, model_names
    from sttm_export.terminal import table_console

    table = Table(title="Models (a TOML file of the same form works as well: --model my-model.toml)")
    for heading in (
        "name",
        "model",
        "tokens a frame",
        "channels",
        "published thresholds (spatial, temporal)",
        "checkpoint",
    ):
        table.add_column(heading, overflow="fold")
    for name in model_names():
        model = load_model(name)
        rows = [f"{row.budget:.0%}: {row.spatial:g}, {row.temporal:g}" for row in model.merging.thresholds]
        grid = f"{model.grid.cells} ({model.grid.height}×{model.grid.width})"
        table.add_row(name, model.title, grid, str(model.projector.output_size), "; ".join(rows), model.hub_id)
    table_console().print(table)

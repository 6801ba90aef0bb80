"""The options that say where weights come from, for verbs that read a checkpoint."""

from __future__ import annotations

import argparse

from sttm_export.commands.values import text_value


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Declare them as a group of their own."""
    weights = parser.add_argument_group("weights: one of --weights and --random-weights is needed")
    weights.add_argument(
        "--weights",
        type=text_value,
        metavar="DIR_OR_HUB_ID",
        help="checkpoint directory, or owner/name[@revision] on the hub",
    )
    weights.add_argument(
        "--tower-weights",
        type=text_value,
        metavar="DIR_OR_HUB_ID",
        help="the tower's own checkpoint, if the model's has none",
    )
    weights.add_argument("--random-weights", type=int, metavar="SEED", help="build and time without a checkpoint")

"""`sttm-export inspect BUNDLE`."""

from __future__ import annotations

import argparse
import json

from sttm_export.commands.values import path_value

HELP = "Check that a bundle is whole and show what it holds."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote")
    parser.add_argument("--json", action="store_true", help="print manifest, engines and times as JSON")


def execute(options: argparse.Namespace) -> None:
    """Verify every sha256, then print."""
    from sttm_export.bundle.opened import open_bundle

    bundle = open_bundle(options.bundle)
    if options.json:
        apart = {"engines": [record.to_json() for record in bundle.engine_records()], "times": bundle.times()}
        apart["rejected"] = bundle.rejected()
        print(json.dumps(bundle.manifest.data | apart, indent=1, sort_keys=True, ensure_ascii=False))
        return
    from sttm_export.commands.tables import print_bundle

    print_bundle(bundle)

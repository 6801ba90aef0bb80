"""Benchmark of the token merger: ONNX Runtime against the reference, in turns, for several clip lengths.

Run from the repository: `python -m bench.merger --output bench/results/cpu.json`.

Every measurement runs in a process of its own, so that peaks of memory do not add up. See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import machine
from bench.clip import CLIPS
from bench.measure import IMPLEMENTATIONS, PROVIDERS, Settings
from sttm_export.contracts.merge import POLICIES
from sttm_export.errors import UserError
from sttm_export.families.registry import load_model
from sttm_export.machine.load import load, wait_for_quiet

ROOT = Path(__file__).resolve().parent.parent


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m bench.merger", description=(__doc__ or "").split("\n", 1)[0])
    made.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64, 128, 256], metavar="T")
    made.add_argument("--channels", type=int, default=3584, metavar="C")
    made.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    made.add_argument("--budget", type=float, default=0.5, help="of policy budget; policy threshold runs at 1.0")
    made.add_argument("--model", default="llava-video-7b", help="whose published thresholds are given")
    made.add_argument("--clip", choices=CLIPS, default=CLIPS[0])
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--provider", choices=PROVIDERS, default="cpu")
    made.add_argument("--runs", type=int, default=15, help="timed rounds; long clips get fewer")
    made.add_argument("--graphs", type=Path, help="keep graphs here, and take those that are there")
    made.add_argument("--wait", type=float, default=300.0, metavar="SECONDS", help="wait so long for a quiet machine")
    made.add_argument("--output", type=Path, help="the result file; rows of other settings that it holds are kept")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; 2 where the settings are impossible."""
    options = parser().parse_args(arguments)
    try:
        return _main(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _main(options: argparse.Namespace) -> int:
    thresholds = load_model(options.model).published_thresholds(options.budget)
    with tempfile.TemporaryDirectory() as scratch:
        graphs = options.graphs or Path(scratch)
        for policy in options.policies:
            budget = options.budget if policy == "budget" else 1.0
            for frames in options.frames:
                settings = Settings(
                    frames=frames,
                    channels=options.channels,
                    budget=budget,
                    policy=policy,
                    thresholds=(thresholds.spatial, thresholds.temporal),
                    threads=options.threads,
                    provider=options.provider,
                    runs=rounds(options.runs, frames),
                    directory=str(graphs / f"{policy}-{budget:g}-{frames}x{options.channels}"),
                    clip=options.clip,
                )
                settings.check()
                row = measure(settings, options.wait)
                print(table_line(row), flush=True)
                if options.output:
                    store(options.output, row)
    return 0


def measure(settings: Settings, wait: float) -> dict[str, Any]:
    """Return one row: export, times, memory, each from its own process."""
    exported = exported_file(settings)
    if not exported.is_file():
        result = run_step("export", settings)
        exported.write_text(json.dumps(result), encoding="utf-8")
    wait_for_quiet(wait)
    before = load()
    row: dict[str, Any] = {
        **{key: getattr(settings, key) for key in ("policy", "budget", "frames", "channels", "threads", "provider")},
        "clip": settings.clip,
        "thresholds_given": list(settings.thresholds),
        **json.loads(exported.read_text(encoding="utf-8")),
        **run_step("time", settings),
        "runs": settings.runs,
    }
    for name in IMPLEMENTATIONS:
        row[name] |= run_step(f"memory:{name}", settings)
    # One of the cores is ours while measuring: the load before tells whether the machine was quiet.
    row["load_before"] = before
    return row


def exported_file(settings: Settings) -> Path:
    """Where the figures of an export lie, beside its graph."""
    return Path(settings.directory) / "export.json"


def rounds(runs: int, frames: int) -> int:
    """Timed rounds for T frames: long clips take longer, and need fewer."""
    return max(3, min(runs, runs * 64 // frames))


def run_step(step: str, settings: Settings) -> dict[str, Any]:
    """Run one step of `bench.measure` in a process of its own.

    Raises:
        UserError: it failed; the last line that it wrote says why.
    """
    command = [sys.executable, "-m", "bench.measure", step, settings.to_json()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"The step '{step}' at {settings.frames} frames ended with {done.returncode}: "
            f"{(done.stderr.strip().splitlines() or ['no message'])[-1]}; run it alone to see more."
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


KEY = ("policy", "budget", "frames", "channels", "threads", "provider", "clip")


def store(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a result file, in place of the one with the same settings."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    rows = [old for old in rows if any(old[key] != row[key] for key in KEY)] + [row]
    rows.sort(key=lambda one: (one["policy"], one["budget"], one["channels"], one["frames"]))
    machine.write_result(path, {"rows": rows})


def table_line(row: dict[str, Any]) -> str:
    """One row for people."""
    ort, reference = row["onnxruntime"], row["reference"]
    same = "equal" if row["assignment_equal"] else "DIFFERENT"
    return (
        f"{row['policy']:9s} T={row['frames']:3d}  onnxruntime {ort['median_ms']:7.1f} ms (min {ort['min_ms']:.1f}, "
        f"first {row['first_run_ms']:.0f}), reference {reference['median_ms']:7.1f} ms, ratio {row['speedup']:.2f}; "
        f"{ort['peak_mib']:.0f} against {reference['peak_mib']:.0f} MiB; "
        f"{row['tokens']} tokens of {row['max_tokens']}, assignment {same}; load {row['load_before']}"
    )


if __name__ == "__main__":
    sys.exit(main())

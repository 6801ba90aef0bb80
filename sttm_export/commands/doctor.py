"""`sttm-export doctor`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

    from sttm_export.device.doctor import Ability, TargetVerdict
    from sttm_export.device.machine import MachineFacts

HELP = "Say what this machine can do, and for each target: check rules, build, run; and what would mend a no."
_COLOR = {"yes": "green", "no": "red", "unknown": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print facts and verdicts as JSON")


def execute(options: argparse.Namespace) -> None:
    """Look, and print. A report, not a verdict: whatever is found, the exit code is 0."""
    import importlib.util
    import json

    from sttm_export.device.doctor import examine_targets
    from sttm_export.device.machine import read_machine
    from sttm_export.spec.target import targets

    facts = read_machine(onnxruntime=True)
    verdicts = examine_targets(facts, list(targets().values()), importlib.util.find_spec("onnx") is not None)
    if options.json:
        found = {"machine": facts.to_json(), "targets": [verdict.to_json() for verdict in verdicts]}
        print(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False))
        return
    from sttm_export.terminal import table_console

    print_report(facts, verdicts, table_console())


def print_report(facts: MachineFacts, verdicts: Sequence[TargetVerdict], console: Console) -> None:
    """Print the machine, the targets, and what would mend each no."""
    from rich.table import Table

    machine = Table(title="This machine", show_header=False)
    machine.add_column(no_wrap=True)
    machine.add_column(overflow="fold")
    for name, value in machine_rows(facts):
        machine.add_row(name, value)
    console.print(machine)
    table = Table("target", "check rules", "build", "run", "why not", title="Targets")
    for verdict in verdicts:
        answers = [_colored(ability) for ability in (verdict.check, verdict.build, verdict.run)]
        table.add_row(verdict.target, *answers, "\n".join(_reasons(verdict, "why")))
    console.print(table)
    mends: dict[str, list[str]] = {}
    for verdict in verdicts:
        for mend in _reasons(verdict, "mend"):
            mends.setdefault(mend, []).append(verdict.target)
    for mend, names in mends.items():
        console.print(f"{', '.join(names)}: {mend}.", markup=False, soft_wrap=True)


def machine_rows(facts: MachineFacts) -> list[tuple[str, str]]:
    """What is shown of a machine, in words; what is not there is said."""
    from sttm_export.device.machine import size_text

    memory, gpu, runtime = facts.memory, facts.gpu, facts.onnxruntime
    shared = " shared with the processor" if gpu and gpu.integrated else ""
    free = "free: not known" if memory.usable is None else f"{size_text(memory.usable)} free"
    limit = f", container limit {size_text(memory.limit)}" if memory.limit else ""
    total = f" of {size_text(memory.total)}" if memory.total else ""
    rows = [
        ("system", f"{facts.distribution or facts.system}, {facts.processor}"),
        ("board", facts.model or "none stated"),
        ("JetPack", f"{facts.jetpack or '?'}, Jetson Linux {facts.l4t}" if facts.l4t else "none: no Jetson"),
        ("power mode", facts.power.described),
        (
            "GPU",
            f"{gpu.name}, {gpu.compute_capability}, {size_text(gpu.memory)}{shared}"
            if gpu
            else facts.gpu_fault or "none",
        ),
        ("driver", f"CUDA up to {gpu.cuda}" if gpu else "none"),
        ("memory", f"{free}{total}{limit}; swap {size_text(memory.swap_total or 0)}"),
        ("Python", f"{facts.python}, {facts.interpreter}" + (" (virtual environment)" if facts.virtual else "")),
        ("NumPy", facts.numpy.version or facts.numpy.reason),
    ]
    rows += [(name, module.version or module.reason) for name, module in facts.tensorrt.items()]
    rows += [("trtexec", facts.trtexec or "none")]
    if runtime:
        rows.append(
            ("ONNX Runtime", f"{runtime.version}: {', '.join(runtime.extras)}" if runtime.loads else runtime.reason)
        )
    return rows


def _colored(ability: Ability) -> Text:
    from rich.text import Text

    return Text(ability.answer, _COLOR[ability.answer])


def _reasons(verdict: TargetVerdict, kind: str) -> list[str]:
    """Why or mend of everything that is not a plain yes, each once."""
    abilities: Sequence[Any] = [a for a in (verdict.check, verdict.build, verdict.run) if a.answer != "yes"]
    return [text for text in dict.fromkeys(getattr(ability, kind) for ability in abilities) if text]

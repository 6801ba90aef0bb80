"""`sttm-export doctor`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

    from sttm_export.commands.layout import Cell
    from sttm_export.machine.doctor import Ability, TargetVerdict
    from sttm_export.machine.facts import MachineFacts

HELP = "Say what this machine can do, and for each target: check rules, build, run; and what would fix a no."
_COLOR = {"yes": "green", "no": "red", "unknown": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print facts and verdicts as JSON")


def execute(options: argparse.Namespace) -> None:
    """Look, and print. A report, not a verdict: whatever is found, the exit code is 0."""
    import importlib.util
    import json

    from sttm_export.contracts.target import targets
    from sttm_export.machine.doctor import examine_targets
    from sttm_export.machine.facts import read_machine

    facts = read_machine(onnxruntime=True)
    verdicts = examine_targets(facts, list(targets().values()), importlib.util.find_spec("onnx") is not None)
    if options.json:
        found = {"machine": facts.to_json(), "targets": [verdict.to_json() for verdict in verdicts]}
        print(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False))
        return
    from sttm_export.terminal import table_console

    print_report(facts, verdicts, table_console())


def print_report(facts: MachineFacts, verdicts: Sequence[TargetVerdict], console: Console) -> None:
    """Print the machine, the targets, and what would fix each no."""
    from rich.text import Text

    from sttm_export.commands.layout import print_facts, print_table

    print_facts(console, "This machine", machine_rows(facts))
    answers: list[list[Cell]] = [
        [row.target, _colored(row.check), _colored(row.build), _colored(row.run)] for row in verdicts
    ]
    print_table(console, "Targets", ("target", "check rules", "build", "run"), answers)
    for kind, heading in (("why", "Why not"), ("fix", "What to do")):
        said: dict[str, list[str]] = {}
        for verdict in verdicts:
            for reason in _reasons(verdict, kind):
                said.setdefault(reason.rstrip("."), []).append(verdict.target)
        for reason, names in said.items():
            console.print(Text(f"{heading}, {', '.join(names)}: {reason}."), soft_wrap=True)


def machine_rows(facts: MachineFacts) -> list[tuple[str, str]]:
    """What is shown of a machine, in words; what is not there is said."""
    from sttm_export.system import size_text

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
    if runtime:
        rows.append(
            ("ONNX Runtime", f"{runtime.version}: {', '.join(runtime.extras)}" if runtime.loads else runtime.reason)
        )
    return rows


def _colored(ability: Ability) -> Text:
    from rich.text import Text

    return Text(ability.answer, _COLOR[ability.answer])


def _reasons(verdict: TargetVerdict, kind: str) -> list[str]:
    """Why or fix of everything that is not a plain yes, each once."""
    abilities: Sequence[Any] = [a for a in (verdict.check, verdict.build, verdict.run) if a.answer != "yes"]
    return [text for text in dict.fromkeys(getattr(ability, kind) for ability in abilities) if text]

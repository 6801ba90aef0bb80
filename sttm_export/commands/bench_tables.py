"""What `bench` prints: the figures of a result, and two of them side by side."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from sttm_export.commands.layout import print_facts, print_table
from sttm_export.contracts.model import counted
from sttm_export.timing.compare import FEWEST, LEAST_PERCENT, Comparison, Row
from sttm_export.timing.result import Computed, Counts, Figure, Moment, Result
from sttm_export.timing.words import middle_text, time_text, verdict

_COLOR = {"slower": "red", "faster": "green", "same": "", "too few runs": "yellow", "other work": "yellow"}


def print_result(result: Result, console: Console) -> None:
    """Print the machine, what was measured, computed and counted, and what makes it doubtful."""
    print_facts(console, f"Times of {result.about.model}", list(_facts(result)))
    heading = ("what", "median", "middle half", "least", "runs", "one run")
    print_table(console, "Measured", heading, [_measured(figure) for figure in result.figures])
    parts = [(figure.key, _parts(figure)) for figure in result.figures if figure.parts]
    print_table(console, "Medians of parts", ("what", "of which"), parts)
    counts = [(figure, figure.counts) for figure in result.figures if figure.counts]
    if counts:
        asked = ("one run of", "kernels", "launches", "copies", "synchronizations")
        print_table(console, "Counted at the driver", asked, [_counted(*row) for row in counts])
    print_table(console, "Computed", ("what", "", "how"), [_computed(row) for row in result.computed])
    console.print(Text(verdict(result), "bold"), soft_wrap=True)
    for note in result.notes:
        console.print(Text(note), soft_wrap=True)
    for warning in result.warnings:
        console.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)


def print_comparison(found: Comparison, console: Console) -> None:
    """Print each figure in both results, what may differ and does, and what cannot be compared."""
    heading = ("what", "first", "second", "ratio", "between quartiles", "verdict")
    print_table(console, "Second against first", heading, [_compared(row) for row in found.rows])
    rule = f"the middle halves of {FEWEST} runs or more do not overlap, and medians are {LEAST_PERCENT:g} % apart"
    console.print(Text(f"slower and faster: {rule}"), soft_wrap=True)
    for words, keys in (("first", found.only_first), ("second", found.only_second)):
        if keys:
            console.print(Text(f"only in the {words}: {', '.join(keys)}"), soft_wrap=True)
    if found.others:
        console.print(Text(f"also different: {', '.join(found.others)}"), soft_wrap=True)
    if found.sentence:
        console.print(Text(found.sentence, "bold red"), soft_wrap=True)


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    about, machine, runner = result.about, result.machine, result.runner
    kept = f"{about.tokens} of {about.steps * about.cells} tokens kept"
    yield "clip", f"{about.source}: {counted(about.steps, 'step')}, {kept} (budget {about.budget:g})"
    decoder = f"; merging before layer {about.merge_layer} of {about.layers}, {about.weights}" if about.layers else ""
    yield "bundle", f"{about.precision}, T = {about.frames}, C = {about.channels}, batch {about.batch}{decoder}"
    threads = (
        ""
        if runner.target
        else f", {counted(runner.threads, 'thread') if runner.threads else 'threads: its own choice'}"
    )
    target = f" of {runner.target}" if runner.target else ""
    yield "run by", f"{runner.backend}{target}{threads}"
    yield "processor", f"{machine.processor}, {counted(machine.cores, 'core')}"
    if machine.gpu:
        yield "GPU", machine.gpu
    if machine.board:
        yield (
            "board",
            f"{machine.board}, JetPack {machine.jetpack or '?'}, power mode {machine.power_mode or 'not known'}",
        )
    yield "clocks before", _clocks(machine.before)
    yield "clocks after", _clocks(machine.after)
    others = "not known" if machine.others is None else f"{machine.others:.0%} of the machine"
    yield "other processes", others
    yield "versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())


def _clocks(moment: Moment) -> str:
    clocks, parts = moment.clocks, list[str]()
    for name, mhz, pinned in (
        ("processor", clocks.processor_mhz, clocks.processor_pinned),
        ("GPU", clocks.gpu_mhz, clocks.gpu_pinned),
    ):
        if mhz is not None:
            held = {"yes": ", pinned", "no": ", not pinned", "unknown": ""}[pinned]
            parts.append(f"{name} {mhz:.0f} MHz{held}")
    if clocks.gpu_celsius is not None:
        parts.append(f"{clocks.gpu_celsius:.0f} °C")
    return "; ".join([*(parts or ["not told by the system"]), f"load {moment.load:g}"])


def _measured(figure: Figure) -> tuple[str, ...]:
    times, clock = figure.times, ", by the GPU's clock" if figure.clock == "gpu" else ""
    numbers = (time_text(times.median), middle_text(times), time_text(times.least), str(times.runs))
    return (figure.key, *numbers, f"{figure.work}{clock}")


def _parts(figure: Figure) -> str:
    return ", ".join(f"{part} {time_text(times.median)}" for part, times in figure.parts.items())


def _counted(figure: Figure, counts: Counts) -> tuple[str, ...]:
    numbers = (counts.kernels, counts.launches, counts.copies, counts.synchronizations)
    return (figure.key, *("" if number is None else str(number) for number in numbers))


def _computed(row: Computed) -> tuple[str, ...]:
    number = f"{row.value:,.0f}" if abs(row.value) >= 1000 else f"{row.value:.3g}"
    value = time_text(row.value) if row.unit == "ms" else f"{number} {row.unit}"
    return row.name, value, row.how


def _compared(row: Row) -> tuple[str | Text, ...]:
    least, most = row.bounds
    verdict = Text(row.verdict, _COLOR[row.verdict])
    times = (time_text(row.first.median), time_text(row.second.median))
    return (row.key, *times, f"{row.ratio:.3f}", f"{least:.3f} to {most:.3f}", verdict)

"""Progress: one line a step on a pipe, a bar that moves on a terminal, also where no fraction is known."""

import io

import pytest
from helpers_graphs import tiny_module, tiny_spec
from rich.console import Console

from sttm_export import terminal
from sttm_export.contracts.target import find_target
from sttm_export.engines import build as engines
from sttm_export.engines.api import EngineError
from sttm_export.engines.progress import part_of
from sttm_export.graphs.export import export_graph
from sttm_export.terminal import Steps, Ticker, expected_end, in_words


def test_a_pipe_gets_one_line_a_step():
    console = Console(file=io.StringIO(), width=80)
    steps = Steps(2, console)
    for title in ("First", "Second"):
        with steps.step(title) as advance:
            for place in range(50):
                advance(f"part {place}", place / 50)
            advance("nobody knows", None)
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("[1/2] First  ")
    assert second.startswith("[2/2] Second  ")


def test_a_terminal_shows_what_is_done_in_lines_that_fit():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Steps(1, console).step("Export the vision encoder") as advance:
        advance("tracing and translating the module, which takes longer than anybody would like", None)
        # What the live display draws at its next turn.
        (line,) = console.render_lines(console._live_stack[-1].get_renderable(), pad=False)
    text = "".join(segment.text for segment in line)
    assert "[1/1] Export the vision encoder" in text
    assert "0:00:0" in text
    assert "tracing and" in text
    assert len(text) <= 80


class Recorder:
    """Stands in for rich's Progress."""

    def __init__(self, *_columns, **_options):
        self.totals = []
        Recorder.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def add_task(self, _description, total, **_fields):
        self.totals.append(("", total, 0.0))
        return 0

    def update(self, _task, what, total, completed, ends):
        assert ends is None
        self.totals.append((what, total, completed))


def test_the_bar_is_indeterminate_until_a_fraction_is_known(monkeypatch):
    monkeypatch.setattr(terminal, "Progress", Recorder)
    console = Console(file=io.StringIO(), force_terminal=True)
    with Steps(1, console).step("Build engines") as advance:
        for what, fraction in (("starting", 0.0), ("tracing", None), ("half", 0.5), ("saving", None), ("done", 1.0)):
            advance(what, fraction)
    assert Recorder.last.totals == [
        ("", None, 0.0),
        ("starting", None, 0.0),
        ("tracing", None, 0.0),
        ("half", 1.0, 0.5),
        ("saving", None, 0.0),
        ("done", 1.0, 1.0),
    ]


@pytest.mark.parametrize(
    ("elapsed", "fraction", "ends"),
    [
        (30.0, 0.25, 120.0),
        (30.0, 1.0, 30.0),
        (1.0, 0.5, None),
        (30.0, 0.01, None),
        (30.0, 0.0, None),
        (30.0, None, None),
    ],
)
def test_an_estimate_waits_until_enough_is_done(elapsed, fraction, ends):
    assert expected_end(elapsed, fraction) == ends


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, ""),
        (0, ""),
        (2, "about 5 s left"),
        (44, "about 45 s left"),
        (89, "about 90 s left"),
        (100, "about 2 min left"),
    ],
)
def test_what_is_left_in_words(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize(("steady", "shown"), [(True, True), (False, False)])
def test_a_steady_step_says_what_is_left(monkeypatch, steady, shown):
    """Two minutes at a quarter; half a minute later the estimate has counted down without being told anything."""
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: now[0])
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    console.get_time = lambda: now[0]
    with Steps(1, console).step("Validate", steady=steady) as advance:
        now[0] += 40
        advance("reference", 0.25)
        first = drawn(console)
        now[0] += 40
        second = drawn(console)
        advance("drawing", None)
        assert "left" not in drawn(console)
    assert ("about 2 min left" in first) == ("about 80 s left" in second) == shown
    assert ("left" in first + second) == shown


def drawn(console):
    """What the live display draws at its next turn."""
    lines = console.render_lines(console._live_stack[-1].get_renderable(), pad=False)
    return "".join(segment.text for line in lines for segment in line)


def test_an_export_tells_its_steps(tmp_path):
    told = []
    export_graph(tiny_module(), tiny_spec(), tmp_path, on_step=told.append)
    assert [words.split()[0] for words in told] == ["tracing", "cleaning", "saving", "checking"]


def test_several_builds_make_one_fraction(tmp_path, monkeypatch):
    """The bar goes once from left to right, whatever number of engines there is."""

    def build(_request, _engine, on_progress):
        for fraction in (0.0, 0.5, 1.0):
            on_progress("timing kernels", fraction)
        raise EngineError("enough")

    monkeypatch.setattr(engines, "build_engine", build)
    seen = []
    graphs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    told = part_of(lambda *row: seen.append(row), 1, 2)
    engines.build_engines(engines.plan_engines(graphs, [find_target("rtx")]), tmp_path, told)
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.5
    assert fractions[-1] == 1.0
    assert seen[0][0] == "a, rtx sm86: timing kernels"
    assert seen[-1][0] == "b, rtx: failed"


def test_a_build_in_another_process_says_what_it_does(tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    graph = export_graph(tiny_module("float16"), tiny_spec("float16"), tmp_path)
    seen = []
    requests = engines.plan_engines([graph], [find_target("rtx")], ["sm86"])
    engines.build_engines(requests, tmp_path / "e", lambda *row: seen.append(row[0]))
    said = [words.split(": ")[1] for words in seen]
    assert said[:2] == ["starting TensorRT", "reading the graph"]
    assert "Building engine" in said


def test_a_log_gets_a_state_once_a_minute_and_every_line_that_is_said():
    console, now = Console(file=io.StringIO(), width=80), [0.0]
    with Ticker(console, clock=lambda: now[0]) as ticker:
        for second in range(150):
            now[0] = float(second)
            ticker.show(f"state {second}")
        ticker.say("[b]a break[/b]")
    assert console.file.getvalue().splitlines() == ["state 0", "state 60", "state 120", "[b]a break[/b]"]


def test_a_terminal_has_one_line_that_is_renewed_and_cut():
    console, now = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None), [0.0]
    with Ticker(console, clock=lambda: now[0]) as ticker:
        ticker.show("first")
        ticker.show("too soon")
        now[0] = 0.2
        ticker.show("second " + "x" * 100)
        ticker.say("a line that stays")
        (line,) = console.render_lines(console._live_stack[-1].get_renderable(), pad=False)
    written = console.file.getvalue()
    assert "too soon" not in written
    assert "a line that stays\n" in written
    text = "".join(segment.text for segment in line)
    assert text.startswith("second xxx")
    assert len(text) <= 40

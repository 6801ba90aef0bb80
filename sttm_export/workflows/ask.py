"""Questions about a video: it is read once, and each question pays for its own tokens."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial

from sttm_export.bundle.opened import Bundle
from sttm_export.errors import UserError
from sttm_export.language.answering import Answer, answer
from sttm_export.language.prompt import question_ids
from sttm_export.language.room import USUAL_ANSWER, longest_answer
from sttm_export.terminal import Steps
from sttm_export.workflows.ask_memory import check_memory
from sttm_export.workflows.ask_request import Request, check_bundle
from sttm_export.workflows.questions import Questions
from sttm_export.workflows.reading import Reader, Reading
from sttm_export.workflows.viewing import open_loader

# Control characters move cursors and change titles; a newline and a tab are text.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def ask_bundle(bundle: Bundle, request: Request, questions: Questions, steps: Steps) -> None:
    """Read a video, or take one up, and answer questions about it on standard output.

    Raises:
        UserError: unreadable video, damaged keys and values, a question without room, no engines or memory.
    """
    check_bundle(bundle, request)
    loader = open_loader(bundle, request)
    if loader.backend.on_cpu:
        check_memory(bundle, video=request.kv is None)
    with ExitStack() as stack:
        reader = Reader(loader, steps, stack)
        reading = _read(reader, request, partial(_check_room, bundle, reader, request, questions))
        if request.save_kv is not None:
            reader.save(reading, request.save_kv)
        if bundle.weights.is_random:
            steps.say(f"{bundle.weights.describe()}: the text proves the graphs and means nothing")
        for question in questions:
            if not questions.interactive:
                steps.say(f"question: {question}")
            try:
                _answer(bundle, reader, reading, request, question, steps)
            except UserError as error:
                if not questions.interactive:
                    raise
                # Who sits there can ask otherwise, and the video has been read.
                steps.say(str(error))


def _read(reader: Reader, request: Request, check: partial[None]) -> Reading:
    if request.kv is not None:
        return reader.take_up(request.kv, check)
    assert request.video is not None, "the request was checked"
    return reader.look(request.video, request, check)


def _check_room(bundle: Bundle, reader: Reader, request: Request, questions: Questions, room: int) -> None:
    """Refuse questions that are known beforehand and have no room; where none is, one of a single letter has none."""
    for question in questions.given or ["?"]:
        ids = question_ids(reader.tokenizer, bundle.manifest.recipe.prompt, question)
        longest_answer(len(ids), room, request.most)


def _answer(bundle: Bundle, reader: Reader, reading: Reading, request: Request, question: str, steps: Steps) -> None:
    """Print an answer as it comes; what is said about it goes to standard error, so that a pipe gets text only."""
    prompt = bundle.manifest.recipe.prompt
    ids = question_ids(reader.tokenizer, prompt, question)
    most = longest_answer(len(ids), reading.room, request.most)
    if most < (request.most or USUAL_ANSWER):
        steps.say(f"there is room for an answer of {most} tokens")
    stop = reader.tokenizer.stop_ids(prompt)
    record, text = answer(reading.model, reader.tokenizer, ids, most, request.chooser(), stop)
    terminal = sys.stdout is not None and sys.stdout.isatty()
    try:
        for piece in text:
            print(piece.translate(_CONTROLS) if terminal else piece, end="", flush=True)
    finally:
        print(flush=True)
    steps.say(summary(record, reading, bundle))


def summary(record: Answer, reading: Reading, bundle: Bundle) -> str:
    """One line about an answer: what it took with the video read, and what it would have taken without that."""
    about, first = reading.about, in_seconds(record.first)
    if reading.seconds is not None:
        first += f", or {in_seconds(reading.seconds + record.first)} with reading the video"
    parts = [
        f"{record.tokens} tokens, {record.end}",
        f"the first after {first}",
        *([f"{record.rate:.1f} tokens a second"] if record.rate is not None else []),
        f"{about.tokens} of {about.frames * bundle.merge.cells} tokens of the video kept",
    ]
    return "; ".join(parts)


def in_seconds(seconds: float) -> str:
    """`4 ms`, `12.3 s`."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"

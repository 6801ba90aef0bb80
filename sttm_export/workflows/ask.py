"""Questions about a video: it is read once, and each question pays for its own tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
from sttm_export.errors import UserError
from sttm_export.language.choose import Sampler, greedy
from sttm_export.language.prompt import question_ids
from sttm_export.language.room import USUAL_ANSWER, longest_answer
from sttm_export.terminal import Steps
from sttm_export.workflows.answering import Answer, Choose, answer
from sttm_export.workflows.ask_memory import check_memory
from sttm_export.workflows.questions import Questions
from sttm_export.workflows.reading import Reader, Reading
from sttm_export.workflows.viewing import Loader, Viewing, check_outputs, check_policy, check_viewing

# Control characters move cursors and change titles; a newline and a tab are text.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


@dataclass(frozen=True)
class Request(Viewing):
    """What to ask about, and how answers are chosen; None leaves the usual value."""

    video: Path | None = None  # the file; None with `kv`
    kv: Path | None = None  # keys and values of a video that was read earlier
    save_kv: Path | None = None  # where to write them
    most: int | None = None  # tokens of an answer
    temperature: float = 0.0  # 0: the likeliest token each time
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    @property
    def steps(self) -> int:
        """How many steps there are before the first question."""
        return 3 if self.kv else 5 + (self.save_kv is not None)

    def chooser(self) -> Choose:
        """What chooses the tokens of one answer; with a seed each answer is repeated, whatever was asked before it."""
        if self.temperature == 0:
            return greedy
        return Sampler(self.temperature, self.top_k or 0, 1.0 if self.top_p is None else self.top_p, self.seed or 0)


def check_request(request: Request) -> None:
    """Refuse, before any work, values that are not possible together and outputs that cannot be written.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    check_viewing(request)
    _check_sources(request)
    if request.most is not None and request.most < 1:
        raise UserError(f"--max-new-tokens {request.most} would be no answer; give 1 or more.")
    drawing = {"--top-k": request.top_k, "--top-p": request.top_p, "--seed": request.seed}
    given = [option for option, value in drawing.items() if value is not None]
    if request.temperature == 0 and given:
        raise UserError(
            f"{given[0]} does nothing where the likeliest token is taken each time; give a --temperature above 0 with "
            "it, or leave it out."
        )
    request.chooser()
    if request.save_kv is not None and request.video is not None:
        check_outputs({"--save-kv": request.save_kv}, {"the video": request.video})


def take_questions(given: Sequence[str], request: Request) -> Questions:
    """Return the questions; who only keeps a video needs none.

    Raises:
        UserError: there is none, or it is no text.
    """
    questions = Questions(given)
    if not questions.any and request.save_kv is None:
        raise UserError(
            "There is no question, neither on the command line nor on standard input; give one, or --save-kv FILE to "
            "read the video for later."
        )
    return questions


def check_bundle(bundle: Bundle, request: Request) -> None:
    """Refuse a bundle that cannot be asked.

    Raises:
        UserError: it has no decoder, or lacks a file that goes with one.
    """
    if bundle.manifest.decoding is None:
        raise UserError(
            f"{bundle.path} has no language model to ask; export it again with --decoder, or see its tokens with "
            "`sttm-export run`."
        )
    listed = {row.path for row in bundle.manifest.files}
    if lacking := [name for name in (EMBEDDINGS, TOKENIZER) if name not in listed]:
        raise UserError(f"{bundle.path} lacks {lacking[0]}, which goes with a language model; export it again.")
    check_policy(bundle, request)


def ask_bundle(bundle: Bundle, request: Request, questions: Questions, steps: Steps) -> None:
    """Read a video, or take one up, and answer questions about it on standard output.

    Raises:
        UserError: unreadable video, damaged keys and values, a question without room, no engines or memory.
    """
    check_bundle(bundle, request)
    loader = Loader(bundle, request)
    if loader.in_memory:
        check_memory(bundle, video=request.kv is None)
    with ExitStack() as stack:
        reader = Reader(loader, steps, stack)
        reading = _read(reader, request, partial(_check_room, bundle, reader, request, questions))
        if request.save_kv is not None:
            reader.save(reading, request.save_kv)
        if bundle.weights.is_random:
            steps.say(f"{bundle.weights.describe()}: the text proves the graphs and means nothing")
        for question in questions:
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
    steps.say(f"question: {question}")
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


def _check_sources(request: Request) -> None:
    if request.kv is None and request.video is None:
        raise UserError("There is nothing to ask about; give --video FILE, or --kv FILE of a video that was read.")
    if request.kv is None:
        return
    about_video = {
        "--video": request.video,
        "--save-kv": request.save_kv,
        "--fps": request.fps,
        "--spatial-threshold": request.spatial,
        "--temporal-threshold": request.temporal,
    }
    if given := [option for option, value in about_video.items() if value is not None]:
        raise UserError(f"--kv takes up a video that was read, so {given[0]} does nothing; leave one of the two out.")

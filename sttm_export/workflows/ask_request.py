"""What is asked of a bundle, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.errors import UserError
from sttm_export.language.answering import Choose
from sttm_export.pipeline.speaking import Asking, check_can_speak
from sttm_export.workflows.questions import Questions
from sttm_export.workflows.viewing import Viewing, check_outputs, check_policy, check_viewing


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
        """See `Asking.chooser`."""
        drawn = Asking(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed)
        return drawn.chooser()


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
    check_can_speak(bundle)
    check_policy(bundle, request)


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

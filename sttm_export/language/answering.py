"""One question: its answer as text that comes as it is made, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sttm_export.language.model import LanguageModel
from sttm_export.language.rows import Floats
from sttm_export.language.tokenizer import Tokenizer

Choose = Callable[[Floats], int]


@dataclass
class Answer:
    """What became of a question; times of the monotonic clock in seconds."""

    asked: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list)  # when each token was chosen, one that ends the answer included
    stopped: bool = False  # whether such a token came

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.asked

    @property
    def tokens(self) -> int:
        """Tokens that have text."""
        return len(self.times) - self.stopped

    @property
    def rate(self) -> float | None:
        """Tokens a second behind the first; None where there is only one."""
        taken = self.times[-1] - self.times[0]
        return (len(self.times) - 1) / taken if taken > 0 else None

    @property
    def end(self) -> str:
        """Why it ended."""
        return "ended by itself" if self.stopped else "cut off at the limit"


def answer(
    model: LanguageModel, tokenizer: Tokenizer, question: Sequence[int], most: int, choose: Choose, stop: frozenset[int]
) -> tuple[Answer, Iterator[str]]:
    """Ask; the record is complete when the text has been taken.

    Args:
        model: that has read a video.
        tokenizer: of the bundle.
        question: ids of the question and of the prompt behind it.
        most: tokens at most.
        choose: logits → the next token.
        stop: ids that end an answer.
    """
    record = Answer()

    def tokens() -> Iterator[int]:
        for token in model.ask(question, most, choose):
            record.times.append(time.perf_counter())
            if token in stop:
                record.stopped = True
                return
            yield token

    return record, tokenizer.decode(tokens())

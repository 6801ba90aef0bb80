"""What stands around a video and a question: the table `prompt` of a model file.

A prompt is [before][video][behind][question][after]. All of it up to the question is the same for every question about
a video, so it is read once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sttm_export.errors import UserError

PLACEHOLDERS = ("{seconds}", "{frames}", "{times}")
"""What `behind` may hold, and each video has of its own."""
SPECIAL = re.compile(r"<\|[^|<>\s]+\|>")
"""Text of a special token of Qwen2's kind."""
_BRACES = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class PromptSpec:
    """Text in its published form; special tokens stand in it by name."""

    before: str
    behind: str  # may hold PLACEHOLDERS, which are replaced as they stand: this is no format string
    after: str  # up to where the answer begins
    stop: tuple[str, ...]  # tokens that end an answer

    def __post_init__(self) -> None:
        """Refuse what no prompt can be; every fault in one message."""
        texts = {"before": self.before, "behind": self.behind, "after": self.after}
        faults = [
            f"{name} holds {found}, and only behind may hold {', '.join(PLACEHOLDERS)}"
            for name, text in texts.items()
            for found in _BRACES.findall(text)
            if (found not in PLACEHOLDERS if name == "behind" else found in PLACEHOLDERS)
        ]
        faults += [
            f"{name} is not Unicode text"
            for name, text in (texts | {"stop": "".join(self.stop)}).items()
            if _torn(text)
        ]
        if self.behind and not re.search(rf"(\n|{SPECIAL.pattern})\Z", self.behind):
            # Then a question begins a token of its own, and behind can be read before there is one.
            faults.append("behind must end with a newline or a special token")
        if not self.stop or "" in self.stop:
            faults.append("stop must name the tokens that end an answer")
        if faults:
            raise UserError(f"no prompt can be like this: {'; '.join(faults)}.")

    @property
    def tokens(self) -> tuple[str, ...]:
        """Special tokens that a vocabulary must have, each once."""
        return tuple(dict.fromkeys([*SPECIAL.findall(self.before + self.behind + self.after), *self.stop]))


def _torn(text: str) -> bool:
    """Whether it holds half a surrogate pair, as JSON can write one."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)

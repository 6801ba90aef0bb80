"""A Jetson's power mode by its name: what it is, and which is the fastest.

Numbers say nothing across boards: mode 0 is MAXN on an AGX Orin, MAXN_SUPER on an Orin NX, and 15 W on an Orin Nano,
where MAXN_SUPER is 2. Each board's own `nvpmodel.conf` has the names.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sttm_export.engines.meminfo import ROOT
from sttm_export.machine.jetpack import read_text

CONFIG, STATUS = "etc/nvpmodel.conf", "var/lib/nvpmodel/status"
# Fastest first: no cap on clocks.
_UNCAPPED = ("MAXN_SUPER", "MAXN", "MODE_MAXN")
_SECONDS = 10.0


@dataclass(frozen=True)
class PowerFacts:
    """Power modes of a board.

    Attributes:
        mode: name of the one it is in, such as `15W`; `mode 3` for one without a name, empty where it is not known.
        fastest: name of the one without caps; empty where the board names none.
        number: what `nvpmodel -m` takes for that one; None without one.
    """

    mode: str = ""
    fastest: str = ""
    number: int | None = None

    @property
    def advice(self) -> str:
        """How to get the fastest mode; empty where it is the one, or where there is nothing to say."""
        if not self.fastest or self.mode == self.fastest:
            return ""
        return f"the fastest is {self.fastest}: sudo nvpmodel -m {self.number}"

    @property
    def described(self) -> str:
        """The mode, and how to get a faster one."""
        return f"{self.mode or 'not known'}{f' ({self.advice})' if self.advice else ''}"


def read_power(root: Path = ROOT) -> PowerFacts:
    """Read the files of `nvpmodel`, as the tool may ask for root; it is asked only where it left no status.

    Args:
        root: `/`, or a directory that stands in for it; the tool is not asked for such a one.
    """
    rows = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", read_text(root / CONFIG), re.MULTILINE)
    names = {int(number): name for number, name in rows}
    status = re.search(r"pmode:(\d+)", read_text(root / STATUS))
    if status is not None:
        mode = names.get(int(status.group(1)), f"mode {int(status.group(1))}")
    else:
        mode = _asked() if names and root == ROOT else ""
    fastest = next((name for name in _UNCAPPED if name in names.values()), "")
    return PowerFacts(mode, fastest, next((number for number, name in names.items() if name == fastest), None))


def parse_query(text: str) -> str:
    """Return the name in what `nvpmodel -q` prints; empty where there is none."""
    found = re.search(r"NV Power Mode:\s*(\S+)", text)
    return found.group(1) if found else ""


def _asked() -> str:
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return parse_query(done.stdout)

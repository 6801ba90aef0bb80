"""What a Jetson is: its JetPack and its power mode, read from files that NVIDIA's packages leave.

Jetson Linux (L4T) is the system under JetPack. Every Jetson states its release in `/etc/nv_tegra_release`; the version
of JetPack is only known where the metapackage `nvidia-jetpack` is installed, and follows from the release otherwise.
Source of the table: NVIDIA's download pages of JetPack 6.0 to 7.2 (docs/device.md names them).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sttm_export.system import ROOT, read_text

RELEASE_FILE = "etc/nv_tegra_release"
DPKG_STATUS = "var/lib/dpkg/status"
# Packages whose versions say what a JetPack holds.
PACKAGES = ("nvidia-jetpack", "nvidia-l4t-core", "tensorrt", "libnvinfer10", "libnvinfer11", "python3-libnvinfer")
_JETPACK_OF = {
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
    "39.2.1": "7.2.1",
}
_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_CONFIG, _STATUS = "etc/nvpmodel.conf", "var/lib/nvpmodel/status"
# Fastest first: no cap on clocks.
_UNCAPPED = ("MAXN_SUPER", "MAXN", "MODE_MAXN")
_SECONDS = 10.0


@dataclass(frozen=True)
class PowerFacts:
    """A board's power mode by its name: which one it is in, and which is the fastest.

    Numbers say nothing across boards: mode 0 is MAXN on an AGX Orin, MAXN_SUPER on an Orin NX, and 15 W on an Orin
    Nano, where MAXN_SUPER is 2. Each board's own `nvpmodel.conf` has the names.
    """

    mode: str = ""  # such as `15W`; `mode 3` for one without a name, empty where it is not known
    fastest: str = ""  # the one without caps; empty where the board names none
    number: int | None = None  # what `nvpmodel -m` takes for that one

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


def read_l4t(root: Path, packages: dict[str, str]) -> str:
    """Return the release of Jetson Linux such as `36.4.3`; empty where this is no Jetson.

    Containers often lack the release file, but have NVIDIA's core package.

    Args:
        root: `/`, or a directory that stands in for it.
        packages: what `read_packages` gave.
    """
    match = _RELEASE.search(read_text(root / RELEASE_FILE))
    if match:
        return f"{match.group(1)}.{match.group(2)}"
    return packages.get("nvidia-l4t-core", "").split("-")[0]


def read_packages(root: Path, names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of those Debian packages that are installed."""
    wanted, found = set(names), {}
    for stanza in read_text(root / DPKG_STATUS).split("\n\n"):
        head = stanza.partition("\n")[0]
        name = head[len("Package: ") :]
        if name not in wanted or "\nStatus: install ok installed" not in stanza:
            continue
        version = re.search(r"^Version: (.+)$", stanza, re.MULTILINE)
        if version:
            found[name] = version.group(1)
    return found


def read_jetpack(l4t: str, packages: dict[str, str]) -> str:
    """Return JetPack's version such as `6.2.1`; with `or later` where only an older release is in the table."""
    if "nvidia-jetpack" in packages:
        return packages["nvidia-jetpack"].split("+")[0]
    release = release_numbers(l4t)
    known = [name for name in _JETPACK_OF if release_numbers(name)[:2] == release[:2]]
    older = [name for name in known if release_numbers(name) <= release]
    if not older:
        return ""
    nearest = max(older, key=release_numbers)
    exact = release_numbers(nearest) == release
    return _JETPACK_OF[nearest] if exact else f"{_JETPACK_OF[nearest]} or later"


def release_numbers(release: str) -> tuple[int, ...]:
    """Return a release as numbers, to compare by; `36.4.0` and `36.4` are one release."""
    parts = [int(part) for part in release.split(".") if part.isdigit()]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def read_power(root: Path = ROOT) -> PowerFacts:
    """Read the files of `nvpmodel`, as the tool may ask for root; it is asked only where it left no status.

    Args:
        root: `/`, or a directory that stands in for it; the tool is not asked for such a one.
    """
    rows = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", read_text(root / _CONFIG), re.MULTILINE)
    names = {int(number): name for number, name in rows}
    status = re.search(r"pmode:(\d+)", read_text(root / _STATUS))
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

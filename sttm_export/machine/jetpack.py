"""Which JetPack a Jetson has, read from files that NVIDIA's packages leave; nothing is started.

Jetson Linux (L4T) is the system under JetPack. Every Jetson states its release in `/etc/nv_tegra_release`; the version
of JetPack is only known where the metapackage `nvidia-jetpack` is installed, and follows from the release otherwise.
Source of the table: NVIDIA's download pages of JetPack 6.0 to 7.2 (docs/device.md names them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

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


def read_text(path: Path) -> str:
    """Return a file's text; empty where it is not there. Device-tree strings end in a NUL, which is cut."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
    except OSError:
        return ""


def release_numbers(release: str) -> tuple[int, ...]:
    """Return a release as numbers, to compare by; `36.4.0` and `36.4` are one release."""
    parts = [int(part) for part in release.split(".") if part.isdigit()]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)

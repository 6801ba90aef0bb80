"""What building for a target takes, held against a machine: every check by name, each with what would fix it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sttm_export.contracts.target import TargetSpec
from sttm_export.machine.facts import MachineFacts
from sttm_export.machine.jetson import release_numbers
from sttm_export.machine.needs import Needs
from sttm_export.system import size_text

Status = Literal["ok", "failed", "unknown"]
OLDEST_PYTHON = (3, 10)
OLDEST_NUMPY = (1, 21)
# No --gpus: NVIDIA's container toolkit refuses it on Jetsons (nvidia-container-runtime-hook).
_CONTAINER = 'docker run --runtime nvidia --group-add video --group-add "$(getent group render | cut -d: -f3)"'


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    status: Status  # `unknown` where the machine does not say; that refuses nothing
    found: str
    needed: str
    fix: str = ""  # what to do; empty if ok

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def check_machine(facts: MachineFacts, target: TargetSpec) -> list[Check]:
    """Hold machine, system, GPU and software against a target, whatever is to be built.

    Args:
        facts: this machine.
        target: what to build for.
    """
    checks = [_processor(facts, target)]
    checks += [_jetpack(facts, target)] if target.l4t else []
    return [*checks, _gpu(facts, target), _tensorrt(facts, target), _python(facts), _numpy(facts)]


def check_room(
    facts: MachineFacts, needs: Needs, disk: int | None, writable: bool, place: str, *, ignore_memory: bool = False
) -> list[Check]:
    """Hold free memory and disk against what the build of a bundle needs.

    Args:
        facts: this machine.
        needs: of the bundle.
        disk: bytes that can be written where the bundle lies.
        writable: whether anything can be written there.
        place: the bundle's directory, for what to do.
        ignore_memory: whether too little memory is said and not refused.
    """
    memory = _memory(facts, needs)
    if ignore_memory and memory.status == "failed":
        memory = dataclasses.replace(memory, status="unknown", fix="--ignore-memory: tried all the same")
    return [memory, _disk(needs, disk, place), _writable(writable, place)]


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that refuse the machine."""
    return [check for check in checks if check.status == "failed"]


def _judge(name: str, good: bool, found: str, needed: str, fix: str) -> Check:
    return Check(name, "ok" if good else "failed", found, needed, "" if good else fix)


def _processor(facts: MachineFacts, target: TargetSpec) -> Check:
    place = "on the Jetson itself" if target.built == "device" else f"on an {target.machine} machine with the GPU"
    fix = f"build {place}; TensorRT has no cross-build"
    good = facts.processor == target.machine and facts.system == "Linux"
    return _judge("processor", good, f"{facts.system} {facts.processor}", f"Linux {target.machine}", fix)


def _jetpack(facts: MachineFacts, target: TargetSpec) -> Check:
    needed = f"JetPack {_listed(target.jetpack)} (Jetson Linux {', '.join(target.l4t)})"
    if not facts.l4t:
        # A container on a Jetson need not carry the release file; TensorRT's version decides there.
        found = "not stated by this system"
        status: Status = "unknown" if facts.processor == target.machine else "failed"
        fix = f"use a Jetson with {needed}" if status == "failed" else "nothing, if the rest fits: TensorRT decides"
        return Check("JetPack", status, found, needed, fix)
    here, known = release_numbers(facts.l4t), [release_numbers(release) for release in target.l4t]
    good = any(here[: len(release)] == release for release in known)
    found = f"JetPack {facts.jetpack or '?'} (Jetson Linux {facts.l4t})"
    if not good and here[:1] == max(known)[:1] and here > max(known):
        # A later release of the same line may still have the target's TensorRT, which is what an engine depends on.
        return Check("JetPack", "unknown", found, needed, "nothing, if the rest fits: later than what is known here")
    fix = f"flash {needed} with NVIDIA's SDK Manager, or take the --target of the JetPack that is here"
    return _judge("JetPack", good, found, needed, fix)


def _gpu(facts: MachineFacts, target: TargetSpec) -> Check:
    needed = " or ".join(target.compute_capabilities)
    if facts.gpu is None:
        found, _, advice = facts.gpu_fault.rstrip(".").partition("; ")
        fix = advice or "use a machine with an NVIDIA GPU and its driver"
        start = _CONTAINER if target.built == "device" else "docker run --gpus all"
        fix += "" if "--group-add" in fix else f"; in a container, start it with the GPU: {start}"
        return Check("GPU", "failed", found or "no NVIDIA GPU", needed, fix)
    found = f"{facts.gpu.compute_capability} ({facts.gpu.name or 'no name'})"
    fix = "take the --target that names this GPU; an engine runs on the GPU it was built for"
    return _judge("GPU", facts.gpu.compute_capability in target.compute_capabilities, found, needed, fix)


def _tensorrt(facts: MachineFacts, target: TargetSpec) -> Check:
    module = facts.tensorrt.get(target.flavour)
    needed = f"{target.flavour} {target.tensorrt_version}"
    if module is None or not module.loads:
        reason = module.reason if module else "not installed"
        return Check("TensorRT", "failed", f"Python package: {reason}", needed, _install(facts, target, reason))
    fix = (
        "install that version, or take the --target that has yours: an engine runs only with the version that built it"
    )
    return _judge("TensorRT", target.has_tensorrt(module.version), module.version, needed, fix)


def _install(facts: MachineFacts, target: TargetSpec, reason: str) -> str:
    if target.flavour == "tensorrt-rtx":
        return "pip install 'sttm-export[rtx]'"
    if facts.virtual and target.built == "device":
        return (
            "JetPack installs TensorRT for the system's Python, and this one is a virtual environment's: run "
            "PYTHON=/usr/bin/python3 bash build.sh, or make the environment with --system-site-packages"
        )
    if reason != "not installed":
        return "fix what keeps it from loading: the reason is TensorRT's own"
    if target.built == "device":
        return "sudo apt install nvidia-jetpack python3-libnvinfer"
    return f"pip install 'tensorrt=={target.tensorrt_version}.*'" + (
        f", or use the container {target.image}" if target.image else ""
    )


def _python(facts: MachineFacts) -> Check:
    needed = f"Python {_dotted(OLDEST_PYTHON)} or later"
    good = _parts(facts.python, 2) >= OLDEST_PYTHON
    return _judge("Python", good, facts.python, needed, f"use a {needed}: PYTHON=/path/to/python3 bash build.sh")


def _numpy(facts: MachineFacts) -> Check:
    needed = f"NumPy {_dotted(OLDEST_NUMPY)} or later"
    fix = "sudo apt install python3-numpy" if not facts.virtual else "pip install numpy"
    if not facts.numpy.loads:
        return Check("NumPy", "failed", facts.numpy.reason, needed, fix)
    return _judge("NumPy", _parts(facts.numpy.version, 2) >= OLDEST_NUMPY, facts.numpy.version, needed, fix)


def _memory(facts: MachineFacts, needs: Needs) -> Check:
    needed = f"{size_text(needs.memory)} free ({needs.memory_reason})"
    usable = facts.memory.usable
    if usable is None:
        return Check("memory", "unknown", "not stated by this system", needed)
    limit = facts.memory.limit
    found = f"{size_text(usable)} free" + (f" below the container's limit of {size_text(limit)}" if limit else "")
    missing = size_text(max(needs.memory - usable, 0))
    fix = (
        f"free {missing}: close other programs, stop the desktop (sudo systemctl isolate multi-user.target); or add "
        "swap on a disk (sudo fallocate -l 8G /swap; sudo chmod 600 /swap; sudo mkswap /swap; sudo swapon /swap), "
        "which takes the processor's part only, and try with --ignore-memory"
    )
    return _judge("memory", usable >= needs.memory, found, needed, fix)


def _disk(needs: Needs, disk: int | None, place: str) -> Check:
    needed = f"{size_text(needs.disk)} free ({needs.disk_reason})"
    if disk is None:
        return Check("disk", "unknown", "not stated by this system", needed)
    fix = f"free {size_text(max(needs.disk - disk, 0))} where {place} lies, or copy the bundle to a larger disk"
    return _judge("disk", disk >= needs.disk, f"{size_text(disk)} free", needed, fix)


def _writable(writable: bool, place: str) -> Check:
    found = "writable" if writable else "read-only"
    fix = f"copy the bundle to a disk that can be written, or change the rights of {place}"
    return _judge("bundle", writable, found, "a place to write engines to", fix)


def _listed(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _parts(version: str, count: int) -> tuple[int, ...]:
    digits = ["".join(filter(str.isdigit, part)) for part in version.split(".")[:count]]
    return tuple(int(part or 0) for part in digits)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

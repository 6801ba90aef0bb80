"""The timing cache: kept beside the engines, known by its sha256, and refused wherever it does not fit.

A builder times kernels and takes the fastest, so noise decides between close ones, and two builds of one graph may
differ in their results. A cache of the timings makes later builds choose alike.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sttm_export.bundle.records import CacheUse
from sttm_export.contracts.records import read_json
from sttm_export.engines.faults import EngineError
from sttm_export.errors import UserError

CACHE_NAME = "timing.cache"
_AGAIN = "leave it out to time anew"


def pin_path(cache: Path) -> Path:
    """Where the sha256 of a cache lies, in the form that `sha256sum -c` reads."""
    return cache.with_name(cache.name + ".sha256")


def origin_path(cache: Path) -> Path:
    """Where TensorRT version and GPU of a cache lie; trtexec takes a cache of any GPU, so they are compared here."""
    return cache.with_name(cache.name + ".json")


def read_cache(cache: Path, tensorrt: str, compute_capability: str, *, frozen: bool) -> bytes:
    """Read a cache that belongs to this TensorRT and this GPU; a missing one is empty unless it is frozen.

    Raises:
        UserError: missing and frozen, not pinned, not what its pin says, or made elsewhere.
    """
    if not cache.is_file():
        if frozen:
            raise UserError(f"{cache} is missing, and a frozen timing cache is read, not made; build once without it.")
        return b""
    content = cache.read_bytes()
    _check_pin(cache, content)
    _check_origin(cache, tensorrt, compute_capability)
    return content


def write_cache(cache: Path, content: bytes, tensorrt: str, compute_capability: str) -> None:
    """Write a cache with its pin and origin; each file appears whole."""
    origin = json.dumps({"compute_capability": compute_capability, "tensorrt": tensorrt}, sort_keys=True)
    texts = {pin_path(cache): f"{_sha256(content)}  {cache.name}\n", origin_path(cache): origin + "\n"}
    files = {cache: content} | {path: text.encode() for path, text in texts.items()}
    for path, data in files.items():
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(data)
        partial.replace(path)


def copy_cache(cache: Path, to: Path) -> None:
    """Copy a cache with its pin and origin, each whole; what `to` has of another cache goes."""
    for source, place in ((cache, to), (pin_path(cache), pin_path(to)), (origin_path(cache), origin_path(to))):
        if not source.is_file():
            place.unlink(missing_ok=True)
            continue
        content = source.read_bytes()
        if source == pin_path(cache):
            content = content.replace(cache.name.encode(), to.name.encode())
        partial = place.with_name(place.name + ".partial")
        partial.write_bytes(content)
        partial.replace(place)


def attach(config: Any, module: Any, content: bytes, cache: Path) -> None:
    """Give a cache to a build; TensorRT compares its own header with version and GPU.

    Raises:
        UserError: TensorRT does not take it.
    """
    made = config.create_timing_cache(content)
    if made is None or not config.set_timing_cache(made, False):
        raise UserError(
            f"TensorRT {module.__version__} does not take {cache}: it is of another TensorRT, another GPU or damaged; "
            f"give the cache of this machine, or {_AGAIN}."
        )


def detach(config: Any) -> bytes:
    """Return what the cache holds after a build."""
    with_timings = config.get_timing_cache()
    return b"" if with_timings is None else bytes(memoryview(with_timings.serialize()))


def use_of(cache: Path, before: bytes, after: bytes, *, frozen: bool) -> CacheUse:
    """Describe a build's use of a cache.

    The flag ERROR_ON_TIMING_CACHE_MISS alone is not trusted: it was reported not to stop every miss of TensorRT 11.0
    (NVIDIA/TensorRT-Model-Connect, pull request 449), so a frozen cache that grew is a miss, too.

    Raises:
        EngineError: the cache is frozen, and the build changed it.
    """
    if frozen and before != after:
        raise EngineError(
            f"the frozen timing cache {cache.name} does not hold every kernel of this build; build once without "
            "--frozen-timing-cache, and freeze the cache that this leaves"
        )
    return CacheUse(cache.name, _sha256(before) if before else "", _sha256(after) if after else "", frozen)


def _check_pin(cache: Path, content: bytes) -> None:
    pin = pin_path(cache)
    if not pin.is_file():
        raise UserError(
            f"{cache} has no {pin.name} beside it; if you trust the cache, pin it there with "
            f"`sha256sum {cache.name} > {pin.name}`, or {_AGAIN}."
        )
    if pin.read_text(encoding="utf-8").split(" ", 1)[0].strip() != _sha256(content):
        raise UserError(f"{cache} is not the cache that {pin.name} pins; bring back the one that is, or {_AGAIN}.")


def _check_origin(cache: Path, tensorrt: str, compute_capability: str) -> None:
    origin = origin_path(cache)
    if not origin.is_file():
        return
    try:
        made = dict(read_json(origin))
    except (ValueError, TypeError) as error:
        raise UserError(f"{origin} cannot be read, it is no JSON object; bring back its own, or remove it.") from error
    if made != {"compute_capability": compute_capability, "tensorrt": tensorrt}:
        raise UserError(
            f"{cache} is of TensorRT {made.get('tensorrt')} on {made.get('compute_capability')}, here is {tensorrt} on "
            f"{compute_capability}, and timings of other machines mislead; {_AGAIN}."
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""NVIDIA's own tool instead of the Python API: the same options as a command line, and a build with it.

A JetPack always has trtexec, but not always TensorRT's Python bindings. What it is told here gives the engine that
`build.build_engine` asks for; flags after the help of trtexec 10.6, NVIDIA's migration guides for 10 and 11, and the
sources of its sample options.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.children import bound_command
from sttm_export.engines.faults import EngineError, UnavailableError
from sttm_export.engines.meminfo import ROOT
from sttm_export.engines.options import BuildOptions
from sttm_export.errors import UserError

# Where JetPack and the Debian packages put it, below `/`; it is not on PATH there.
INSTALLED = "usr/src/tensorrt/bin/trtexec"
_VERSION = re.compile(r"\[TensorRT v(\d+)\](?: \[b(\d+)\])?")


def trtexec_command(
    target: TargetSpec,
    onnx_path: Path,
    engine: Path,
    options: BuildOptions = BuildOptions(),  # noqa: B008 # frozen, so one for all calls is fine
    *,
    program: str = "trtexec",
) -> list[str]:
    """Return the command line that builds an engine and does not run it.

    Args:
        target: full TensorRT; its `trtexec_flags` keep the types of the graph.
        onnx_path: the graph.
        engine: where it goes.
        options: the same as for the Python API.
        program: name or path of trtexec.

    Raises:
        UserError: TensorRT-RTX, which is not built with trtexec.
    """
    if target.flavour != "tensorrt":
        raise UserError(f"trtexec is a tool of full TensorRT and does not build for '{target.name}'; use --with api.")
    command = [program, f"--onnx={onnx_path}", f"--saveEngine={engine}", *target.trtexec_flags, "--noTF32"]
    command.append("--profilingVerbosity=detailed")
    if options.workspace_mib is not None:
        command.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.timing_cache is not None:
        command.append(f"--timingCacheFile={options.timing_cache}")
    if options.frozen_timing_cache:
        command.append("--errorOnTimingCacheMiss")
    if options.version_compatible:
        command.append("--versionCompatible")
    if options.strip_weights:
        # Implies REFIT_IDENTICAL, as the Python path sets it.
        command.append("--stripWeights")
    if options.optimization_level is not None:
        command.append(f"--builderOptimizationLevel={options.optimization_level}")
    return [*command, "--skipInference"]


def locate_trtexec(root: Path = ROOT) -> str:
    """Return the path of trtexec, from PATH or where JetPack puts it; empty where there is none.

    Args:
        root: `/`, or a directory that stands in for it.
    """
    beside = root / INSTALLED
    return shutil.which("trtexec") or (str(beside) if os.access(beside, os.X_OK) else "")


def find_trtexec(root: Path = ROOT) -> str:
    """The same, for those who need it.

    Raises:
        UnavailableError: there is none.
    """
    found = locate_trtexec(root)
    if not found:
        raise UnavailableError(
            f"trtexec is neither on PATH nor at /{INSTALLED}; install it (on a Jetson: sudo apt install "
            "libnvinfer-bin), or use TensorRT's Python API with --with api."
        )
    return found


def trtexec_version(program: str) -> str:
    """Return the TensorRT version of a trtexec, such as `10.3.0.30`, from the first line that it prints.

    Raises:
        UnavailableError: it does not start, or says no version.
    """
    try:
        done = subprocess.run([program, "--help"], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise UnavailableError(f"{program} does not start ({error.strerror}); install it anew.") from error
    found = _VERSION.search(done.stdout + done.stderr)
    if found is None:
        first = (done.stderr or done.stdout).strip().split("\n", 1)[0]
        raise UnavailableError(f"{program} does not say its version ('{first[:120]}'); install it anew.")
    return _dotted(int(found.group(1)), found.group(2))


def run_trtexec(command: Sequence[str], on_line: Callable[[str], None]) -> None:
    """Run trtexec to its end; whatever ends the wait early, or this process, ends trtexec, too.

    Args:
        command: from `trtexec_command`.
        on_line: called with every line of its output.

    Raises:
        EngineError: it failed; with the signal where one ended it.
    """
    with subprocess.Popen(
        bound_command(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                on_line(line.rstrip("\n"))
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        raise EngineError(f"signal {-code}" if code < 0 else f"exit code {code}")


def _dotted(number: int, build: str | None) -> str:
    """`100300` and `30` to `10.3.0.30`; before version 10, trtexec wrote `8602` for 8.6.2."""
    scale = 10000 if number >= 100000 else 1000
    major, rest = divmod(number, scale)
    minor, patch = divmod(rest, 100)
    return f"{major}.{minor}.{patch}" + (f".{build}" if build else "")

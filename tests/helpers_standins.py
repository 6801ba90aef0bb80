"""A machine with a GPU and TensorRT, pretended: for this process, or for one that a test starts.

What is pretended and which knobs there are stands in `standins/sitecustomize.py`.
"""

import ctypes
import importlib
import os
import platform
import sys
import types
from pathlib import Path

import pytest

ORIN = "jetson-orin-jp62"
MODULES = ("standin_log", "standin_cuda", "standin_engine", "standin_runtime", "standin_builder", "tensorrt")
STANDINS = Path(__file__).resolve().parent / "standins"


def standin_environment(**knobs):
    """The environment of a subprocess with a GPU: `standin_environment(cc="8.9", log=path, machine="aarch64")`."""
    paths = [str(STANDINS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **_variables(knobs)}


def pretend_gpu(monkeypatch, **knobs):
    """Give this process, and the children that it starts, a GPU and full TensorRT until the test ends.

    Returns:
        `driver` (what `standin_cuda.library()` gives; `driver.live()` shows leaks), `log` (the module `standin_log`),
        `rtx` (a module with the surface of TensorRT-RTX, for `Api("tensorrt-rtx", rtx)`), and `knob(**knobs)` to
        change one later.
    """
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.setenv("PYTHONPATH", standin_environment()["PYTHONPATH"])
    set_knobs(monkeypatch, **knobs)
    for name in MODULES:
        # So that the end of the test takes the module out of `sys.modules` again, or puts back what was there.
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    for name in MODULES:
        importlib.import_module(name)
    if "machine" in knobs:
        monkeypatch.setattr(platform, "machine", lambda: os.environ["STTM_STANDIN_MACHINE"])
    cuda = importlib.import_module("standin_cuda")
    monkeypatch.setattr(ctypes, "CDLL", cuda.PretendCDLL)
    log = importlib.import_module("standin_log")
    return types.SimpleNamespace(
        driver=cuda.library(), log=log, rtx=_rtx(), knob=lambda **more: set_knobs(monkeypatch, **more)
    )


def set_knobs(monkeypatch, **knobs):
    """Set STTM_STANDIN_<NAME> for each keyword; None removes it."""
    for name, value in _variables(knobs).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


def _variables(knobs):
    return {f"STTM_STANDIN_{name.upper()}": None if value is None else str(value) for name, value in knobs.items()}


def _rtx():
    import functools

    import tensorrt_rtx_bindings as real

    runtime, builder = (importlib.import_module(f"standin_{half}") for half in ("runtime", "builder"))
    module = types.ModuleType("tensorrt_rtx_standin")
    module.__dict__.update({name: getattr(real, name) for name in dir(real) if not name.startswith("__")})
    module.__version__, module.flavour = real.__version__, "tensorrt-rtx"
    module.Builder = functools.partial(builder.StreamingBuilder, module)
    module.Runtime = functools.partial(runtime.Runtime, module)
    module.OnnxParser = builder.OnnxParser
    return module


def build_on_orin(bundle):
    """Build the engines of a bundle on the pretended Orin."""
    from sttm_export.cli import main

    with pytest.MonkeyPatch.context() as patch:
        pretend_gpu(patch, machine="aarch64")
        assert main(["build", str(bundle), "--target", ORIN]) == 0
    return bundle

"""A trtexec that a test puts on PATH: speaks as NVIDIA's does, writes what it is told to, keeps its command line."""

import os
import stat
import sys

SCRIPT = """#!{python}
import json, os, pathlib, signal, sys, time

knobs = {knobs!r}
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] [b30] # " + " ".join(sys.argv), flush=True)
if "--help" in sys.argv:
    sys.exit(0)
pathlib.Path({calls!r}).write_text(json.dumps(sys.argv))
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
print("[01/01/2026-00:00:00] [I] Start parsing network model", flush=True)
print("[01/01/2026-00:00:00] [I] Finished parsing network model. Parse time: 0.1")
print("[01/01/2026-00:00:00] [W] [TRT] a warning about " + options["--onnx"], flush=True)
if "sleep" in knobs:
    time.sleep(knobs["sleep"])
for line in knobs.get("lines", []):
    print("[01/01/2026-00:00:00] " + line, flush=True)
if knobs.get("kill"):
    os.kill(os.getpid(), signal.SIGKILL)
cache = options.get("--timingCacheFile")
if cache:
    path = pathlib.Path(cache)
    known = path.read_bytes() if path.is_file() else b""
    if known != b"all kernels":
        if "--errorOnTimingCacheMiss" in sys.argv and not knobs.get("deaf"):
            print("[01/01/2026-00:00:00] [E] Error[1]: Timing cache miss")
            sys.exit(1)
        path.write_bytes(b"all kernels")
if knobs.get("code"):
    print("&&&& FAILED TensorRT.trtexec [TensorRT v{number}]")
    sys.exit(knobs["code"])
if not knobs.get("no_engine"):
    pathlib.Path(options["--saveEngine"]).write_bytes(b"engine of trtexec")
print("[01/01/2026-00:00:00] [I] [TRT] Max Scratch Memory: 4096 bytes")
print("[01/01/2026-00:00:00] [I] [TRT] Engine generation completed in 1.5 seconds.")
print("&&&& PASSED TensorRT.trtexec [TensorRT v{number}] # " + " ".join(sys.argv))
"""


def put_trtexec(folder, monkeypatch, number="100300", **knobs):
    """Write the script and put it first on PATH; return the file in which its last command line will be."""
    folder.mkdir(exist_ok=True)
    program, calls = folder / "trtexec", folder / "calls.json"
    program.write_text(SCRIPT.format(python=sys.executable, knobs=knobs, number=number, calls=str(calls)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return calls

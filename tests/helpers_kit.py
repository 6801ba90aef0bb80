"""The kit of a bundle as it runs on a device: NumPy, TensorRT and nothing else."""

import os
import sys
from importlib import metadata

from helpers_standins import standin_environment

# NumPy, and what the stand-ins are made of.
REAL = {"numpy", "onnxruntime", "tensorrt_rtx_bindings", "tensorrt_rtx_libs", "flatbuffers", "packaging", "google"}


def block_packages(folder, but=REAL):
    """Fill a directory with every installed package but some, each of which refuses to be imported; return it."""
    for name in {*metadata.packages_distributions(), "sttm_export", "tomllib"} - but:
        if name.isidentifier() and not name.startswith("_"):
            (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not on a device')\n")
    assert {"torch.py", "onnx.py", "rich.py", "PIL.py", "av.py", "sttm_export.py"} <= {
        path.name for path in folder.iterdir()
    }
    return folder


def kit_environment(blocked, **knobs):
    """The environment of a pretended Orin on which these packages are blocked."""
    made = standin_environment(machine="aarch64", **knobs)
    made = {name: value for name, value in made.items() if value is not None}
    made["PYTHONPATH"] = os.pathsep.join([made["PYTHONPATH"], str(blocked)])
    return made | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

"""Static-shape export of STTM video token merging to ONNX and TensorRT."""

import os

__version__ = "0.1.0"

# ONNX Runtime from 1.32 on writes a device id into the user's cache when it is imported, and reports to its vendor. It
# reads this variable once, at that moment; here it is set before any module of this package can import it, and child
# processes inherit it. Whoever sets it (0 lets it report) is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

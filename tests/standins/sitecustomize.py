"""Put this directory first on PYTHONPATH and the process sees an NVIDIA GPU and a full TensorRT.

What is real: every line of this project, the parsing and building (by TensorRT-RTX), the numbers (by ONNX Runtime).
What is not: the driver (`standin_cuda`) and the runtime of TensorRT (`tensorrt`); no kernel of NVIDIA's runs.

| variable | meaning | default |
|---|---|---|
| STTM_STANDIN_TENSORRT | version that `tensorrt` claims | 10.3.0.30 |
| STTM_STANDIN_CC | compute capability of the GPU; `none` for no GPU | 8.7 |
| STTM_STANDIN_MACHINE | what `platform.machine()` says | unchanged |
| STTM_STANDIN_MEMORY | bytes of GPU memory | 8 GiB |
| STTM_STANDIN_LOG | file that gets one JSON line for each call | none |
| STTM_STANDIN_SCALE | engines give floats times this: a wrong engine | 1 |
| STTM_STANDIN_ROLL | any text: engines see the cells of `features` one place on, and decide otherwise | none |
| STTM_STANDIN_REFUSE | any text: engines are not deserialized, "version tag does not match" | none |
| STTM_STANDIN_NO_CAPTURE | any text: engines cannot be captured as CUDA graphs | none |
| STTM_STANDIN_EMPTY_CAPTURE | any text: captures succeed and hold nothing of the engine | none |
| STTM_STANDIN_KERNELS | kernels of a run, `5`; `2+3` for two and a graph of three among them | 1 |
| STTM_STANDIN_NO_INSPECTOR | any text: engines have no inspector | none |
| STTM_STANDIN_OOM | n: the n-th allocation of GPU memory fails | none |
| STTM_STANDIN_NO_BUILD | any text: the builder gives no engine, with an error in its log | none |
"""

import ctypes
import os
import platform

from standin_cuda import PretendCDLL

ctypes.CDLL = PretendCDLL
if "STTM_STANDIN_MACHINE" in os.environ:
    platform.machine = lambda: os.environ["STTM_STANDIN_MACHINE"]

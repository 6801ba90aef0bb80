"""The runtime half of the stand-in: engines are executed by ONNX Runtime, on the memory of `standin_cuda`."""

import ctypes
import functools
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import standin_cuda
from standin_engine import unpack
from standin_log import record

NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "BOOL": "bool", "INT64": "int64", "INT8": "int8"}


def gpu_name():
    """Compute capability of the pretended GPU, as `8.7`."""
    return os.environ.get("STTM_STANDIN_CC", "8.7")


class Runtime:
    def __init__(self, module, logger):
        self._module, self._logger = module, logger
        record("Runtime")

    def deserialize_cuda_engine(self, data):
        record("Runtime.deserialize_cuda_engine", len(data))
        found = unpack(data)
        fault = self._fault(found)
        if fault:
            self._logger.log(self._module.ILogger.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: {fault}")
            return None
        return Engine(self._module, self._logger, *found)

    def _fault(self, found):
        if found is None:
            return "Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match)"
        meta, here = found[0], self._module.__version__
        if os.environ.get("STTM_STANDIN_REFUSE") or meta["version"] != here:
            return (
                "Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag "
                "does not match. Note: Current Version: 239, Serialized Engine Version: 238)"
            )
        if meta["capability"] not in {gpu_name(), "portable"}:
            return (
                "Internal Error (The engine plan file is generated on an incompatible device, expecting compute "
                f"{gpu_name()} got compute {meta['capability']}, please rebuild.)"
            )
        return None


class RuntimeConfig:
    """Of TensorRT-RTX alone."""

    def __init__(self, module):
        self.cuda_graph_strategy = module.CudaGraphStrategy.DISABLED


class Engine:
    def __init__(self, module, logger, meta, files):
        self.module, self.logger, self.meta, self.files = module, logger, meta, dict(files)
        self.rows = {row["name"]: row for row in meta["tensors"]}
        self.num_io_tensors = len(self.rows)

    def get_tensor_name(self, index):
        return list(self.rows)[index]

    def get_tensor_mode(self, name):
        return getattr(self.module.TensorIOMode, self.rows[name]["mode"])

    def get_tensor_shape(self, name):
        return self.module.Dims(tuple(self.rows[name]["shape"]))

    def get_tensor_dtype(self, name):
        return getattr(self.module.DataType, self.rows[name]["dtype"])

    def get_tensor_format(self, name):
        return getattr(self.module.TensorFormat, self.rows[name]["format"])

    def create_engine_inspector(self):
        if "STTM_STANDIN_NO_INSPECTOR" in os.environ:
            raise AttributeError("create_engine_inspector")
        return Inspector(self)

    def create_runtime_config(self):
        if self.meta["flavour"] != "tensorrt-rtx":
            raise AttributeError("create_runtime_config")
        return RuntimeConfig(self.module)

    def create_execution_context(self, config=None):
        strategy = getattr(config, "cuda_graph_strategy", None)
        record("Engine.create_execution_context", getattr(strategy, "name", None))
        return Context(self)

    def session(self):
        """Load the graph in ONNX Runtime, from a directory that is gone afterwards."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        with tempfile.TemporaryDirectory() as folder:
            for name, data in self.files.items():
                (Path(folder) / name).write_bytes(data)
            return ort.InferenceSession(str(Path(folder) / "graph.onnx"), options, providers=["CPUExecutionProvider"])


class Inspector:
    """Layers by the nodes of the graph and its tensors; each softmax is that of an attention, and fused."""

    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, kind):
        import json

        import onnxruntime  # noqa: F401 - what a device has of ONNX

        found = [
            name for name in (b"Softmax", b"MatMul") for _ in range(self._engine.files["graph.onnx"].count(name + b"_"))
        ]
        fused = {"LayerType": "kgen", "TacticName": "_gemm_mha_v2_0x1", "Name": "_gemm_mha_v2_myl0_1"}
        rows = [fused if name == b"Softmax" else {"Name": "product", "LayerType": "gemm"} for name in found]
        copies = [{"Name": f"copy of {name}", "LayerType": "Reformat"} for name in self._engine.rows]
        return json.dumps({"Layers": rows + copies, "Bindings": []})


class Context:
    def __init__(self, engine):
        self._engine, self._addresses, self._shapes = engine, {}, {}
        self._session = engine.session()

    def set_tensor_address(self, name, address):
        record("Context.set_tensor_address", name)
        if name not in self._engine.rows:
            return False
        self._addresses[name] = address
        return True

    def set_optimization_profile_async(self, index, stream_handle):
        record("Context.set_optimization_profile_async", index)
        self._shapes.clear()
        return index < self._engine.meta["profiles"]

    def set_input_shape(self, name, shape):
        record("Context.set_input_shape", name, list(shape))
        self._shapes[name] = tuple(shape)
        return True

    def _shape(self, row, shapes=None):
        return (self._shapes if shapes is None else shapes).get(row["name"], tuple(row["shape"]))

    def execute_async_v3(self, stream_handle):
        record("Context.execute_async_v3", stream_handle)
        driver = standin_cuda.library()
        fault = self._fault(driver)
        if not fault and driver.streams[stream_handle].capture is not None and "STTM_STANDIN_NO_CAPTURE" in os.environ:
            driver.spoil(stream_handle)
            fault = "operation not permitted when stream is capturing"
        if fault:
            self._engine.logger.log(self._engine.module.ILogger.ERROR, f"IExecutionContext::enqueueV3: {fault}")
            return False
        if driver.streams[stream_handle].capture is None or "STTM_STANDIN_EMPTY_CAPTURE" not in os.environ:
            # Frozen: what is queued or captured keeps the addresses that it was given.
            self._launch(driver, stream_handle, functools.partial(self._run, dict(self._addresses), dict(self._shapes)))
        return True

    def _launch(self, driver, stream, work):
        """So many kernels, the first of which does the work; those behind a `+` come as a graph of their own."""
        plain, _, inside = os.environ.get("STTM_STANDIN_KERNELS", "1").partition("+")
        kernels = [work, *[_nothing] * (int(plain) + int(inside or 0) - 1)]
        for kernel in kernels[: int(plain)]:
            driver.put(stream, kernel)
        if inside:
            driver.put(stream, [(standin_cuda.KERNEL, kernel) for kernel in kernels[int(plain) :]], standin_cuda.CHILD)

    def _fault(self, driver):
        for name, row in self._engine.rows.items():
            if row["mode"] == "INPUT" and -1 in self._shape(row):
                return f"The shape of input {name} is not set"
            size = math.prod(map(abs, self._shape(row))) * np.dtype(NUMPY[row["dtype"]]).itemsize
            if name not in self._addresses:
                return f"Address is not set for tensor {name}"
            if driver.room(self._addresses[name]) < size:
                return f"{size} bytes of tensor {name} are not in GPU memory"
        return None

    def _run(self, addresses, shapes):
        rows = self._engine.rows
        inputs = {name: self._read(row, addresses, shapes) for name, row in rows.items() if row["mode"] == "INPUT"}
        if os.environ.get("STTM_STANDIN_ROLL") and "features" in inputs:
            inputs["features"] = np.roll(inputs["features"], 1, axis=1)
        names = [name for name, row in rows.items() if row["mode"] == "OUTPUT"]
        scale = float(os.environ.get("STTM_STANDIN_SCALE", "1"))
        for name, value in zip(names, self._session.run(names, inputs), strict=True):
            scaled = (value * scale).astype(value.dtype) if value.dtype.kind == "f" and scale != 1 else value
            data = np.asarray(scaled, order="C").tobytes()
            assert standin_cuda.library().room(addresses[name]) >= len(data), name
            ctypes.memmove(addresses[name], data, len(data))

    def _read(self, row, addresses, shapes):
        dtype, shape = np.dtype(NUMPY[row["dtype"]]), self._shape(row, shapes)
        data = ctypes.string_at(addresses[row["name"]], math.prod(shape) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)


def _nothing():
    """A kernel that the work is not in."""

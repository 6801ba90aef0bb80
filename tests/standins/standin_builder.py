"""The building half of the stand-in: NVIDIA's parser and builder, by TensorRT-RTX, under the surface of full TensorRT.

What full TensorRT has and TensorRT-RTX does not do without a GPU is kept here and not passed on: the timing cache. What
full TensorRT does not have is hidden.
"""

import os
from pathlib import Path

import tensorrt_rtx_bindings as real
from standin_engine import graph_key, pack
from standin_log import record
from standin_runtime import gpu_name

RTX_ONLY = {"num_compute_capabilities", "set_compute_capability", "get_compute_capability"}


class Forwarding:
    """Hands on what a class does not define itself."""

    def __init__(self, target):
        object.__setattr__(self, "real", target)

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "real"), name)


class Builder(Forwarding):
    def __init__(self, module, logger):
        record("Builder")
        if gpu_name() == "none":
            logger.log(real.ILogger.ERROR, "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        super().__init__(real.Builder(logger))
        object.__setattr__(self, "module", module)
        object.__setattr__(self, "logger", logger)

    def create_network(self, flags=0):
        record("Builder.create_network", flags)
        return Network(self.real.create_network(flags))

    def create_builder_config(self):
        return Config(self.real.create_builder_config(), self.module)

    def build_serialized_network(self, network, config):
        record(
            "Builder.build_serialized_network",
            flags=sorted(config.named_flags()),
            optimization_level=config.real.builder_optimization_level,
            workspace=config.real.get_memory_pool_limit(real.MemoryPoolType.WORKSPACE),
        )
        if os.environ.get("STTM_STANDIN_NO_BUILD"):
            node = "Could not find any implementation for node {ForeignNode[a...b]}."
            self.logger.log(real.ILogger.ERROR, f"Error Code 10: Internal Error ({node})")
            return None
        config.real.num_compute_capabilities = 1
        config.real.set_compute_capability(real.ComputeCapability.SM86, 0)
        plan = self.real.build_serialized_network(network.real, config.real)
        if plan is None:
            return None
        config.learn(network.path)
        return HostMemory(pack(memoryview(plan), self._meta(network, config), network.path))

    def _meta(self, network, config):
        return {
            "profiles": config.real.num_optimization_profiles,
            "version": self.module.__version__,
            "flavour": self.module.flavour,
            "capability": gpu_name(),
            "tensors": tensors(network.real),
        }

    def __getattr__(self, name):
        if name == "build_serialized_network_to_stream":
            raise AttributeError(name)
        return super().__getattr__(name)


class StreamingBuilder(Builder):
    """From TensorRT 10.13 on."""

    def build_serialized_network_to_stream(self, network, config, writer):
        plan = self.build_serialized_network(network, config)
        return plan is not None and writer.write(bytes(memoryview(plan))) == plan.nbytes


class HostMemory:
    """Has the buffer interface only through `memoryview(...)` of its data, as Python has no way to declare one."""

    def __new__(cls, data):
        return _Bytes(data)


class _Bytes(bytes):
    @property
    def nbytes(self):
        return len(self)


class Network(Forwarding):
    """Remembers the file it was parsed from."""

    path = None

    def get_flag(self, flag):
        return self.real.get_flag(flag)


class OnnxParser(Forwarding):
    def __init__(self, network, logger):
        super().__init__(real.OnnxParser(network.real, logger))
        object.__setattr__(self, "network", network)

    def parse_from_file(self, path):
        record("OnnxParser.parse_from_file", Path(path).name)
        self.network.path = path
        return self.real.parse_from_file(path)


class Config(Forwarding):
    def __init__(self, config, module):
        super().__init__(config)
        for name, value in {"module": module, "cache": None}.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name):
        if name in RTX_ONLY and object.__getattribute__(self, "module").flavour == "tensorrt":
            raise AttributeError(name)
        return getattr(object.__getattribute__(self, "real"), name)

    def __setattr__(self, name, value):
        if name in RTX_ONLY and self.module.flavour == "tensorrt":
            raise AttributeError(name)
        record(f"Config.{name}", value)
        setattr(self.real, name, value)

    def set_memory_pool_limit(self, pool, size):
        record("Config.set_memory_pool_limit", pool.name, size)
        self.real.set_memory_pool_limit(pool, size)

    def named_flags(self):
        return {name for name, flag in real.BuilderFlag.__members__.items() if self.real.get_flag(flag)}

    # The timing cache: a header that names version and GPU, then one line for each graph that was timed.

    def create_timing_cache(self, data):
        record("Config.create_timing_cache", len(data))
        return TimingCache(bytes(data) or header(self.module))

    def set_timing_cache(self, cache, ignore_mismatch):
        record("Config.set_timing_cache", ignore_mismatch)
        if cache.lines()[:1] != header(self.module).splitlines() and not ignore_mismatch:
            return False
        object.__setattr__(self, "cache", cache)
        return True

    def get_timing_cache(self):
        return self.cache

    def knows(self, path):
        return self.cache is not None and graph_key(path).encode() in self.cache.lines()

    def learn(self, path):
        if self.cache is not None and not self.knows(path):
            self.cache.data += graph_key(path).encode() + b"\n"


class TimingCache:
    def __init__(self, data):
        self.data = data

    def lines(self):
        return self.data.splitlines()

    def serialize(self):
        return HostMemory(self.data)


def header(module):
    """First line of a timing cache."""
    return f"timings of {module.flavour} {module.__version__} on {gpu_name()}\n".encode()


def tensors(network):
    """Inputs and outputs as NVIDIA's parser declared them."""
    rows = [("INPUT", network.get_input(number)) for number in range(network.num_inputs)]
    rows += [("OUTPUT", network.get_output(number)) for number in range(network.num_outputs)]
    return [
        {
            "mode": mode,
            "name": tensor.name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype.name,
            "format": picked_format(tensor),
        }
        for mode, tensor in rows
    ]


def picked_format(tensor):
    """What a tensor is laid out in: where nothing is pinned, the one that is unlike an array, if there is one."""
    pinned = tensor.allowed_formats == 1 << int(real.TensorFormat.LINEAR)
    return "LINEAR" if pinned or tensor.dtype != real.DataType.HALF or len(tensor.shape) < 3 else "HWC8"

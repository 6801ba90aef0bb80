"""A TensorRT of pure Python: shows the calls that a build makes, for the flavour that cannot be installed here."""

from __future__ import annotations

import types

FLAGS = ("TF32",)


class Named:
    def __init__(self, name):
        self.name = name


class FakeLogger:
    VERBOSE = Named("VERBOSE")
    WARNING = Named("WARNING")
    ERROR = Named("ERROR")

    def __init__(self):
        pass


class FakeCache:
    """Grows by one kernel a build, unless it holds as many as the build has."""

    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content


class FakeConfig:
    builder_optimization_level = 3

    def __init__(self, cache_of="sm87"):
        self.flags = {"TF32"}
        self.capabilities = None
        self.pools = {"WORKSPACE": 7 << 30}
        self.cache = None
        self.cache_of = cache_of

    def set_flag(self, flag):
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = size

    def get_memory_pool_limit(self, pool):
        return self.pools[pool]

    def create_timing_cache(self, content):
        return FakeCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        """As TensorRT: a cache names its GPU, and another one's is refused unless that is to be ignored."""
        if cache.content and not cache.content.startswith(self.cache_of.encode()) and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def get_flag(self, flag):
        return flag in self.flags

    def set_compute_capability(self, capability, index):
        self.capabilities = (capability, index)


class FakeNetwork:
    num_inputs = num_outputs = 0


class FakeParserError:
    def __init__(self, name, operator, text):
        self._parts = (name, operator, text)

    def node(self):
        return 7

    def node_name(self):
        return self._parts[0]

    def node_operator(self):
        return self._parts[1]

    def desc(self):
        return self._parts[2]


def fake_tensorrt(
    version="10.3.0.30",
    *,
    strong_flag=True,
    parser_errors=(),
    plan=b"plan",
    errors=("Error Code 4:\n no  tactic",),
    level="ERROR",
):
    """A module with what the full TensorRT of a Jetson has: no stream writer, no progress on request."""
    made = types.SimpleNamespace(configs=[], network_flags=[])

    class Builder:
        def __init__(self, logger):
            self.logger = logger

        def create_network(self, flags):
            made.network_flags.append(flags)
            return FakeNetwork()

        def create_builder_config(self):
            made.configs.append(FakeConfig())
            return made.configs[-1]

        def build_serialized_network(self, network, config):
            self.logger.log(FakeLogger.WARNING, "a warning")
            if plan is None:
                for error in errors:
                    self.logger.log(Named(level), error)
            elif config and config.cache and b"kernels" not in config.cache.content:
                config.cache.content = config.cache_of.encode() + b" kernels"
            return plan

    class Parser:
        num_errors = len(parser_errors)

        def __init__(self, network, logger):
            self.logger = logger

        def parse_from_file(self, path):
            self.logger.log(FakeLogger.WARNING, f"reading {path}")
            self.logger.log(FakeLogger.VERBOSE, "chatter")
            return not parser_errors

        def get_error(self, number):
            return FakeParserError(*parser_errors[number])

    flags = types.SimpleNamespace(**({"STRONGLY_TYPED": 1} if strong_flag else {}))
    return types.SimpleNamespace(
        __version__=version,
        ILogger=FakeLogger,
        Builder=Builder,
        OnnxParser=Parser,
        NetworkDefinitionCreationFlag=flags,
        BuilderFlag=types.SimpleNamespace(**{name: name for name in FLAGS}),
        TensorFormat=types.SimpleNamespace(LINEAR=0),
        MemoryPoolType=types.SimpleNamespace(WORKSPACE="WORKSPACE"),
        ComputeCapability=types.SimpleNamespace(SM86="SM86"),
        made=made,
    )

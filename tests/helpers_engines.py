"""A TensorRT of pure Python: shows the calls that a build makes, for the flavour that cannot be installed here."""

from __future__ import annotations

import types

FIRST_BYTES = b"engine "


class Named:
    def __init__(self, name):
        self.name = name


class FakeLogger:
    VERBOSE = Named("VERBOSE")
    WARNING = Named("WARNING")
    ERROR = Named("ERROR")

    def __init__(self):
        pass


class FakeConfig:
    builder_optimization_level = 3

    def __init__(self):
        self.flags = {"TF32"}
        self.capabilities = None

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def get_flag(self, flag):
        return flag in self.flags

    def set_compute_capability(self, capability, index):
        self.capabilities = (capability, index)


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


def fake_tensorrt(version="10.3.0.30", *, strong_flag=True, parser_errors=(), plan=b"plan"):
    """A module with what the full TensorRT of a Jetson has: no stream writer, no progress on request."""
    made = types.SimpleNamespace(configs=[], network_flags=[])

    class Builder:
        def __init__(self, logger):
            self.logger = logger

        def create_network(self, flags):
            made.network_flags.append(flags)
            return object()

        def create_builder_config(self):
            made.configs.append(FakeConfig())
            return made.configs[-1]

        def build_serialized_network(self, network, config):
            self.logger.log(FakeLogger.WARNING, "a warning")
            if plan is None:
                self.logger.log(FakeLogger.ERROR, "Error Code 4:\n no  tactic")
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
        BuilderFlag=types.SimpleNamespace(TF32="TF32"),
        ComputeCapability=types.SimpleNamespace(SM86="SM86"),
        made=made,
    )

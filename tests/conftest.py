"""Fixtures shared by the tests: a tiny model and one bundle of it."""

import os
import shutil
from dataclasses import replace

import pytest
from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import tiny_model, write_tiny_model_toml
from helpers_standins import ORIN, build_on_orin, pretend_gpu

# Before any test file imports ONNX Runtime, which is told here not to report to its vendor.
import sttm_export  # noqa: F401

# Nothing may ask a hub during tests; the code that does is tested with a stand-in.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_toml(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.toml"
    write_tiny_model_toml(path, replace(tiny_model(), decoder=tiny_decoder(vocabulary=300), prompt=tiny_prompt()))
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, tiny_toml):
    """A whole bundle of the tiny model, with its engines where TensorRT-RTX is installed. Do not change it: copy it."""
    from sttm_export.cli import main

    output = tmp_path_factory.mktemp("bundles") / "tiny"
    command = ["--model", str(tiny_toml), "--budget", "0.5", "--frames", "4", "--batch", "2", "--random-weights", "7"]
    command += [
        "--target",
        "rtx",
        "--target",
        "jetson-orin-jp62",
        "--compute-capability",
        "sm86",
        "--output",
        str(output),
    ]
    assert main(command) == 0
    return output


@pytest.fixture(scope="session")
def language_bundle(tmp_path_factory, tiny_toml):
    """A whole bundle with a language model that merges before layer 2, without engines. Do not change it: copy it."""
    from sttm_export.cli import main

    output = tmp_path_factory.mktemp("bundles") / "language"
    command = ["--model", str(tiny_toml), "--budget", "0.5", "--frames", "4", "--batch", "2", "--random-weights", "7"]
    command += ["--decoder", "--chunk", "16", "--text-tokens", "200", "--no-engines", "--output", str(output)]
    assert main(command) == 0
    return output


@pytest.fixture(scope="session")
def orin_bundle(tmp_path_factory, tiny_bundle):
    """The tiny bundle with engines that were built on the pretended Orin. Do not change it: copy it."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    path = tmp_path_factory.mktemp("engines") / "tiny"
    shutil.copytree(tiny_bundle, path)
    shutil.rmtree(path / "engines" / ORIN, ignore_errors=True)
    return build_on_orin(path)


@pytest.fixture(scope="session")
def exact_places(tiny_bundle):
    """Skips, aloud, where a processor's kernels give a frame other last bits in another place of a batch.

    None that was met does. `sttm-export live` tries it on every start and says so; windows then equal `run` but for
    those bits, and tests that compare bit by bit say nothing.
    """
    from helpers_window import seeing

    with seeing(tiny_bundle) as (bundle, vision):
        if not vision.warm_up(bundle.manifest.thresholds):
            pytest.skip("ONNX Runtime gives a frame other last bits in another place of a batch on this processor")


@pytest.fixture
def orin(monkeypatch):
    """This machine plays an Orin."""
    return pretend_gpu(monkeypatch, machine="aarch64")

"""Tiny bundles with a language model, and what is needed to ask them."""

import contextlib
import dataclasses
import io

from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import tiny_model, write_tiny_model_toml

from sttm_export.cli import main

TEXT = 192
"""Slots for prompt, question and answer; the stand-in tokenizer has a token for every byte."""


def asked_model(**changes):
    """A tiny model with a decoder of three layers; ids enough for every byte."""
    return dataclasses.replace(tiny_model(), decoder=tiny_decoder(vocabulary=400), prompt=tiny_prompt(), **changes)


def export_asked(folder, *, layer, precision="fp32", model=None, more=()):
    """Export a bundle of it with a graph for every layer, without validation; returns its directory."""
    toml = write_tiny_model_toml(folder / "tiny.toml", model or asked_model())
    command = ["--model", str(toml), "--budget", "0.5", "--frames", "4", "--batch", "2", "--random-weights", "7"]
    command += ["--decoder", "--merge-layer", str(layer), "--group-layers", "1", "--chunk", "16"]
    command += ["--text-tokens", str(TEXT), "--precision", precision, "--no-engines", "--no-validation"]
    command += ["--output", str(folder / "bundle"), *more]
    assert main(command) == 0
    return folder / "bundle"


def ask(*arguments):
    """Exit code, standard output and standard error of `sttm-export ask`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["ask", *map(str, arguments)])
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


def answers(*arguments):
    """The text of the answers of a call that is to succeed."""
    code, out, err = ask(*arguments)
    assert code == 0, err
    return out


def refusal(*arguments):
    """The one sentence with which a call is refused."""
    code, out, err = ask(*arguments)
    assert (code, out) == (2, ""), err
    return err.strip().splitlines()[-1]

"""The table `decoder` of a model file, and what is wrong with one."""

from dataclasses import replace

import pytest
from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import tiny_model, write_tiny_model_toml

from sttm_export.errors import UserError
from sttm_export.families.registry import load_model

MODEL = replace(tiny_model(), decoder=tiny_decoder(), prompt=tiny_prompt())


def refused(path):
    with pytest.raises(UserError) as caught:
        load_model(str(path))
    return str(caught.value)


def test_a_model_file_reads_back(tmp_path):
    assert load_model(str(write_tiny_model_toml(tmp_path / "tiny.toml", MODEL))) == MODEL
    three = replace(MODEL, decoder=tiny_decoder(mrope_section=(2, 2, 2)))
    three = replace(three, merging=replace(three.merging, positions="representative"))
    assert load_model(str(write_tiny_model_toml(tmp_path / "tiny.toml", three))) == three


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"heads": 2}, "decoder: 2 heads of 12 channels make 24, but channels is 48"),
        ({"layers": 2}, "merging.published_layer is 2, but the decoder has 2 layers"),
        ({"mrope_section": (2, 2, 2)}, "merging.positions must be 'representative' with decoder.mrope_section"),
    ],
)
def test_a_decoder_that_does_not_fit_its_model(tmp_path, changes, fault):
    model = replace(MODEL, decoder=tiny_decoder(**changes))
    assert fault in refused(write_tiny_model_toml(tmp_path / "tiny.toml", model))


def test_all_faults_stand_in_one_message(tmp_path):
    path = write_tiny_model_toml(tmp_path / "tiny.toml", MODEL)
    text = path.read_text().replace("[decoder]\nlayers = 3", "[decoder]\nlayers = 0\nwidth = 48")
    path.write_text(text.replace('projector = "mlp2x_gelu"', 'projector = "linear"'))
    message = refused(path)
    for fault in ("'decoder.layers' must be 1 to 1000, got 0", "unknown key 'decoder.width'", "architecture.projector"):
        assert fault in message
    path.write_text(
        path.read_text().replace("layers = 0\nwidth = 48", "layers = 3").replace("kv_heads = 2", "kv_heads = 3")
    )
    assert "no decoder can be like this: heads is not a multiple of kv_heads" in refused(path)

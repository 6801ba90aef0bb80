"""Tiny bundles with a language model, and questions to them in this process."""

import dataclasses

import numpy as np
from helpers_bundles import FIELDS
from helpers_language import tiny_decoder, tiny_prompt
from helpers_networks import tiny_model

from sttm_export.bundle.opened import list_files, write_manifest
from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER, Decoding
from sttm_export.contracts.graph import FLOAT_OF
from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.registry import parts_of
from sttm_export.families.weights import open_weights
from sttm_export.graphs.export import export_graph
from sttm_export.language.checkpoint import embedding_shapes


def asked_model(**changes):
    return dataclasses.replace(tiny_model(), decoder=tiny_decoder(vocabulary=400), prompt=tiny_prompt(), **changes)


def make_asked_bundle(directory, *, merge_layer, precision="fp32", group_layers=1, text=160, seed=7):
    model = asked_model()
    merge = MergeSpec(4, 3, 3, 48, 0.5)
    decoding = Decoding(merge_layer, group_layers, 16, text)
    recipe = Recipe(model, merge, Thresholds(0.85, 0.65, "a test"), precision, "fp32", 2, decoding)
    directory.mkdir(parents=True)
    parts = parts_of(recipe)
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
    weights = open_weights(model, shapes | embedding_shapes(model.decoder), None, seed)
    for part in parts:
        export_graph(part.module(weights.read(part.shapes)), part.graph, directory)
    table = weights.read(embedding_shapes(model.decoder))["language.embed.weight"]
    np.save(directory / EMBEDDINGS, table.float().numpy().astype(FLOAT_OF[precision]))
    (directory / TOKENIZER).write_bytes(weights.tokenizer(model.decoder, model.prompt))
    manifest = FIELDS | {
        "model": dataclasses.asdict(model),
        "precision": precision,
        "batch": 2,
        "merge": dataclasses.asdict(merge),
        "decoding": dataclasses.asdict(decoding),
        "weights": dataclasses.asdict(weights.source) | {"sha256": "0" * 64},
        "graphs": [dataclasses.asdict(part.graph) for part in parts],
    }
    manifest["files"] = list_files(directory)
    write_manifest(directory, manifest)
    return directory

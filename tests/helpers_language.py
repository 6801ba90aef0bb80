"""The golden cases of a decoder with merging inside: published outputs, and what they were computed from."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.prompt import PromptSpec
from sttm_export.language.checkpoint import parameter_shapes, prefixes
from sttm_export.language.positions import Prompt
from sttm_export.language.reference import Merging
from sttm_export.weights.layout import Layout

FOLDER = Path(__file__).resolve().parent / "golden_decoder"
CASES = sorted(path.stem for path in FOLDER.glob("qwen2*.npz"))
_NAMES = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "vocabulary": "vocab_size",
}


def tiny_decoder(**changes):
    """Three layers of 48 channels."""
    sizes = {"layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 12, "intermediate_size": 64, "vocabulary": 80}
    return DecoderSpec(**sizes | {"rope_theta": 1e6, "rms_norm_eps": 1e-6} | changes)


def tiny_prompt(**changes):
    """A prompt of Qwen2's kind, with everything that one may hold."""
    texts = {
        "before": "<|im_start|>user\n",
        "behind": "\n{seconds} s, {frames} frames: {times}.\n",
        "after": "<|im_end|>\n<|im_start|>assistant\n",
        "stop": ("<|im_end|>", "<|endoftext|>"),
    }
    return PromptSpec(**texts | changes)


@dataclass(frozen=True)
class Golden:
    """One case, with the weights it ran on."""

    arrays: dict
    spec: DecoderSpec
    state: dict
    prompt: Prompt
    merging: Merging

    @property
    def published(self):
        """The same weights under the names that `transformers` gives them."""
        names = Layout("qwen2", prefixes("model.")).names(self.state)
        return {theirs: self.state[ours] for ours, theirs in names.items()}

    @property
    def video(self):
        """Embeddings of the video, [T·N, C] float32."""
        return torch.from_numpy(self.arrays["visual_embeds"]).float()


def load_case(name):
    """Read a case and its weights."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    with np.load(FOLDER / f"{arrays['weights']}.npz") as file:
        config = json.loads(str(file["config"]))
        state = {name: torch.from_numpy(file[name]).float() for name in file.files if name != "config"}
    layout = Layout("qwen2", prefixes("model."))
    same = ("intermediate_size", "rope_theta", "rms_norm_eps")
    sizes = {key: config[key] for key in same} | {key: config[theirs] for key, theirs in _NAMES.items()}
    sizes["head_dim"] = config["hidden_size"] // sizes["heads"]
    spec = DecoderSpec(**sizes, mrope_section=tuple(config.get("mrope_section", ())))
    frames, height, width = (int(arrays[key]) for key in ("frames", "height", "width"))
    prompt = Prompt(len(arrays["system_ids"]), frames, height, width, len(arrays["question_ids"]))
    merge = MergeSpec(
        *(frames, height, width, spec.hidden_size),
        budget=1.0,
        policy="threshold",
        root_level=int(arrays["root_level"]),
        head_dim=int(arrays["head_dim"]),
    )
    thresholds = (float(arrays["spatial_threshold"]), float(arrays["temporal_threshold"]))
    policy = "reassigned" if arrays["family"] == "llava" else "representative"
    state = {ours: state[theirs] for ours, theirs in layout.names(parameter_shapes(spec)).items()}
    return Golden(arrays, spec, state, prompt, Merging(int(arrays["merge_layer"]), merge, thresholds, policy))

"""How transformers is to compute attention and experts.

Named in every call, since a config could name a kernel that transformers would fetch and run.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from nas.families import family_named


def parse_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """The config as transformers' own object."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    parsed: PretrainedConfig = AutoConfig.for_model(config["model_type"], **fields)
    return parsed


def attention_keeps_scores(config: Mapping[str, Any]) -> bool:
    """Whether attention is computed in plain steps, which hold the scores of all pairs of tokens in memory at once.

    PyTorch's own cannot cap scores, as Gemma 2 does.
    """
    fused = family_named(config["model_type"]).fused_attention
    return not fused or config.get("attn_logit_softcapping") is not None


def kernels(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, str]:
    """What to tell transformers of a model of this Hugging Face config, its products computed in `dtype`.

    Experts are computed all at once, for which torch needs rows of whole 16 bytes and at most float32, or else one
    after another.
    """
    chosen = {"attn_implementation": "eager" if attention_keeps_scores(config) else "sdpa"}
    architecture = family_named(config["model_type"]).architecture(dict(config))
    if architecture.num_experts:
        rows = (architecture.hidden_size, architecture.intermediate_size)
        at_once = dtype.itemsize <= 4 and all(row * dtype.itemsize % 16 == 0 for row in rows)
        chosen["experts_implementation"] = "grouped_mm" if at_once else "eager"
    return chosen

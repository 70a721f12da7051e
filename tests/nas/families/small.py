"""Small models of every family in float64, every parameter of them random, norms and biases included."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from nas.architecture import Architecture
from nas.families import FAMILIES, Family

_SIZES = {
    "vocab_size": 40,
    "num_hidden_layers": 4,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_OWN_HEAD_DIM = {"head_dim": 8}
_GPT2 = {
    "vocab_size": 40,
    "n_layer": 4,
    "n_embd": 24,
    "n_inner": 20,
    "n_head": 6,
    "n_positions": 32,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_GPT_NEOX = {key: value for key, value in _SIZES.items() if key != "num_key_value_heads"}
_EXPERTS = {"num_experts_per_tok": 2}

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "llama": (
        _OWN_HEAD_DIM,
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"num_key_value_heads": 6},
    ),
    "mistral": ({**_OWN_HEAD_DIM, "sliding_window": 3}, {"sliding_window": None, "tie_word_embeddings": True}),
    "qwen2": (
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2},
        {"tie_word_embeddings": True},
    ),
    "qwen3": (
        _OWN_HEAD_DIM,
        {**_OWN_HEAD_DIM, "attention_bias": True, "tie_word_embeddings": True},
        {**_OWN_HEAD_DIM, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "gemma2": (
        {**_OWN_HEAD_DIM, "sliding_window": 3},
        {**_OWN_HEAD_DIM, "sliding_window": 3, "attention_bias": True, "tie_word_embeddings": False},
    ),
    "gemma3_text": (
        {**_OWN_HEAD_DIM, "sliding_window": 3, "sliding_window_pattern": 3},
        {**_OWN_HEAD_DIM, "sliding_window": 3, "attention_bias": True, "tie_word_embeddings": False},
    ),
    "phi3": (
        {"head_dim": 8, "sliding_window": 3},
        {
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [1.0, 2.0]},
            "original_max_position_embeddings": 32,
        },
    ),
    "nemotron": (_OWN_HEAD_DIM, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "olmo2": ({}, {"attention_bias": True, "tie_word_embeddings": True}),
    "granite": (
        {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "smollm3": (
        {},
        {"use_sliding_window": True, "sliding_window": 3, "no_rope_layer_interval": 2, "tie_word_embeddings": False},
        {"no_rope_layers": [0, 1, 1, 0], "attention_bias": True, "mlp_bias": True},
    ),
    "starcoder2": ({"sliding_window": 3}, {"use_bias": False, "tie_word_embeddings": False}),
    "stablelm": (
        {},
        {"use_qkv_bias": True, "qk_layernorm": True, "tie_word_embeddings": True},
        {"use_parallel_residual": True, "qk_layernorm": True},
    ),
    "gpt_neox": ({}, {"attention_bias": False, "use_parallel_residual": False, "tie_word_embeddings": True}),
    "gpt2": ({}, {"n_inner": None, "tie_word_embeddings": False}),
    "mixtral": ({**_EXPERTS, **_OWN_HEAD_DIM, "num_local_experts": 5}, {**_EXPERTS, "tie_word_embeddings": True}),
    "qwen3_moe": (
        {**_EXPERTS, **_OWN_HEAD_DIM, "num_experts": 5, "moe_intermediate_size": 20, "norm_topk_prob": True},
        {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 10, "attention_bias": True},
    ),
}
"""Settings that a family's checkpoints come with, on top of the sizes."""


@dataclass(frozen=True)
class Variant:
    """A small model of a family: its config as a checkpoint would have it."""

    family: Family
    config: dict[str, Any]
    number: int

    def __str__(self) -> str:
        return f"{self.family.model_type}-{self.number}"

    @property
    def architecture(self) -> Architecture:
        return self.family.architecture(self.config)


def _variants() -> list[Variant]:
    found = []
    for model_type, variants in VARIANTS.items():
        sizes = {"gpt2": _GPT2, "gpt_neox": _GPT_NEOX}.get(model_type, _SIZES)
        for number, changes in enumerate(variants):
            config = {"model_type": model_type, **sizes, **changes}
            found.append(Variant(FAMILIES[model_type], config, number))
    return found


ALL = _variants()


def parsed(config: dict[str, Any]) -> Any:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(config["model_type"], **fields)


def on_meta(config: dict[str, Any]) -> Any:
    """What transformers builds from a config, without storage."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(parsed(config), attn_implementation="eager").eval()


def tensors_on_disk(model: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that `save_pretrained` writes."""
    reverted = revert_weight_conversion(model, dict(model.named_parameters()))
    return {name: tuple(tensor.shape) for name, tensor in reverted.items()}


def outside(model: Any) -> list[torch.nn.Parameter]:
    """What a non-embedding count leaves out: all of the embeddings' and the head's, a tied one once."""
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    left_out = [p for module in (*modules, model.get_output_embeddings()) for p in module.parameters()]
    return list({id(parameter): parameter for parameter in left_out}.values())


def built(config: dict[str, Any], seed: int = 0) -> Any:
    """A model with random float64 weights, those of norms among them."""
    torch.manual_seed(seed)
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_config(parsed(config), **plain).double().eval()
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name or ".ln_" in name
        torch.nn.init.uniform_(parameter, *((0.5, 1.5) if is_norm else (-0.4, 0.4)))
    return model


@st.composite
def students(draw: st.DrawFn, variant: Variant) -> Architecture:
    """Any legal shape that can be cut out of the variant."""
    teacher = variant.architecture
    groups = draw(st.integers(1, teacher.num_key_value_heads))
    per_group = draw(st.integers(1, teacher.num_attention_heads // teacher.num_key_value_heads))
    heads = groups * per_group
    sizes = {
        "num_hidden_layers": draw(st.integers(1, teacher.num_hidden_layers)),
        "intermediate_size": draw(st.integers(1, teacher.intermediate_size)),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "hidden_size": draw(st.sampled_from(legal_hidden_sizes(variant, heads))),
    }
    if teacher.num_experts:
        sizes["num_experts"] = draw(st.integers(teacher.num_experts_per_tok, teacher.num_experts))
    return teacher.resized(**sizes)


def legal_hidden_sizes(variant: Variant, heads: int) -> list[int]:
    teacher = variant.architecture
    sizes = {**teacher.model_dump(), "num_attention_heads": heads, "num_key_value_heads": heads}
    return [
        hidden
        for hidden in range(2, teacher.hidden_size + 1)
        if all(rule.holds({**sizes, "hidden_size": hidden}) for rule in variant.family.constraints)
    ]

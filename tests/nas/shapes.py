"""Llama shapes that the tests of the domain share, and what transformers builds from them, without storage."""

from typing import Any

import torch
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from nas.architecture import Architecture
from nas.families import family_named

LLAMA_8B = Architecture(
    family="llama",
    vocab_size=128_256,
    num_hidden_layers=32,
    hidden_size=4096,
    intermediate_size=14_336,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
)
LLAMA_CONFIG = {"model_type": "llama", "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2}


def small_llama(**changes: Any) -> Architecture:
    """No two sizes are equal, so that a swapped axis shows."""
    sizes = {
        "family": "llama",
        "vocab_size": 11,
        "num_hidden_layers": 3,
        "hidden_size": 24,
        "intermediate_size": 14,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    return Architecture.model_validate({**sizes, **changes})


@st.composite
def llamas(draw: st.DrawFn) -> Architecture:
    """Any small legal Llama."""
    groups = draw(st.integers(1, 3))
    heads = groups * draw(st.integers(1, 3))
    return Architecture(
        family="llama",
        vocab_size=draw(st.integers(3, 40)),
        num_hidden_layers=draw(st.integers(1, 4)),
        hidden_size=heads * draw(st.integers(1, 5)),
        intermediate_size=draw(st.integers(1, 30)),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=2 * draw(st.integers(1, 6)),
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
    )


def transformers_llama(architecture: Architecture) -> Any:
    """A LlamaForCausalLM on the meta device, from the config that the family writes."""
    config = family_named("llama").config(LLAMA_CONFIG, architecture, tuple(range(architecture.num_hidden_layers)))
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig.from_dict(config, attn_implementation="eager")).eval()

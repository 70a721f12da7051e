"""Nemotron, the paper's own: LayerNorm whose weight counts from 1, and an MLP of squared ReLU without a gate."""

from nas.families.blocks import EMBEDDING, HEAD, LAYER, attention, mlp, norm, taps
from nas.families.family import Family

NEMOTRON = Family(
    model_type="nemotron",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm", bias=True),
        *attention(bias="attention_bias"),
        *norm(LAYER + "post_attention_layernorm", bias=True),
        *mlp("up_proj", "down_proj", bias="mlp_bias"),
        *norm("model.norm", bias=True),
        HEAD,
    ),
    taps=taps(gate=None),
)

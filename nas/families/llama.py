"""Llama: RMSNorm, grouped-query attention with rotary positions, gated MLP."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.constraint import Multiple
from nas.families.family import Family

LLAMA = Family(
    model_type="llama",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm"),
        *attention(bias="attention_bias"),
        *norm(LAYER + "post_attention_layernorm"),
        *gated_mlp(bias="mlp_bias"),
        FINAL_NORM,
        HEAD,
    ),
    taps=taps(),
    constraints=(Multiple("hidden_size", "num_attention_heads"),),
    ignored=(".rotary_emb.inv_freq",),
)

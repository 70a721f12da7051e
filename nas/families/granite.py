"""Granite: Llama whose embeddings, residuals, attention and logits have multipliers, which the config keeps."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.family import Family

GRANITE = Family(
    model_type="granite",
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
    logit_divisor="logits_scaling",
)

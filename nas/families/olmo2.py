"""OLMo 2: norms after attention and MLP instead of before, and one over all heads' queries together, and keys."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.family import Family
from nas.families.parameter import HEADS, KV_HEADS

OLMO2 = Family(
    model_type="olmo2",
    parameters=(
        EMBEDDING,
        *attention(bias="attention_bias"),
        *norm(LAYER + "self_attn.q_norm", dimension=HEADS),
        *norm(LAYER + "self_attn.k_norm", dimension=KV_HEADS),
        *norm(LAYER + "post_attention_layernorm"),
        *gated_mlp(),
        *norm(LAYER + "post_feedforward_layernorm"),
        FINAL_NORM,
        HEAD,
    ),
    taps=taps("post_attention_layernorm", "post_feedforward_layernorm"),
)

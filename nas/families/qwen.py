"""Qwen2: Llama with biases on queries, keys and values. Qwen3: none by default, and a norm on each head's q and k."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.config import ConfigRules
from nas.families.family import Family
from nas.families.layers import FULL, SLIDING, FromLayer, PerLayer
from nas.families.parameter import HEAD_DIM

_LATE_LAYERS_SLIDE = PerLayer(
    "layer_types",
    pattern=FromLayer("max_window_layers", default=28, before=FULL, beyond=SLIDING),
    only_if="use_sliding_window",
)

QWEN2 = Family(
    model_type="qwen2",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm"),
        *attention(bias=True, output_bias=False),
        *norm(LAYER + "post_attention_layernorm"),
        *gated_mlp(),
        FINAL_NORM,
        HEAD,
    ),
    taps=taps(),
    rules=ConfigRules(
        defaults={"num_key_value_heads": 32, "sliding_window": 4096},
        per_layer=(_LATE_LAYERS_SLIDE,),
        windowed_only_if="use_sliding_window",
    ),
)

QWEN3 = Family(
    model_type="qwen3",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm"),
        *attention(bias="attention_bias"),
        *norm(LAYER + "self_attn.q_norm", dimension=HEAD_DIM),
        *norm(LAYER + "self_attn.k_norm", dimension=HEAD_DIM),
        *norm(LAYER + "post_attention_layernorm"),
        *gated_mlp(),
        FINAL_NORM,
        HEAD,
    ),
    taps=taps(),
    rules=ConfigRules(
        defaults={"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096},
        per_layer=(_LATE_LAYERS_SLIDE,),
        windowed_only_if="use_sliding_window",
    ),
)

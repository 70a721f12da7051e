"""Mistral: Llama's parameters without biases; all layers may attend to a window."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.config import ConfigRules
from nas.families.family import Family

MISTRAL = Family(
    model_type="mistral",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm"),
        *attention(),
        *norm(LAYER + "post_attention_layernorm"),
        *gated_mlp(),
        FINAL_NORM,
        HEAD,
    ),
    taps=taps(),
    rules=ConfigRules(defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
)

"""SmolLM3: Llama in which every fourth layer has no rotary positions, and may attend to a window."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.config import ConfigRules
from nas.families.family import Family
from nas.families.layers import FULL, SLIDING, Periodic, PerLayer

SMOLLM3 = Family(
    model_type="smollm3",
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
    rules=ConfigRules(
        defaults={"num_key_value_heads": 4, "tie_word_embeddings": True},
        per_layer=(
            PerLayer("no_rope_layers", pattern=Periodic(4, last=0, others=1, key="no_rope_layer_interval")),
            PerLayer(
                "layer_types",
                pattern=Periodic(4, last=SLIDING, others=FULL, key="no_rope_layer_interval"),
                only_if="use_sliding_window",
            ),
        ),
        windowed_only_if="use_sliding_window",
    ),
)

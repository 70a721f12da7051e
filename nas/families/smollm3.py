"""SmolLM3: Llama in which every fourth layer has no rotary positions, and may attend to a window."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.config import ConfigRules
from nas.families.family import Family
from nas.families.layers import FULL, SLIDING, Following, Periodic, PerLayer

_NO_ROPE_LAYERS = PerLayer("no_rope_layers", pattern=Periodic(4, last=0, others=1, key="no_rope_layer_interval"))

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
        defaults={"num_key_value_heads": 4, "tie_word_embeddings": True, "sliding_window": None},
        per_layer=(
            _NO_ROPE_LAYERS,
            PerLayer(
                "layer_types",
                pattern=Following(_NO_ROPE_LAYERS, at_zero=SLIDING, others=FULL),
                only_if="use_sliding_window",
            ),
        ),
    ),
)

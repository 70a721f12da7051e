"""Phi-3: Llama with q, k and v in one matrix, one after another, and gate and up in another."""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, linear, norm, taps
from nas.families.config import ConfigRules, Setting
from nas.families.constraint import Product
from nas.families.family import Family
from nas.families.parameter import FFN, HEADS, HIDDEN, KV_HEADS

PHI3 = Family(
    model_type="phi3",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm"),
        *linear(LAYER + "self_attn.qkv_proj", HEADS + KV_HEADS + KV_HEADS, HIDDEN),
        *linear(LAYER + "self_attn.o_proj", HIDDEN, HEADS),
        *norm(LAYER + "post_attention_layernorm"),
        *linear(LAYER + "mlp.gate_up_proj", FFN + FFN, HIDDEN),
        *linear(LAYER + "mlp.down_proj", HIDDEN, FFN),
        FINAL_NORM,
        HEAD,
    ),
    taps=taps(up="mlp.gate_up_proj", gate="mlp.gate_up_proj"),
    rules=ConfigRules(
        defaults={"sliding_window": None},
        settings={
            "long_rope": Setting(
                paths=(("rope_parameters", "rope_type"), ("rope_scaling", "rope_type"), ("rope_scaling", "type")),
                values=("longrope", "su", "yarn"),
            )
        },
    ),
    # transformers holds the number of long rotary factors against hidden_size / num_attention_heads.
    constraints=(Product("hidden_size", ("num_attention_heads", "head_dim"), when="long_rope"),),
)

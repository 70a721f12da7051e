"""StableLM: LayerNorm, gated MLP; optionally a norm for each head's queries and keys, and MLP beside attention."""

from nas.families.blocks import EMBEDDING, HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.config import ConfigRules
from nas.families.constraint import HEAD_DIM_FOLLOWS
from nas.families.family import Family
from nas.families.parameter import HEAD_DIM, HIDDEN, Parameter

STABLELM = Family(
    model_type="stablelm",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm", bias=True),
        *attention(bias="attention_bias", output_bias=False),
        Parameter(
            LAYER + "self_attn.q_layernorm.norms.{u}.weight",
            (HEAD_DIM,),
            when="qk_layernorm",
            each="num_attention_heads",
        ),
        Parameter(
            LAYER + "self_attn.k_layernorm.norms.{u}.weight",
            (HEAD_DIM,),
            when="qk_layernorm",
            each="num_key_value_heads",
        ),
        # With attention and MLP side by side, one norm serves both.
        Parameter(LAYER + "post_attention_layernorm.weight", (HIDDEN,), unless="use_parallel_residual"),
        Parameter(LAYER + "post_attention_layernorm.bias", (HIDDEN,), unless="use_parallel_residual"),
        *gated_mlp(),
        *norm("model.norm", bias=True),
        HEAD,
    ),
    taps=taps(),
    rules=ConfigRules(
        keys={"head_dim": (), "attention_bias": ("use_qkv_bias",)},
        defaults={"num_key_value_heads": 32},
    ),
    constraints=(HEAD_DIM_FOLLOWS,),
)

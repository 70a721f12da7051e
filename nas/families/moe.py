"""Mixtures of experts: Mixtral is Mistral, and Qwen3-MoE is Qwen3, with a router and experts for an MLP.

Experts are fused in memory and one by one on disk; the tables are of what is on disk.
"""

from nas.families.blocks import EMBEDDING, FINAL_NORM, HEAD, LAYER, attention, expert_taps, experts, norm
from nas.families.config import ConfigRules, Requirement
from nas.families.family import Family
from nas.families.parameter import EXPERTS, HEAD_DIM, HIDDEN, Parameter

MIXTRAL = Family(
    model_type="mixtral",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm"),
        *attention(),
        *norm(LAYER + "post_attention_layernorm"),
        Parameter(LAYER + "block_sparse_moe.gate.weight", (EXPERTS, HIDDEN), matrix=True),
        *experts("block_sparse_moe", gate="w1", up="w3", down="w2"),
        FINAL_NORM,
        HEAD,
    ),
    taps=expert_taps("mlp.experts"),
    rules=ConfigRules(
        keys={"num_experts": ("num_local_experts", "num_experts")},
        defaults={"num_key_value_heads": 8, "num_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    ),
)

QWEN3_MOE = Family(
    model_type="qwen3_moe",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm"),
        *attention(bias="attention_bias"),
        *norm(LAYER + "self_attn.q_norm", dimension=HEAD_DIM),
        *norm(LAYER + "self_attn.k_norm", dimension=HEAD_DIM),
        *norm(LAYER + "post_attention_layernorm"),
        Parameter(LAYER + "mlp.gate.weight", (EXPERTS, HIDDEN), matrix=True),
        *experts("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
        FINAL_NORM,
        HEAD,
    ),
    taps=expert_taps("mlp.experts"),
    rules=ConfigRules(
        keys={"num_experts": ("num_experts", "num_local_experts"), "intermediate_size": ("moe_intermediate_size",)},
        defaults={
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "intermediate_size": 768,
            "sliding_window": 4096,
        },
        windowed_only_if="use_sliding_window",
        # Layers with an ordinary MLP among them would make the count depend on which layers go.
        requirements=(Requirement("mlp_only_layers", ([], None)), Requirement("decoder_sparse_step", (1,))),
    ),
)

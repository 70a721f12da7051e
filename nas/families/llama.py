"""Llama: RMSNorm, grouped-query attention with rotary positions, gated MLP."""

from nas.families.family import Dimension, Family, Parameter, Taps

_VOCAB = Dimension("vocab_size")
_HIDDEN = Dimension("hidden_size")
_FFN = Dimension("intermediate_size")
_HEADS = Dimension("num_attention_heads", "head_dim")
_KV_HEADS = Dimension("num_key_value_heads", "head_dim")

LLAMA = Family(
    model_type="llama",
    parameters=(
        Parameter("model.embed_tokens.weight", (_VOCAB, _HIDDEN), embedding=True),
        Parameter("model.layers.{i}.input_layernorm.weight", (_HIDDEN,)),
        Parameter("model.layers.{i}.self_attn.q_proj.weight", (_HEADS, _HIDDEN)),
        Parameter("model.layers.{i}.self_attn.q_proj.bias", (_HEADS,), when="attention_bias"),
        Parameter("model.layers.{i}.self_attn.k_proj.weight", (_KV_HEADS, _HIDDEN)),
        Parameter("model.layers.{i}.self_attn.k_proj.bias", (_KV_HEADS,), when="attention_bias"),
        Parameter("model.layers.{i}.self_attn.v_proj.weight", (_KV_HEADS, _HIDDEN)),
        Parameter("model.layers.{i}.self_attn.v_proj.bias", (_KV_HEADS,), when="attention_bias"),
        Parameter("model.layers.{i}.self_attn.o_proj.weight", (_HIDDEN, _HEADS)),
        Parameter("model.layers.{i}.self_attn.o_proj.bias", (_HIDDEN,), when="attention_bias"),
        Parameter("model.layers.{i}.post_attention_layernorm.weight", (_HIDDEN,)),
        Parameter("model.layers.{i}.mlp.gate_proj.weight", (_FFN, _HIDDEN)),
        Parameter("model.layers.{i}.mlp.gate_proj.bias", (_FFN,), when="mlp_bias"),
        Parameter("model.layers.{i}.mlp.up_proj.weight", (_FFN, _HIDDEN)),
        Parameter("model.layers.{i}.mlp.up_proj.bias", (_FFN,), when="mlp_bias"),
        Parameter("model.layers.{i}.mlp.down_proj.weight", (_HIDDEN, _FFN)),
        Parameter("model.layers.{i}.mlp.down_proj.bias", (_HIDDEN,), when="mlp_bias"),
        Parameter("model.norm.weight", (_HIDDEN,)),
        Parameter("lm_head.weight", (_VOCAB, _HIDDEN), embedding=True, unless="tie_word_embeddings"),
    ),
    taps=Taps(
        block="model.layers.{i}",
        norms=("model.layers.{i}.input_layernorm", "model.layers.{i}.post_attention_layernorm"),
        heads_input_of="model.layers.{i}.self_attn.o_proj",
        neurons_input_of="model.layers.{i}.mlp.down_proj",
    ),
    multiples=(("hidden_size", "num_attention_heads"),),
)

"""GPT-NeoX: q, k and v of each head side by side in one matrix, biases, attention and MLP side by side."""

from nas.families.blocks import linear, norm
from nas.families.config import ConfigRules
from nas.families.constraint import HEAD_DIM_FOLLOWS, OWN_KEYS_AND_VALUES
from nas.families.family import Family, Taps
from nas.families.parameter import FFN, HEADS, HIDDEN, VOCAB, Parameter, Span

_LAYER = "gpt_neox.layers.{i}."
_QKV_OF_EACH_HEAD = (Span("num_attention_heads", "head_dim", times=3),)

GPT_NEOX = Family(
    model_type="gpt_neox",
    parameters=(
        Parameter("gpt_neox.embed_in.weight", (VOCAB, HIDDEN), embedding=True),
        *norm(_LAYER + "input_layernorm", bias=True),
        *linear(_LAYER + "attention.query_key_value", _QKV_OF_EACH_HEAD, HIDDEN, bias="attention_bias"),
        *linear(_LAYER + "attention.dense", HIDDEN, HEADS, bias="attention_bias"),
        *norm(_LAYER + "post_attention_layernorm", bias=True),
        *linear(_LAYER + "mlp.dense_h_to_4h", FFN, HIDDEN, bias=True),
        *linear(_LAYER + "mlp.dense_4h_to_h", HIDDEN, FFN, bias=True),
        *norm("gpt_neox.final_layer_norm", bias=True),
        Parameter("embed_out.weight", (VOCAB, HIDDEN), embedding=True, unless="tie_word_embeddings"),
    ),
    taps=Taps(
        block="gpt_neox.layers.{i}",
        norms=(_LAYER + "input_layernorm", _LAYER + "post_attention_layernorm"),
        heads_input_of=_LAYER + "attention.dense",
        neurons_input_of=_LAYER + "mlp.dense_4h_to_h",
        up_output_of=_LAYER + "mlp.dense_h_to_4h",
    ),
    rules=ConfigRules(keys={"head_dim": (), "num_key_value_heads": ()}, defaults={"attention_bias": True}),
    constraints=(HEAD_DIM_FOLLOWS, OWN_KEYS_AND_VALUES),
    renamed={"lm_head.weight": "embed_out.weight"},
    ignored=(".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"),
)

"""GPT-2: learned positions, matrices stored transposed, q, k and v in one of them, one after another."""

from nas.families.blocks import HEAD, norm
from nas.families.config import ConfigRules, Requirement
from nas.families.constraint import HEAD_DIM_FOLLOWS, OWN_KEYS_AND_VALUES
from nas.families.family import Family, Taps
from nas.families.parameter import FFN, HEADS, HIDDEN, POSITIONS, VOCAB, Dimension, Parameter

_LAYER = "transformer.h.{i}."


def _conv1d(module: str, into: Dimension, out_of: Dimension) -> tuple[Parameter, ...]:
    """A linear layer whose weight is (out_of, into)."""
    return (Parameter(f"{module}.weight", (out_of, into), matrix=True, reads=0), Parameter(f"{module}.bias", (into,)))


GPT2 = Family(
    model_type="gpt2",
    parameters=(
        Parameter("transformer.wte.weight", (VOCAB, HIDDEN), embedding=True),
        Parameter("transformer.wpe.weight", (POSITIONS, HIDDEN), embedding=True),
        *norm(_LAYER + "ln_1", bias=True),
        *_conv1d(_LAYER + "attn.c_attn", HEADS + HEADS + HEADS, HIDDEN),
        *_conv1d(_LAYER + "attn.c_proj", HIDDEN, HEADS),
        *norm(_LAYER + "ln_2", bias=True),
        *_conv1d(_LAYER + "mlp.c_fc", FFN, HIDDEN),
        *_conv1d(_LAYER + "mlp.c_proj", HIDDEN, FFN),
        *norm("transformer.ln_f", bias=True),
        HEAD,
    ),
    taps=Taps(
        block="transformer.h.{i}",
        norms=(_LAYER + "ln_1", _LAYER + "ln_2"),
        heads_input_of=_LAYER + "attn.c_proj",
        neurons_input_of=_LAYER + "mlp.c_proj",
        up_output_of=_LAYER + "mlp.c_fc",
    ),
    rules=ConfigRules(
        keys={
            "num_hidden_layers": ("n_layer", "num_hidden_layers"),
            "hidden_size": ("n_embd", "hidden_size"),
            "intermediate_size": ("n_inner",),
            "num_attention_heads": ("n_head", "num_attention_heads"),
            "num_key_value_heads": (),
            "head_dim": (),
            "max_position_embeddings": ("n_positions", "max_position_embeddings"),
        },
        defaults={"tie_word_embeddings": True, "max_position_embeddings": 1024},
        intermediate_factor=4,
        # The first makes a layer's scores depend on its position, which a cut would change.
        requirements=(
            Requirement("scale_attn_by_inverse_layer_idx", (False, None)),
            Requirement("add_cross_attention", (False, None)),
        ),
    ),
    constraints=(HEAD_DIM_FOLLOWS, OWN_KEYS_AND_VALUES),
    prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),
)

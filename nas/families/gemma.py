"""Gemma 2 and 3: norms before and after attention and MLP, every second or sixth layer with full attention.

transformers multiplies embeddings by the square root of the config's hidden size, so a student's, which is smaller,
have to be larger by as much as that is; the tied head then sees them too, which its final norm takes back. Norms
multiply by 1 + weight.
"""

from nas.families.blocks import HEAD, LAYER, attention, gated_mlp, norm, taps
from nas.families.config import ConfigRules, Requirement
from nas.families.constraint import Multiple
from nas.families.family import Family
from nas.families.layers import FULL, SLIDING, Periodic, PerLayer
from nas.families.parameter import HEAD_DIM, HIDDEN, VOCAB, Parameter, Rescale

_EMBEDDING = Parameter(
    "model.embed_tokens.weight", (VOCAB, HIDDEN), embedding=True, rescale=Rescale("hidden_size", exponent=-0.5)
)
_FINAL_NORM = Parameter(
    "model.norm.weight",
    (HIDDEN,),
    rescale=Rescale("hidden_size", exponent=0.5, offset=1.0, when="tie_word_embeddings"),
)
_NORMS = (
    *norm(LAYER + "input_layernorm"),
    *norm(LAYER + "post_attention_layernorm"),
    *norm(LAYER + "pre_feedforward_layernorm"),
    *norm(LAYER + "post_feedforward_layernorm"),
)
_TAPS = taps("input_layernorm", "pre_feedforward_layernorm")
_CONSTRAINTS = (Multiple("hidden_size", "num_attention_heads"),)
# A model that looks ahead, as embedding models do, predicts no next token.
_REQUIREMENTS = (Requirement("use_bidirectional_attention", (False, None)),)
_DEFAULTS = {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True, "sliding_window": 4096}

GEMMA2 = Family(
    model_type="gemma2",
    fused_attention=False,  # It caps scores.
    parameters=(_EMBEDDING, *_NORMS, *attention(bias="attention_bias"), *gated_mlp(), _FINAL_NORM, HEAD),
    taps=_TAPS,
    logit_softcap="final_logit_softcapping",
    rules=ConfigRules(
        defaults=_DEFAULTS,
        per_layer=(PerLayer("layer_types", pattern=Periodic(2, last=FULL, others=SLIDING)),),
        requirements=_REQUIREMENTS,
    ),
    constraints=_CONSTRAINTS,
)

GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    parameters=(
        _EMBEDDING,
        *_NORMS,
        *attention(bias="attention_bias"),
        *norm(LAYER + "self_attn.q_norm", dimension=HEAD_DIM),
        *norm(LAYER + "self_attn.k_norm", dimension=HEAD_DIM),
        *gated_mlp(),
        _FINAL_NORM,
        HEAD,
    ),
    taps=_TAPS,
    logit_softcap="final_logit_softcapping",
    rules=ConfigRules(
        defaults=_DEFAULTS,
        per_layer=(
            PerLayer("layer_types", pattern=Periodic(6, last=FULL, others=SLIDING, key="sliding_window_pattern")),
        ),
        requirements=_REQUIREMENTS,
    ),
    constraints=_CONSTRAINTS,
)

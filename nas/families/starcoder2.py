"""StarCoder2: LayerNorm, biases throughout unless the config says otherwise, and an MLP without a gate."""

from nas.families.blocks import EMBEDDING, HEAD, LAYER, attention, mlp, norm, taps
from nas.families.config import ConfigRules
from nas.families.constraint import HEAD_DIM_FOLLOWS
from nas.families.family import Family

STARCODER2 = Family(
    model_type="starcoder2",
    parameters=(
        EMBEDDING,
        *norm(LAYER + "input_layernorm", bias=True),
        *attention(bias="attention_bias"),
        *norm(LAYER + "post_attention_layernorm", bias=True),
        *mlp("c_fc", "c_proj", bias="attention_bias"),
        *norm("model.norm", bias=True),
        HEAD,
    ),
    taps=taps(down="mlp.c_proj", up="mlp.c_fc", gate=None),
    rules=ConfigRules(
        keys={"head_dim": (), "attention_bias": ("use_bias",)},
        defaults={
            "num_key_value_heads": 2,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "sliding_window": None,
        },
    ),
    constraints=(HEAD_DIM_FOLLOWS,),
)

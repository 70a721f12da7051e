"""What an architecture costs to store and to run: exact counts of what each docstring names."""

from nas.architecture import Architecture
from nas.border import Border
from nas.families import family_named

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


class Cost(Border):
    """Parameters, bytes of weights, bytes of KV cache per token, and forward FLOPs per token."""

    parameters: int
    non_embedding_parameters: int
    weight_bytes: int
    kv_cache_bytes_per_token: int
    forward_flops_per_token: int


def cost(architecture: Architecture, *, dtype: str, sequence_length: int) -> Cost:
    """The costs of `architecture` stored in `dtype`; FLOPs are a mean over the tokens of one sequence."""
    family = family_named(architecture.family)
    parameters = family.count(architecture)
    return Cost(
        parameters=parameters,
        non_embedding_parameters=family.count(architecture, embedding=False),
        weight_bytes=parameters * BYTES_PER_ELEMENT[dtype],
        kv_cache_bytes_per_token=kv_cache_bytes_per_token(architecture, dtype),
        forward_flops_per_token=forward_flops_per_token(architecture, sequence_length),
    )


def kv_cache_bytes_per_token(architecture: Architecture, dtype: str) -> int:
    """Keys and values of every layer, for one token of one sequence."""
    per_layer = 2 * architecture.num_key_value_heads * architecture.head_dim
    return architecture.num_hidden_layers * per_layer * BYTES_PER_ELEMENT[dtype]


def forward_flops_per_token(architecture: Architecture, sequence_length: int) -> int:
    """Multiply-adds counted as two, of all matrix products, the head's included, averaged over a causal sequence.

    A token attends to (sequence_length + 1) / 2 tokens on average, once for the scores and once for the values.
    Norms, activations, softmax and the embedding look-up are left out.
    """
    family = family_named(architecture.family)
    matrices = (p for p in family.parameters if len(p.dimensions) == 2 and not p.embedding)
    weights = sum(parameter.count(architecture) for parameter in matrices)
    head = architecture.vocab_size * architecture.hidden_size
    attention_width = architecture.num_attention_heads * architecture.head_dim
    attention = architecture.num_hidden_layers * 2 * attention_width * (sequence_length + 1)
    return 2 * (weights + head) + attention

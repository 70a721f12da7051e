"""What an architecture costs to store and to run: exact counts of what each docstring names."""

from typing import Literal

from nas.architecture import Architecture, sizes_of
from nas.border import Border
from nas.families import Parameter, family_named
from nas.polynomial import Polynomial

Dtype = Literal["float32", "bfloat16", "float16", "float8", "int8"]
BYTES_PER_ELEMENT: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1, "int8": 1}

Counting = Literal["total", "non_embedding", "active"]
Phase = Literal["prefill", "decode"]

_LAYERS, _SLIDING = Polynomial.size("num_hidden_layers"), Polynomial.size("num_sliding_layers")


class Cost(Border):
    """What a shape costs to store and to serve, exactly.

    Parameters in all, without embeddings and head, and those that one token passes through (of the experts, as many
    as are chosen for it). Bytes of weights, and of the KV cache of `batch_size` sequences of `context` tokens, both in
    `dtype`. FLOPs of a forward pass per token: the mean over a whole sequence (prefill), and of the token that ends
    one (decode).
    """

    dtype: Dtype
    batch_size: int
    context: int

    parameters: int
    non_embedding_parameters: int
    active_parameters: int
    weight_bytes: int
    kv_cache_bytes: int
    prefill_flops_per_token: float
    decode_flops_per_token: int


class CostModel:
    """The costs of every shape that differs from `teacher` only along AXES, as polynomials in these sizes.

    Their variables are AXES and `num_sliding_layers`; see `sizes_of`.
    """

    def __init__(self, teacher: Architecture) -> None:
        self._teacher = teacher
        self._family = family_named(teacher.family)

    def parameters(self, counting: Counting) -> Polynomial:
        """Parameters in all, without embeddings and head, or those that one token passes through.

        Embeddings count as passed through whole. Of the experts, as many count as the router chooses for a token.
        """
        if counting == "active":
            return self._active(self._family.parameters)
        counted = [p for p in self._family.parameters if counting == "total" or not p.embedding]
        return self._family.polynomial(self._teacher, tuple(counted))

    def weight_bytes(self, dtype: Dtype) -> Polynomial:
        """Of all parameters, stored in `dtype`."""
        return self.parameters("total") * BYTES_PER_ELEMENT[dtype]

    def cache_bytes(self, dtype: Dtype, batch_size: int, context: int) -> Polynomial:
        """Keys and values of every layer for `batch_size` sequences of `context` tokens.

        Layers that attend to a window keep no more tokens than the window has.
        """
        window = min(context, self._teacher.sliding_window)
        tokens = (_LAYERS - _SLIDING) * context + _SLIDING * window
        key_and_value = Polynomial.size("num_key_value_heads") * (2 * self._teacher.head_dim)
        return tokens * key_and_value * (batch_size * BYTES_PER_ELEMENT[dtype])

    def prefill_flops(self, context: int) -> Polynomial:
        """Of one forward pass over one causal sequence of `context` tokens, the head's for every token included.

        Multiply-adds of all matrix products, counted as two. Norms, activations, softmax and the embedding look-up
        are left out. A token attends to itself and to all before it, or to those in the window.
        """
        window = min(context, self._teacher.sliding_window)
        pairs = context * (context + 1) // 2
        pairs_in_window = window * (window + 1) // 2 + (context - window) * window
        return self._products() * context + self._attention(pairs, pairs_in_window)

    def decode_flops(self, context: int) -> Polynomial:
        """Of the token that ends a sequence of `context` tokens, the others being in the cache."""
        return self._products() + self._attention(context, min(context, self._teacher.sliding_window))

    def _products(self) -> Polynomial:
        """Of one token with every matrix, and with the head."""
        matrices = tuple(p for p in self._family.parameters if p.matrix)
        head = Polynomial.size("hidden_size") * self._teacher.vocab_size
        return (self._active(matrices) + head) * 2

    def _attention(self, pairs: int, pairs_in_window: int) -> Polynomial:
        """Of scores and weighted values, for so many pairs of positions in a layer."""
        width = Polynomial.size("num_attention_heads") * self._teacher.head_dim
        return ((_LAYERS - _SLIDING) * pairs + _SLIDING * pairs_in_window) * width * 4

    def _active(self, parameters: tuple[Parameter, ...]) -> Polynomial:
        total = Polynomial({})
        for each in parameters:
            counted = each.polynomial(self._teacher)
            if each.each == "num_experts":
                counted = counted.along("num_experts")[1] * self._teacher.num_experts_per_tok
            total += counted
        return total


class Served:
    """The costs of shapes of one kind, stored in `dtype`, serving `batch_size` sequences of `context` tokens.

    `kind` is any of the shapes, such as the teacher: they differ along AXES only.
    """

    def __init__(self, kind: Architecture, *, dtype: Dtype, batch_size: int, context: int) -> None:
        self._stated = {"dtype": dtype, "batch_size": batch_size, "context": context}
        model = CostModel(kind)
        self._counts = {
            "parameters": model.parameters("total"),
            "non_embedding_parameters": model.parameters("non_embedding"),
            "active_parameters": model.parameters("active"),
            "weight_bytes": model.weight_bytes(dtype),
            "kv_cache_bytes": model.cache_bytes(dtype, batch_size, context),
            "decode_flops_per_token": model.decode_flops(context),
        }
        self._prefill, self._context = model.prefill_flops(context), context

    def cost(self, architecture: Architecture) -> Cost:
        sizes = sizes_of(architecture)
        counts = {name: polynomial.at(sizes) for name, polynomial in self._counts.items()}
        prefill = self._prefill.at(sizes) / self._context
        return Cost.model_validate({**self._stated, **counts, "prefill_flops_per_token": prefill})


def cost(architecture: Architecture, *, dtype: Dtype, batch_size: int, context: int) -> Cost:
    """The costs of one shape; see Served."""
    return Served(architecture, dtype=dtype, batch_size=batch_size, context=context).cost(architecture)

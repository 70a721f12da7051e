"""The parts that many tables share, named as Hugging Face checkpoints name them.

`bias` is True, False, or the Architecture's flag under which there is one.
"""

from dataclasses import replace

from nas.families.family import Taps
from nas.families.parameter import FFN, HEADS, HIDDEN, KV_HEADS, VOCAB, Dimension, Parameter

LAYER = "model.layers.{i}."
EMBEDDING = Parameter("model.embed_tokens.weight", (VOCAB, HIDDEN), embedding=True)
HEAD = Parameter("lm_head.weight", (VOCAB, HIDDEN), embedding=True, unless="tie_word_embeddings")
FINAL_NORM = Parameter("model.norm.weight", (HIDDEN,))


def linear(module: str, into: Dimension, out_of: Dimension, *, bias: bool | str = False) -> tuple[Parameter, ...]:
    """A linear layer's weight (into, out_of), and its bias (into,)."""
    weight = Parameter(f"{module}.weight", (into, out_of), matrix=True)
    if bias is False:
        return (weight,)
    return (weight, Parameter(f"{module}.bias", (into,), when=None if bias is True else bias))


def norm(name: str, *, bias: bool = False, dimension: Dimension = HIDDEN) -> tuple[Parameter, ...]:
    """A norm's weight, and its bias where it is a LayerNorm."""
    weight = Parameter(f"{name}.weight", (dimension,))
    return (weight, Parameter(f"{name}.bias", (dimension,))) if bias else (weight,)


def attention(*, bias: bool | str = False, output_bias: bool | str | None = None) -> tuple[Parameter, ...]:
    """q, k, v and o; o has the same bias as the others unless told."""
    module = LAYER + "self_attn."
    return (
        *linear(module + "q_proj", HEADS, HIDDEN, bias=bias),
        *linear(module + "k_proj", KV_HEADS, HIDDEN, bias=bias),
        *linear(module + "v_proj", KV_HEADS, HIDDEN, bias=bias),
        *linear(module + "o_proj", HIDDEN, HEADS, bias=bias if output_bias is None else output_bias),
    )


def mlp(up: str, down: str, *, gate: str | None = None, bias: bool | str = False) -> tuple[Parameter, ...]:
    """The matrices into and out of the neurons, named below `mlp`."""
    gates = () if gate is None else linear(f"{LAYER}mlp.{gate}", FFN, HIDDEN, bias=bias)
    return (
        *gates,
        *linear(f"{LAYER}mlp.{up}", FFN, HIDDEN, bias=bias),
        *linear(f"{LAYER}mlp.{down}", HIDDEN, FFN, bias=bias),
    )


def gated_mlp(*, bias: bool | str = False) -> tuple[Parameter, ...]:
    return mlp("up_proj", "down_proj", gate="gate_proj", bias=bias)


def experts(module: str, *, gate: str, up: str, down: str) -> tuple[Parameter, ...]:
    """A gated MLP for each expert, one by one as they are on disk."""
    expert = f"{LAYER}{module}.experts.{{u}}."
    return (
        Parameter(f"{expert}{gate}.weight", (FFN, HIDDEN), matrix=True, each="num_experts"),
        Parameter(f"{expert}{up}.weight", (FFN, HIDDEN), matrix=True, each="num_experts"),
        Parameter(f"{expert}{down}.weight", (HIDDEN, FFN), matrix=True, each="num_experts"),
    )


def taps(*norms: str, down: str = "mlp.down_proj", up: str = "mlp.up_proj", gate: str | None = "mlp.gate_proj") -> Taps:
    """Where most families are listened to; names count from the layer."""
    return Taps(
        block=LAYER.removesuffix("."),
        norms=tuple(LAYER + name for name in norms or ("input_layernorm", "post_attention_layernorm")),
        heads_input_of=LAYER + "self_attn.o_proj",
        neurons_input_of=LAYER + down,
        up_output_of=LAYER + up,
        gate_output_of=None if gate is None else LAYER + gate,
    )


def expert_taps(experts: str) -> Taps:
    """Where mixtures of experts are listened to."""
    return replace(taps(), neurons_input_of=None, up_output_of=None, gate_output_of=None, experts=LAYER + experts)

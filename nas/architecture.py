"""The shape of one model."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from nas.border import Border

Axis = Literal[
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
]
AXES: tuple[Axis, ...] = get_args(Axis)
"""What a search varies, in the order in which candidates are listed."""


class Architecture(Border):
    """The shape of a decoder-only model, legal by construction; field names are those of Hugging Face configs.

    `head_dim` is counted but never cut: rotary frequencies depend on it. `intermediate_size` is the width of the MLP,
    and with experts (`num_experts` above 0) of each of them. Of the layers, `num_sliding_layers` attend to the last
    `sliding_window` tokens only. `max_position_embeddings` is 0 where positions are not learned.
    """

    family: str
    vocab_size: int = Field(gt=0, lt=2**31)
    num_hidden_layers: int = Field(gt=0, lt=2**16)
    hidden_size: int = Field(gt=0, lt=2**31)
    intermediate_size: int = Field(gt=0, lt=2**31)
    num_attention_heads: int = Field(gt=0, lt=2**31)
    num_key_value_heads: int = Field(gt=0, lt=2**31)
    head_dim: int = Field(gt=0, lt=2**31)
    num_experts: int = Field(default=0, ge=0, lt=2**31)
    num_experts_per_tok: int = Field(default=0, ge=0, lt=2**31)
    num_sliding_layers: int = Field(default=0, ge=0, lt=2**31)
    sliding_window: int = Field(default=0, ge=0, lt=2**31)
    max_position_embeddings: int = Field(default=0, ge=0, lt=2**31)
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False
    long_rope: bool = False

    @model_validator(mode="after")
    def _heads_fill_groups(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads: {self.num_attention_heads} is not a multiple of the "
                f"{self.num_key_value_heads} key-value heads"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> Self:
        for part, whole in (("num_experts_per_tok", "num_experts"), ("num_sliding_layers", "num_hidden_layers")):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(f"{part}: {getattr(self, part)} is more than the {getattr(self, whole)} {whole}")
        if self.num_experts and not self.num_experts_per_tok:
            raise ValueError("num_experts_per_tok: 0 of the experts would do nothing")
        return self

    @property
    def axes(self) -> tuple[int, ...]:
        """The sizes along AXES."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def has_layer_types(self) -> bool:
        """Whether some layers attend to a window and others to everything."""
        return 0 < self.num_sliding_layers < self.num_hidden_layers

    @property
    def label(self) -> str:
        """Layers x hidden x intermediate x heads, as in `32 x 4096 x 16384 x 48/8`.

        Key-value heads follow a stroke where there are fewer; experts come last, as in `x 128 experts`.
        """
        grouped = self.num_key_value_heads != self.num_attention_heads
        heads = f"{self.num_attention_heads}/{self.num_key_value_heads}" if grouped else str(self.num_attention_heads)
        sizes = [str(self.num_hidden_layers), str(self.hidden_size), str(self.intermediate_size), heads]
        return " x ".join([*sizes, *([f"{self.num_experts} experts"] if self.num_experts else [])])

    def resized(self, **sizes: int) -> "Architecture":
        """The same kind of model with other sizes along AXES.

        Where every head has keys and values of its own, key-value heads follow the heads; layers that attend to a
        window keep their share, rounded half up. Raises ValueError (pydantic's) for an impossible shape.
        """
        if self.num_key_value_heads == self.num_attention_heads and "num_attention_heads" in sizes:
            sizes = {"num_key_value_heads": sizes["num_attention_heads"], **sizes}
        layers = sizes.get("num_hidden_layers", self.num_hidden_layers)
        sliding = sliding_share(self.num_sliding_layers, self.num_hidden_layers, layers)
        return Architecture.model_validate({**self.model_dump(), **sizes, "num_sliding_layers": sliding})


def sizes_of(architecture: Architecture) -> dict[str, int]:
    """The sizes that shapes cut out of one teacher differ in, by name: the variables of every cost."""
    return {name: getattr(architecture, name) for name in (*AXES, "num_sliding_layers")}


def sliding_share(num_sliding_layers: int, num_hidden_layers: int, remaining: int) -> int:
    """How many of the `remaining` layers attend to a window, if each type keeps its share.

    Halves are rounded up; of two or more layers, at least one of each type stays that the whole has.
    """
    share = (2 * num_sliding_layers * remaining + num_hidden_layers) // (2 * num_hidden_layers)
    if num_sliding_layers in (0, num_hidden_layers) or remaining == 1:
        return share
    return min(max(share, 1), remaining - 1)

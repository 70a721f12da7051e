"""The shape of one model."""

from typing import Self

from pydantic import Field, model_validator

from nas.border import Border

AXES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
"""What a search varies, in the order in which candidates are listed. Key-value groups always stay."""


class Architecture(Border):
    """The shape of a decoder-only model, legal by construction; field names are those of Hugging Face configs.

    `head_dim` is counted but never cut: rotary frequencies depend on it.
    """

    family: str
    vocab_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @model_validator(mode="after")
    def _heads_fill_groups(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads: {self.num_attention_heads} is not a multiple of the "
                f"{self.num_key_value_heads} key-value heads"
            )
        return self

    @property
    def axes(self) -> tuple[int, ...]:
        """The sizes along AXES."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def label(self) -> str:
        """Layers x hidden x intermediate x heads, as in `32 x 4096 x 16384 x 48`."""
        return " x ".join(map(str, self.axes))

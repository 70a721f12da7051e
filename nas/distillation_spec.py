"""What a student is taught by: losses on logits and hidden states, as the user chose or as the paper advises."""

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from nas.border import Border, Count, Number

LogitLoss = Literal["forward_kl", "reverse_kl", "jensen_shannon", "mse", "cosine", "cross_entropy", "none"]
HiddenTerm = Literal["embedding", "block_output", "mlp_input"]
HiddenLoss = Literal["cosine", "mse"]

DEEP_CUT = 1 / 3
"""Where more than this share of the layers goes, `auto` adds hidden states."""

DEEP_TERMS: tuple[HiddenTerm, ...] = ("embedding", "block_output")
"""The hidden states that the paper adds then (P1, best practice 6 and table 17)."""


class DistillationSpec(Border):
    """The losses that a student is retrained with: on logits, on hidden states, and on the text itself."""

    logits: LogitLoss = Field(
        default="forward_kl",
        description="forward_kl, reverse_kl, jensen_shannon, mse, cosine, cross_entropy (to the teacher), or none",
    )
    language_modeling: Number = Field(
        default=0.0, ge=0, description="the weight of the cross-entropy with the text itself, at least 0"
    )
    temperature: Number = Field(
        default=1.0, gt=0, description="what both models' logits are divided by before they are compared, above 0"
    )
    top_k: Count | None = Field(
        default=None,
        gt=1,
        description="compare only that many of the teacher's likeliest entries, at least 2; left out, all",
    )
    hidden_states: Literal["auto"] | tuple[HiddenTerm, ...] = Field(
        default="auto",
        description="a list of embedding, block_output, mlp_input, [] for none, or auto: embedding and block_output "
        "for candidates that lose more than a third of the layers, none for others",
    )
    hidden_layers: tuple[tuple[int, int], ...] = Field(
        default=((-3, -3),),
        description="pairs [teacher's layer, student's layer], from 0, or from -1 backwards, whose states are compared",
    )
    hidden_loss: HiddenLoss = Field(default="cosine", description="cosine or mse")
    hidden_weight: Number | None = Field(
        default=None,
        gt=0,
        description="the weight of the loss on hidden states, above 0; left out, it weighs as much as that on logits",
    )

    @field_validator("hidden_states", mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        """In one sentence, where pydantic has one for each way that it could be meant."""
        if given == "auto":
            return given
        if not isinstance(given, list | tuple):
            raise ValueError("is neither a list nor auto")
        if unknown := [each for each in given if each not in get_args(HiddenTerm)]:
            raise ValueError(f"has {unknown[0]}")
        if len(set(given)) < len(given):
            raise ValueError(f"names one twice: {', '.join(given)}")
        return given

    @field_validator("hidden_layers", mode="before")
    @classmethod
    def _pairs(cls, given: object) -> object:
        whole = isinstance(given, list | tuple) and all(
            isinstance(pair, list | tuple) and len(pair) == 2 and all(type(layer) is int for layer in pair)
            for pair in given
        )
        if not whole or not given:
            raise ValueError("is no list of pairs of whole numbers, such as [[-3, -3]]")
        return given

    @model_validator(mode="after")
    def _teaches_something(self) -> "DistillationSpec":
        if self.logits == "none" and not self.language_modeling and not (self.hidden_weight and self.named_terms):
            raise ValueError("logits is none, and neither language_modeling nor hidden states with a hidden_weight are")
        if self.logits == "none" and self.named_terms and self.hidden_weight is None:
            raise ValueError("logits is none, so that hidden_weight has nothing to follow and is to be given")
        return self

    @property
    def named_terms(self) -> tuple[HiddenTerm, ...]:
        """The hidden states that are compared whatever the shape."""
        return () if self.hidden_states == "auto" else self.hidden_states

    def not_cached(self) -> str | None:
        """What of this a teacher's cached answers, which are logits for forward KL, do not serve; None if they do."""
        if self.logits != "forward_kl":
            return f"has logits {self.logits}"
        if self.top_k is not None:
            return f"has top_k {self.top_k}"
        return f"has hidden_states {', '.join(self.named_terms)}" if self.named_terms else None

    def terms(self, teacher_layers: int, student_layers: int) -> tuple[HiddenTerm, ...]:
        """The hidden states that are compared for a student of so many layers; `auto` is decided here.

        P1, best practices 6 and 7: logits alone, unless depth is cut by much; how much is our own third.
        """
        if self.hidden_states != "auto":
            return self.hidden_states
        is_deep = teacher_layers - student_layers > DEEP_CUT * teacher_layers
        return DEEP_TERMS if is_deep and self.logits != "none" else ()

    def decided(self, teacher_layers: int, student_layers: int) -> "DistillationSpec":
        """The same for a student of so many layers, with nothing left to `auto`."""
        return self.model_copy(update={"hidden_states": self.terms(teacher_layers, student_layers)})

    def layer_pairs(self, teacher_layers: int, student_layers: int) -> tuple[tuple[int, int], ...]:
        """`hidden_layers` from 0; one that lies before the first or behind the last layer is that layer."""
        return tuple(
            (_position(teacher, teacher_layers), _position(student, student_layers))
            for teacher, student in self.hidden_layers
        )


def _position(layer: int, num_layers: int) -> int:
    return min(max(layer + num_layers if layer < 0 else layer, 0), num_layers - 1)
